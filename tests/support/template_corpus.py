"""A real chat template, learned as a build learns it, then judged by Ollama's own Go package.

The judge sees other conversations than the proof did: another seed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from ggufpack.chat_template.content_form import in_its_form
from ggufpack.chat_template.conversation import Conversation
from ggufpack.chat_template.go_strategy import GoTemplate, asked_cases
from ggufpack.chat_template.heldout import heldout_cases
from ggufpack.chat_template.parity import Judged, Parity, make_reference, table, verdict
from ggufpack.chat_template.readings import Readings, read_template
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.errors import ChatTemplateError
from tests.support.go_template_oracle.oracle import GoOracle
from tests.support.random_conversations import random_conversations

TOKENS = {"bos_token": "<BOS>", "eos_token": "<EOS>"}
SEED = 7
RANDOM = 40


@dataclass(frozen=True)
class Measured:
    """One template. ``parity`` is the judge's; ``wrong`` names what was claimed and is not so."""

    name: str
    seconds: float
    readings: Readings
    parity: dict[str, Parity]
    wrong: tuple[str, ...]

    @property
    def go(self) -> GoTemplate:
        return self.readings.go


def measure(path: Path, oracle: GoOracle, seed: int = SEED) -> Measured:
    """Learn, prove, and judge once more."""
    text = path.read_text(encoding="utf-8")
    template = in_its_form(ChatTemplate(text, special_tokens=TOKENS, origin=path))
    started = time.perf_counter()
    readings = read_template(template)
    seconds = time.perf_counter() - started
    go, traits = readings.go, readings.traits
    thinks = "thinking" in go.capabilities
    # the oracle's clock is the machine's
    reference = make_reference(
        template, traits, asked_cases(traits, heldout_cases(seed)), thinks=thinks, days=(datetime.now(),)
    )
    able = {*go.capabilities, "calls"}
    claimed = [
        (case, prompts[0])
        for case, prompts in zip(reference.cases, reference.prompts, strict=True)
        if go.text is not None and not case.needs - able and not go.covers(case)
    ]
    rendered = _render(oracle, go.text or "", [case.conversation for case, _ in claimed], thinks)
    judged = [
        Judged(case, expected, actual, verdict(expected, actual))
        for (case, expected), actual in zip(claimed, rendered, strict=True)
    ]
    wrong = tuple(one.case.conversation.name for one in judged if one.verdict == "wrong")
    if go.complete:
        wrong += _wrong_at_random(template, readings, oracle)
    return Measured(path.stem, seconds, readings, table(reference, judged, lambda _case: False), wrong)


def _wrong_at_random(template: ChatTemplate, readings: Readings, oracle: GoOracle) -> tuple[str, ...]:
    """Of conversations that mix everything: those that a TEMPLATE without refusals gets wrong."""
    traits, go = readings.traits, readings.go
    thinks = "thinking" in go.capabilities
    taken: list[Conversation] = []
    expected: list[str] = []
    for conversation in random_conversations(traits, traits.able, RANDOM):
        asked = replace(conversation, think=True) if thinks and conversation.think is None else conversation
        try:
            expected.append(traits.prompt(template, asked))
        except ChatTemplateError:
            continue
        taken.append(asked)
    rendered = _render(oracle, go.text or "", taken, thinks)
    compared = zip(taken, expected, rendered, strict=True)
    return tuple(one.roles for one, right, actual in compared if verdict(right, actual) == "wrong")


def _render(oracle: GoOracle, text: str, conversations: list[Conversation], thinks: bool) -> list[str]:
    requests = [
        {
            "template": text,
            "messages": one.for_ollama(),
            "tools": list(one.tools) or None,
            "think": True if thinks and one.think is None else one.think,
        }
        for one in conversations
    ]
    return [answer["text"] for answer in oracle.ask("render", requests)]
