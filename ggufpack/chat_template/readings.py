"""Both ways of a chat template into Ollama, read side by side, and which of them loses less."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ggufpack.chat_template.answers import CALL, calling_answer
from ggufpack.chat_template.budget import LearningLimitError, learning_budget
from ggufpack.chat_template.conversation import Conversation, Message
from ggufpack.chat_template.findings import EXAMINATION_STOPPED, make_finding
from ggufpack.chat_template.go.parse import parse
from ggufpack.chat_template.go.tool_calls import reads_call
from ggufpack.chat_template.go_strategy import (
    CALL_SHAPES,
    Engine,
    GoTemplate,
    Refusal,
    asked_cases,
    is_refused,
    learn_template,
    stopped_search,
)
from ggufpack.chat_template.heldout import CAPABILITIES, Case, heldout_cases
from ggufpack.chat_template.learned import LearnedEngine
from ggufpack.chat_template.native import native_capabilities, native_refused
from ggufpack.chat_template.parity import GoRenderer, Judged, Parity, Reference, judge, make_reference, table
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.traits import Traits, probe_traits
from ggufpack.chat_template.triggers import find_triggers, trigger_cases, trigger_days
from ggufpack.errors import ChatTemplateError

ServerVersion = tuple[int, int, int]

# The first release that runs a GGUF's Jinja (Ollama: server/images.go, PreferChatTemplate).
FIRST_NATIVE_VERSION: ServerVersion = (0, 30, 0)
_QUESTION = Message("user", "Hello")


@dataclass(frozen=True)
class NativeReading:
    """What Ollama's native mode carries over, by its own code (``native.py``).

    ``parity`` counts the held-out conversations: ``exact`` are those that reach the template as they
    were given, ``semantic`` those with tools, whose JSON Ollama writes anew.
    """

    capabilities: tuple[str, ...]
    refused: tuple[Refusal, ...]
    parity: Mapping[str, Parity]


@dataclass(frozen=True)
class Readings:
    """One chat template, read both ways.

    Attributes:
        traits: of the chat template.
        go: the Go TEMPLATE.
        go_is_used: whether Ollama ≥ 0.30 runs it when the GGUF holds this Jinja.
        go_reads_calls: whether Ollama finds the model's calls in its answers when it runs the TEMPLATE;
            ``None`` when it has no tools.
        native: the GGUF's Jinja.
        unlike: texts, lengths and days of which the chat template makes something of its own that the Go
            TEMPLATE does not (``triggers.py``).
        cases: the conversations that both were asked.
    """

    traits: Traits
    go: GoTemplate
    go_is_used: bool
    go_reads_calls: bool | None
    native: NativeReading
    unlike: tuple[str, ...] = ()
    cases: tuple[Case, ...] = field(repr=False, default=())

    @property
    def prefers_go(self) -> bool:
        """Whether the Go TEMPLATE is the better one on a server that runs either.

        Contents with white space at their ends count only where the rest is equally good. Calls that come
        back as text are of no use: they count as lost.
        """
        if self.go.text is None or not self.go_is_used:
            return False
        lost, edges = self._lost(self.go)
        if self.go_reads_calls is False:
            lost += sum(case.shape in CALL_SHAPES for case in self.cases)
        return (lost, edges) <= self._lost(self.native)

    def _lost(self, reading: GoTemplate | NativeReading) -> tuple[int, int]:
        able = {*reading.capabilities, "calls"}
        lost = [case.shape for case in self.cases if case.needs - able or is_refused(case, reading.refused)]
        edges = lost.count("edge-spaces")
        return len(lost) - edges, edges

    def to_json(self) -> dict[str, Any]:
        """For the record: everything but the text."""
        return {
            "go": {
                **_reading_json(self.go),
                "used": self.go_is_used,
                "reads_calls": self.go_reads_calls,
                "unlike": list(self.unlike),
            },
            "native": _reading_json(self.native),
        }


def read_template(template: ChatTemplate, engine: Engine | None = None) -> Readings:
    """Learn and prove the Go TEMPLATE, and find what native mode does not carry.

    Args:
        template: the checkpoint's.
        engine: learns and renders Go TEMPLATEs.

    Raises:
        ChatTemplateError: GP441, even rendering what it is examined with takes too much (``budget.py``).
            When only learning does, there is no Go TEMPLATE.
    """
    engine = engine or LearnedEngine()
    with learning_budget():
        try:
            traits = probe_traits(template)
            reference = make_reference(template, traits, asked_cases(traits, heldout_cases()), thinks=False)
            native = _native(template, traits, reference)
        except LearningLimitError as error:
            found = make_finding(EXAMINATION_STOPPED, path=template.origin, problem=error)
            raise ChatTemplateError(
                found.message, action=found.action, path=found.path, key=found.key, finding=found.id
            ) from error
        try:
            go = learn_template(template, traits, engine)
            is_used = go.text is not None and engine.is_used(go.text, template.text)
            reads_calls = _reads_calls(template, traits, go)
            unlike = _unlike(template, traits, engine, go)
        except LearningLimitError as error:
            go, is_used, reads_calls = stopped_search(str(error), reference), False, None
            unlike = ()
    return Readings(traits, go, is_used, reads_calls, native, unlike, reference.cases)


def _reads_calls(template: ChatTemplate, traits: Traits, go: GoTemplate) -> bool | None:
    shapes = {one.shape for one in go.refused}
    if go.text is None or not (traits.tools or traits.calls) or "tools:call" in shapes:
        return None
    answer = calling_answer(template, traits)
    return answer is not None and reads_call(parse(go.text), answer, CALL.name, CALL.arguments)


def _unlike(template: ChatTemplate, traits: Traits, engine: Engine, go: GoTemplate) -> tuple[str, ...]:
    """What the chat template looks for itself, tried; names of what comes out wrong."""
    if go.text is None:
        return ()
    triggers = find_triggers(template)
    cases = trigger_cases(triggers, system="system" in go.capabilities)
    asked = [case for case in asked_cases(traits, cases) if not go.covers(case)]
    thinks = "thinking" in go.capabilities
    render = partial(engine.render, go.text)
    needs = frozenset((*go.capabilities, "calls"))
    found = _wrong(make_reference(template, traits, asked, thinks=thinks), render, needs)
    for day in trigger_days(triggers):
        question = Case("chat", "user", Conversation(f"the day {day:%Y-%m-%d}", (_QUESTION,)), frozenset())
        found += _wrong(
            make_reference(template, traits, (question,), thinks=thinks, days=(day,)), render, needs
        )
    if not triggers.all_of_them:
        found.append("more constants than are tried")
    return tuple(found)


def _wrong(reference: Reference, render: GoRenderer, needs: frozenset[str]) -> list[str]:
    judged = judge(reference, render, needs)
    return [one.case.conversation.name for one in judged if one.verdict == "wrong"]


def _native(template: ChatTemplate, traits: Traits, reference: Reference) -> NativeReading:
    if traits.chat == "never":
        return NativeReading((), (), dict.fromkeys(CAPABILITIES, Parity(0, 0, 0, 0)))
    refused = native_refused(template, traits)
    shapes = {one.shape for one in refused}
    capabilities = tuple(name for name in native_capabilities(traits) if name not in shapes)
    rows = table(reference, _passed_on(reference), lambda case: is_refused(case, refused))
    return NativeReading(capabilities, refused, rows)


def _passed_on(reference: Reference) -> list[Judged]:
    def judged(case: Case, prompt: str) -> Judged:
        return Judged(case, prompt, prompt, "semantic" if case.conversation.tools else "exact")

    return [
        judged(case, prompts[0]) for case, prompts in zip(reference.cases, reference.prompts, strict=True)
    ]


def _reading_json(reading: GoTemplate | NativeReading) -> dict[str, Any]:
    return {
        "capabilities": list(reading.capabilities),
        "refused": [one.to_json() for one in reading.refused],
        "parity": {name: row.to_json() for name, row in reading.parity.items()},
    }
