"""How a template's own macro writes an argument that is a list or an object, found by experiment.

One argument is rendered with many values. What no two of them share is the value; what it is made of
shows in the smallest lists and objects, and a deep one is the proof.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ggufpack.chat_template.conversation import Conversation, Message, ToolCall
from ggufpack.chat_template.learn.conversations import tool
from ggufpack.chat_template.learn.pieces import common_prefix, common_suffix
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.traits import Traits
from ggufpack.errors import ChatTemplateError

_A, _B, _K, _L = "QzaW", "QzbW", "QzkW", "QzlW"
_NUMBER = 7123
_DEEP: Any = {_K: [_A, {_K: _NUMBER, _L: [True, _B]}, {_L: False}], _L: {_K: {}, _L: [2.5, []]}}
_JSON: tuple[dict[str, Any], ...] = ({}, {"separators": (",", ":")}, {"indent": 4}, {"indent": 2})


@dataclass(frozen=True)
class Spelling:
    """What stands around texts, lists, objects and an object's keys, and in between.

    Attributes:
        empty: what a list without items is.
        again: around the key where it stands behind the value once more; ``None`` where it does not.
        null: ``None`` when an object leaves such entries out.
    """

    text: tuple[str, str]
    items: tuple[str, str, str]
    empty: str
    entries: tuple[str, str, str]
    key: tuple[str, str]
    again: tuple[str, str] | None
    true: str
    false: str
    null: str | None

    def spell(self, value: Any) -> str:
        """The value as the template writes it."""
        if isinstance(value, str):
            return value.join(self.text)
        if isinstance(value, dict):
            kept = {k: v for k, v in value.items() if v is not None or self.null is not None}
            return _joined(self.entries, [self._entry(k, v) for k, v in kept.items()])
        if isinstance(value, list):
            return _joined(self.items, [self.spell(item) for item in value]) if value else self.empty
        if value is None:
            return self.null or ""
        if isinstance(value, bool):
            return self.true if value else self.false
        return json.dumps(value)

    def _entry(self, key: str, value: Any) -> str:
        return key.join(self.key) + self.spell(value) + (key.join(self.again) if self.again else "")


def _joined(around: tuple[str, str, str], parts: list[str]) -> str:
    opening, between, closing = around
    return opening + between.join(parts) + closing


def probe_spelling(template: ChatTemplate, traits: Traits) -> Spelling | None:
    """The spelling of lists and objects in arguments; ``None`` when it is JSON, Python's, or unclear."""
    shown = _shown(template, traits)
    try:
        found = _measured(shown) if shown else None
        if shown is None or found is None or shown(_DEEP) != found.spell(_DEEP):
            return None
    except ValueError:
        return None
    known = [json.dumps(_DEEP, ensure_ascii=False, **options) for options in _JSON]
    return None if found.spell(_DEEP) in (*known, str(_DEEP)) else found


def _measured(shown: Callable[[Any], str]) -> Spelling:
    """Raises ``ValueError`` where a value does not hold what it is made of."""
    before, _, behind = shown(_A).partition(_A)
    first, second = before + _A + behind, before + _B + behind
    one, two = shown([_A]), shown([_A, _B])
    opening, closing = one[: one.index(first)], one[one.index(first) + len(first) :]
    between = two[len(opening) + len(first) : two.index(second)]
    single, double = shown({_K: _A}), shown({_K: _A, _L: _B})
    at_key, at_value = single.index(_K), single.index(first)
    colon = single[at_key + len(_K) : at_value]
    end = single[at_value + len(first) :]
    gap = double[at_value + len(first) : double.index(_L)]
    again = None
    if _K in end:
        start, _, end = end.partition(_K)
        gap = gap.partition(_K)[2]
        again = (start, common_prefix([end, gap]))
        end, gap = end[len(again[1]) :], gap[len(again[1]) :]
    lead = common_suffix([single[:at_key], gap])  # in front of each key
    without = shown({_K: None, _L: _A})
    null: str | None = None
    if _K in without:
        behind_null = len(_K.join(again)) if again else 0
        start_null = without.index(_K) + len(_K) + len(colon)
        null = without[start_null : without.index(_L) - len(gap) - behind_null]
    return Spelling(
        (before, behind),
        (opening, between, closing),
        shown([]),
        (single[: at_key - len(lead)], gap[: len(gap) - len(lead)], end),
        (lead, colon),
        again,
        shown(True),
        shown(False),
        null,
    )


def _shown(template: ChatTemplate, traits: Traits) -> Callable[[Any], str] | None:
    def render(value: Any) -> str:
        caller = Message("assistant", calls=(ToolCall("Qz000000W", "QznameW", {"Qzargument": value}),))
        chat = Conversation("value", (Message("user", "QzuserW"), caller), (tool(0),))
        try:
            return traits.turns(template, chat)
        except ChatTemplateError as error:
            raise ValueError(str(error)) from error

    try:
        texts = [render(value) for value in (_A, [_B], {_K: _L}, _NUMBER, True)]
    except ValueError:
        return None
    start, end = len(common_prefix(texts)), len(common_suffix(texts))
    if str(_NUMBER) != texts[3][start : len(texts[3]) - end]:
        return None
    return lambda value: _within(render(value), start, end)


def _within(text: str, start: int, end: int) -> str:
    return text[start : len(text) - end]
