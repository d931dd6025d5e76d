"""Proof of a Go TEMPLATE: its own text, evaluated, beside the checkpoint's template.

Counts per capability. A case that the Jinja refuses is no case. ``semantic`` is equal once the JSON in
both texts is written in one way: Ollama sorts keys and drops the blanks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any, Literal

from ggufpack.chat_template.budget import charge
from ggufpack.chat_template.conversation import Conversation
from ggufpack.chat_template.heldout import CAPABILITIES, Case
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.traits import Traits
from ggufpack.errors import ChatTemplateError

Verdict = Literal["exact", "semantic", "wrong"]
# What Ollama renders for a conversation on a day; raises ValueError where the TEMPLATE fails.
GoRenderer = Callable[[Conversation, date], str]

# Two days that differ in every part of a date: a text with today's date in it is right on one only.
DAYS = (datetime(2021, 3, 9, 7, 5, 1), datetime(2034, 12, 28, 16, 48, 39))


@dataclass(frozen=True)
class Judged:
    """One case: the trained prompt, what the TEMPLATE gives (``None``: it fails), and the verdict."""

    case: Case
    expected: str
    actual: str | None
    verdict: Verdict


@dataclass(frozen=True)
class Parity:
    """One row of the parity table. ``cases`` is the sum of the others."""

    cases: int
    exact: int
    semantic: int
    refused: int
    wrong: int = 0

    def to_json(self) -> dict[str, int]:
        """The row as ``ggufpack template --json`` prints it; nothing wrong is ever shipped."""
        return {
            "cases": self.cases,
            "exact": self.exact,
            "semantic": self.semantic,
            "refused": self.refused,
        }


@dataclass(frozen=True)
class Reference:
    """What the Jinja renders on the days: the right answers, made once for all attempts.

    ``thinks``: of a model that Ollama takes for a thinking one. ``days``: of the prompts of a case.
    """

    cases: tuple[Case, ...]
    prompts: tuple[tuple[str, ...], ...]
    thinks: bool
    days: tuple[datetime, ...] = DAYS


def make_reference(
    template: ChatTemplate,
    traits: Traits,
    cases: Sequence[Case],
    *,
    thinks: bool,
    days: tuple[datetime, ...] = DAYS,
) -> Reference:
    """The Jinja's prompts for those cases that it takes. On one day only, where no date is asked for.

    Where the model thinks, a server never leaves the switch unset (server/routes.go, ChatHandler), so
    cases that are not about thinking set it to what the template's own default is.
    """
    if thinks and traits.switches:
        default = traits.unset is not False
        cases = [_switched(case, default) for case in cases]
    days = days if traits.dates else days[:1]
    clocks = [template.with_clock(lambda day=day: day) for day in days]  # type: ignore[misc]
    taken, prompts = [], []
    for case in cases:
        try:
            rendered = tuple(traits.prompt(clock, case.conversation) for clock in clocks)
        except ChatTemplateError:
            continue
        taken.append(case)
        prompts.append(rendered)
    return Reference(tuple(taken), tuple(prompts), thinks, days)


def _switched(case: Case, default: bool) -> Case:
    if case.capability == "thinking" or case.conversation.think is not None:
        return case
    return replace(case, conversation=replace(case.conversation, think=default))


def judge(reference: Reference, render: GoRenderer, needs: frozenset[str]) -> tuple[Judged, ...]:
    """Judge a TEMPLATE on the cases that use no more than ``needs``."""
    judged = []
    for case, prompts in zip(reference.cases, reference.prompts, strict=True):
        if case.needs <= needs:
            asked = case.conversation
            if reference.thinks and asked.think is None:
                asked = replace(asked, think=True)  # as the server does for a caller who says nothing
            days = [
                _judge(case, asked, prompt, render, day)
                for prompt, day in zip(prompts, reference.days, strict=True)
            ]
            judged.append(max(days, key=lambda one: ("exact", "semantic", "wrong").index(one.verdict)))
    return tuple(judged)


def _judge(case: Case, asked: Conversation, expected: str, render: GoRenderer, day: datetime) -> Judged:
    try:
        actual = render(asked, day.date())
    except ValueError:
        return Judged(case, expected, None, "wrong")
    charge(len(actual))
    return Judged(case, expected, actual, verdict(expected, actual))


def verdict(expected: str, actual: str) -> Verdict:
    """How far two prompts are the same."""
    if actual == expected:
        return "exact"
    return "semantic" if canonical(actual) == canonical(expected) else "wrong"


def table(
    reference: Reference, judged: Iterable[Judged], refused: Callable[[Case], bool]
) -> dict[str, Parity]:
    """The parity table: every case that the Jinja takes is in one column of one row.

    Args:
        reference: all cases.
        judged: those that were asked.
        refused: whether a refusal covers a case; one that was not asked is refused with its capability.
    """
    verdicts = {id(one.case): one.verdict for one in judged if not refused(one.case)}
    rows = {}
    for capability in CAPABILITIES:
        cases = [case for case in reference.cases if case.capability == capability]
        found = [verdicts.get(id(case)) for case in cases]
        rows[capability] = Parity(
            cases=len(cases),
            exact=found.count("exact"),
            semantic=found.count("semantic"),
            refused=found.count(None),
            wrong=found.count("wrong"),
        )
    return rows


def canonical(text: str) -> str:
    """``text`` with every JSON object and array in it sorted and compact."""
    decoder = json.JSONDecoder()
    pieces = []
    position = done = 0
    while position < len(text):
        if text[position] in "{[":
            charge()
            try:
                value, end = decoder.raw_decode(text, position)
            except (ValueError, RecursionError):
                position += 1
                continue
            pieces += [text[done:position], _dump(value)]
            position = done = end
        else:
            position += 1
    return "".join([*pieces, text[done:]])


def _dump(value: Any) -> str:
    return json.dumps(_whole(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _whole(value: Any) -> Any:
    """Go prints 2.0 as 2."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return value
