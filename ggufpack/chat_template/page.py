"""What ``ggufpack template`` says: the TEMPLATE, what it can do, and what it cannot."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ggufpack.chat_template.content_form import in_its_form
from ggufpack.chat_template.go_strategy import Engine, Refusal
from ggufpack.chat_template.parity import Parity
from ggufpack.chat_template.readings import read_template
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.stops import derive_stops

Target = Literal["go", "native"]


@dataclass(frozen=True)
class TemplatePage:
    """One chat template, judged.

    Attributes:
        template: the Go TEMPLATE, ``None`` where none is written.
        strategy: how the chat template gets into Ollama.
        stop: stop strings.
        capabilities: what is reproduced.
        refused: what is not, and why.
        parity: of the strategy: the proof of the Go TEMPLATE, or what native mode passes on.
    """

    template: str | None
    strategy: Literal["go", "native", "refused"]
    stop: tuple[str, ...]
    capabilities: tuple[str, ...]
    refused: tuple[Refusal, ...]
    parity: Mapping[str, Parity]

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return {
            "template": self.template,
            "strategy": self.strategy,
            "stop": list(self.stop),
            "capabilities": list(self.capabilities),
            "refused": [one.to_json() for one in self.refused],
            "parity": {name: row.to_json() for name, row in self.parity.items()},
        }


def template_page(
    template: ChatTemplate,
    engine: Engine,
    *,
    special_texts: Collection[str],
    eos_texts: Sequence[str],
    target: Target | None,
) -> TemplatePage:
    """Learn, prove and choose.

    Args:
        template: compiled with the tokenizer's special tokens.
        engine: learns and renders Go TEMPLATEs.
        special_texts, eos_texts: see ``derive_stops``.
        target: ``"go"`` or ``"native"``; ``None`` takes the one that loses less, as a build does for a
            server that runs either.
    """
    template = in_its_form(template)
    readings = read_template(template, engine)
    stop = derive_stops(template, special_texts, eos_texts)
    go, native = readings.go, readings.native
    if target == "go" or (target is None and readings.prefers_go):
        strategy: Literal["go", "refused"] = "refused" if go.text is None else "go"
        return TemplatePage(go.text, strategy, stop, go.capabilities, go.refused, go.parity)
    if readings.traits.chat == "never":
        return TemplatePage(None, "refused", stop, (), go.refused, go.parity)
    return TemplatePage(None, "native", stop, native.capabilities, native.refused, native.parity)
