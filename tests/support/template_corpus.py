"""A real chat template, learned as a build learns it, then judged by Ollama's own Go package.

The judge sees other conversations than the proof did: another seed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ggufpack.chat_template.content_form import in_its_form
from ggufpack.chat_template.go_strategy import GoTemplate, asked_cases
from ggufpack.chat_template.heldout import heldout_cases
from ggufpack.chat_template.parity import Judged, Parity, make_reference, table, verdict
from ggufpack.chat_template.readings import Readings, read_template
from ggufpack.chat_template.render import ChatTemplate
from tests.support.go_template_oracle.oracle import GoOracle

TOKENS = {"bos_token": "<BOS>", "eos_token": "<EOS>"}
SEED = 7


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
    requests = [
        {
            "template": go.text,
            "messages": case.conversation.for_ollama(),
            "tools": list(case.conversation.tools) or None,
            "think": True if thinks and case.conversation.think is None else case.conversation.think,
        }
        for case, _ in claimed
    ]
    judged = [
        Judged(case, expected, answer["text"], verdict(expected, answer["text"]))
        for (case, expected), answer in zip(claimed, oracle.ask("render", requests), strict=True)
    ]
    wrong = tuple(one.case.conversation.name for one in judged if one.verdict == "wrong")
    return Measured(path.stem, seconds, readings, table(reference, judged, lambda _case: False), wrong)
