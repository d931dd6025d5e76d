"""An adapter on a model that is registered: what such a build does otherwise than one of a whole model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggufpack.chat_template.prompt import Prompt
from ggufpack.checkpoint import Checkpoint
from ggufpack.checkpoint.adapter_layer import AdapterLayer, layer_findings, plan_layer
from ggufpack.errors import ChatTemplateError, UsageError
from ggufpack.gguf_header import read_gguf_header
from ggufpack.modelfile.model import Modelfile
from ggufpack.modelfile.options import OPTIONS
from ggufpack.registry import OllamaServer, RegisteredBase, registered_base
from ggufpack.registry.base import check_vocabulary, check_weights
from ggufpack.registry.findings import base_template
from ggufpack.registry.names import parse
from ggufpack.spec import DEFAULT_QUANTIZATION, BuildSpec, Finding

# in the place of a quantisation type: what the file is, and the tag
LAYER_TYPE = "LORA"
_MERGED = "GP120"


def types_of(spec: BuildSpec) -> tuple[str, ...]:
    """What the files of a spec are: quantisation types, or ``LAYER_TYPE``."""
    return spec.quantizations if spec.from_model is None else (LAYER_TYPE,)


def refuse_options(spec: BuildSpec, names: Sequence[str]) -> None:
    """Options that say nothing where no model is converted, or cannot be had.

    Args:
        spec: with ``from_model``.
        names: that the package gets.

    Raises:
        UsageError: one of them is set.
        InvalidModelNameError: ``from_model`` is no model's name.
    """
    name = parse(spec.from_model or "")
    if name.key in {parse(own).key for own in names}:
        raise UsageError(
            f"--from {name} is the model that would be made.", action="Give another --name.", key="from"
        )
    for key, is_set, why in (
        ("register", not spec.register, "the server has the base model, and registers the adapter on it"),
        ("quantization", spec.quantizations != (DEFAULT_QUANTIZATION,), "the weights are those of the model"),
        ("imatrix", spec.imatrix is not None, "the weights are those of the model"),
        ("store", spec.store is not None, "an offline store has no model of a server's"),
        ("verify", spec.verify == "fidelity", "the engine that compares logits runs no adapters"),
    ):
        if is_set:
            raise UsageError(
                f"--from {name}: {key} cannot be set so: {why}.", action="Leave it out.", key=key
            )


@dataclass(frozen=True)
class Layering:
    """The registered model, and what of the adapter goes on it."""

    base: RegisteredBase
    layer: AdapterLayer
    advice: str

    @classmethod
    def begin(cls, server: OllamaServer, from_model: str, checkpoint: Checkpoint) -> Layering:
        """Everything that can be refused before the adapter is converted.

        Raises:
            AdapterError: a GGUF LoRA cannot hold the adapter, or the model reads other tokens.
            ServerResponseError: there is no such model.
        """
        layer = plan_layer(checkpoint)
        advice = f"Merge it instead: ggufpack build {checkpoint.origin} --adapter {layer.folder}"
        base = registered_base(server, from_model)
        check_vocabulary(base, checkpoint.tokenizer, advice)
        return cls(base, layer, advice)

    def check(self, gguf: Path) -> None:
        """Whether the written adapter fits the model.

        Raises:
            AdapterError: it does not.
        """
        check_weights(self.base, read_gguf_header(gguf), self.advice)

    def findings(self, checkpoint: Checkpoint, prompt: Prompt) -> tuple[Finding, ...]:
        """What to know of it.

        Raises:
            ChatTemplateError: the adapter's chat template can be in a GGUF only, and the model's GGUF has
                another one.
        """
        template, plan = prompt.template, prompt.plan
        texts = (plan.go_template, plan.gguf_chat_template, None if template is None else template.text)
        same = self.base.shown.template in texts
        if template is not None and plan.go_template is None and not same:
            raise ChatTemplateError(
                f"{self.base.name} on {self.base.host} has another chat template than the adapter was trained"
                " with, and that one has no exact Go TEMPLATE, so it would have to be in the model's GGUF.",
                action=self.advice,
                path=template.origin,
                key="template",
            )
        found = layer_findings(self.layer, checkpoint, f"{self.base.name} on {self.base.host}")
        if not same:
            found.append(base_template(self.base.name))
        return tuple(found)

    def parameters(self, spec: BuildSpec) -> dict[str, tuple[str, ...]]:
        """The user's, then those of the registered model; stops belong to the adapter's chat template."""
        kept = {
            key: tuple(map(_text, values))
            for key, values in self.base.shown.parameters.items()
            if OPTIONS.get(key) not in (None, "text list")
        }
        return {**kept, **spec.parameters}

    def modelfile(self, assembled: Modelfile) -> Modelfile:
        """FROM the registered model, with its SYSTEM and licences unless there are others."""
        return replace(
            assembled,
            from_=self.base.name,
            adapters=(assembled.from_,),
            system=assembled.system or self.base.shown.system or None,
            license=(),
        )


def without_merge(findings: Sequence[Finding]) -> list[Finding]:
    """Without those that say that the adapter is merged."""
    return [finding for finding in findings if finding.id != _MERGED]


def _text(value: object) -> str:
    """A stored parameter as a Modelfile writes it; Go prints large whole numbers with an exponent."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
