"""Conversations made of what a chat template looks for: its own constants, put where it may find them.

A template can be right in every conversation that it is proven on and another one where a word, a length
or a day comes up. No number of conversations finds that; but what it compares with stands in its text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from jinja2 import nodes

from ggufpack.chat_template.conversation import Conversation, Message
from ggufpack.chat_template.heldout import Case
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.sandbox import limited

MAX_TEXTS = 200  # the largest of 80 real templates has 60
MAX_NUMBERS = 20
_MAX_TEXT = 1_000
_MAX_MESSAGES = 100
_MAX_LENGTH = 20_000
_FOLD_SECONDS = 1.0
_NO_CASES = frozenset(("role", "content", "type", "text"))
_YEAR = re.compile(r"\b(19|20|21)\d\d\b")
_DAY = re.compile(r"\b(\d{4})-?(\d\d)-?(\d\d)\b")
# each month, each day of the week, both halves of a day and of a month
_ANY_DAYS = tuple(datetime(2022 + i, 1 + 5 * i % 12, 1 + 7 * i % 28, 11 * i % 24) for i in range(14))


@dataclass(frozen=True)
class Triggers:
    """What a template compares with.

    Attributes:
        texts: its constants that are texts and no names of fields, computed ones included.
        numbers: its integers above 1.
        clock: whether it asks for the time.
        all_of_them: whether none was left out.
    """

    texts: tuple[str, ...]
    numbers: tuple[int, ...]
    clock: bool
    all_of_them: bool


def find_triggers(template: ChatTemplate) -> Triggers:
    """Read the constants of a template, those of its form for tools included.

    Raises:
        ChatTemplateError: GP420, nested too deeply.
    """
    found: dict[object, None] = {}
    clock = False
    for tree in template.trees:
        fields = {id(node.arg) for node in tree.find_all(nodes.Getitem)}
        printed = {id(item) for node in tree.find_all(nodes.Output) for item in node.nodes}
        clock = clock or any(name.name == "strftime_now" for name in tree.find_all(nodes.Name))
        kinds = (nodes.Const, nodes.Concat, nodes.BinExpr, nodes.Filter, nodes.Neg)
        for node in tree.find_all(kinds):
            if id(node) not in fields and id(node) not in printed:
                found[_folded(node)] = None
    texts = [one for one in found if isinstance(one, str) and one.strip() and one not in _NO_CASES]
    numbers = sorted({one for one in found if type(one) is int and 1 < one <= _MAX_LENGTH})
    short = [text for text in texts if len(text) <= _MAX_TEXT]
    complete = len(short) == len(texts) <= MAX_TEXTS and len(numbers) <= MAX_NUMBERS
    return Triggers(tuple(short[:MAX_TEXTS]), tuple(numbers[:MAX_NUMBERS]), clock, complete)


def _folded(node: nodes.Node) -> object:
    """The value of a constant expression; ``None`` for any other."""
    if not isinstance(node, nodes.Expr):
        return None
    if isinstance(node, nodes.Add):  # the sandbox folds no operators
        left, right = _folded(node.left), _folded(node.right)
        return left + right if isinstance(left, str) and isinstance(right, str) else None
    try:
        with limited(_FOLD_SECONDS, _MAX_LENGTH):
            value: Any = node.as_const()
    except Exception:  # noqa: BLE001  it is no constant, or a filter of it fails
        return None
    return value if type(value) in (str, int) else None


def trigger_cases(triggers: Triggers, *, system: bool) -> tuple[Case, ...]:
    """Conversations with these texts and of these lengths; named by what is tried."""
    return tuple(
        Case("chat", conversation.roles, conversation, frozenset({"system"} if has_system else ()))
        for conversation, has_system in _conversations(triggers)
        if system or not has_system
    )


def trigger_days(triggers: Triggers) -> tuple[datetime, ...]:
    """Days on which a template that asks for the time may be another one; none for others."""
    if not triggers.clock:
        return ()
    days = list(_ANY_DAYS)
    for text in (*triggers.texts, *map(str, triggers.numbers)):
        days += [datetime(int(year[0]) + k, 1, 2, 13) for year in _YEAR.finditer(text) for k in (-1, 0, 1)]
        for year, month, day in _DAY.findall(text):
            try:
                named = date(int(year), int(month), int(day))
                near = [named + timedelta(days=k) for k in (-1, 0, 1)]
            except (ValueError, OverflowError):
                continue
            days += [datetime(one.year, one.month, one.day, 13) for one in near]
    return tuple(dict.fromkeys(days))


def _conversations(triggers: Triggers) -> Iterator[tuple[Conversation, bool]]:
    every = " ".join(triggers.texts)[:_MAX_LENGTH]
    for text in (*triggers.texts, every) if len(triggers.texts) > 1 else triggers.texts:
        name = f"the text {text[:40]!r}"
        yield _chat(f"{name} of a user", text), False
        yield _chat(f"{name} in a user's text", f"Say {text} now.", "Yes.", f"{text} and {text}"), False
        yield _chat(f"{name} in an answer", "Hello", f"Say {text} now.", "Go on."), False
        headed = _chat(f"{name} in a system text", "Hello")
        messages = (Message("system", f"Say {text} now."), *headed.messages)
        yield Conversation(headed.name, messages), True
    for number in triggers.numbers:
        for size in (number - 1, number, number + 1):
            yield _chat(f"a text of {size} characters", "x" * size), False
            yield _chat(f"a text of {size} words", "x " * (size - 1) + "x"), False
            if size <= _MAX_MESSAGES:
                turns = size if size % 2 else size + 1
                yield _chat(f"{turns} messages", *(f"Text {i}." for i in range(turns))), False


def _chat(name: str, *texts: str) -> Conversation:
    roles: Sequence[Any] = ("user", "assistant")
    return Conversation(name, tuple(Message(roles[i % 2], text) for i, text in enumerate(texts)))
