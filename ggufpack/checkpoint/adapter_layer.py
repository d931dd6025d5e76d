"""An adapter as a layer of its own: what a GGUF LoRA can hold of it, as data.

llama.cpp adds s · B·A of each pair to its weight, with s = alpha / rank; one ``alpha`` counts for the
whole file, and the rank is the pair's own (llama.cpp b11434, src/llama-adapter.h ``get_scale``). PEFT's
scaling is any number for each module (alpha/√rank for rsLoRA, ``alpha_pattern``, a weight). Where
scaling · rank is one number for all modules it becomes the file's alpha; otherwise B is multiplied with
what is left, in float32. What is not a product of a linear layer cannot be in the file, and is refused
by name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ggufpack.checkpoint import Checkpoint
from ggufpack.checkpoint.adapted import same_bytes
from ggufpack.checkpoint.adapter import Adaptation, Adapter, Role
from ggufpack.checkpoint.findings import make_finding
from ggufpack.checkpoint.header import TensorInfo
from ggufpack.checkpoint.merge import AddProduct, Replace
from ggufpack.checkpoint.merge_plan import HEAD
from ggufpack.errors import AdapterError, UsageError
from ggufpack.spec import Finding

# what a role is called in a refusal
_REFUSED_ROLES = {
    Role.BIAS_OF_B: "a bias of a factor (lora_bias)",
    Role.EMBEDDING_A: "factors of an embedding",
    Role.EMBEDDING_B: "factors of an embedding",
    Role.MAGNITUDE: "DoRA's magnitudes",
    Role.TOKEN_ROWS: "trained rows of an embedding (trainable_token_indices)",
}


@dataclass(frozen=True)
class AdapterLayer:
    """What is written as GGUF.

    Attributes:
        folder: the adapter's.
        alpha: of the file.
        factors: name of a stored B → what it is multiplied with; those that stay as they are are left out.
        untrained: names of stored tensors that equal the base model's, and are left out.
        weights: number of weights of the base model that the products change.
    """

    folder: Path
    alpha: float
    factors: Mapping[str, float]
    untrained: tuple[str, ...]
    weights: int

    def to_json(self) -> dict[str, Any]:
        """As it goes to the worker."""
        return {**asdict(self), "folder": str(self.folder)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> AdapterLayer:
        """Back from the pipe."""
        return cls(**{**data, "folder": Path(data["folder"]), "untrained": tuple(data["untrained"])})


def plan_layer(checkpoint: Checkpoint) -> AdapterLayer:
    """How the one adapter of an opened model becomes a file of its own.

    Raises:
        UsageError: there is no adapter.
        AdapterError: several adapters, or one that a GGUF LoRA cannot hold as trained.
    """
    adaptation = checkpoint.adaptation
    if adaptation is None:
        raise UsageError(
            f"{checkpoint.folder} is no adapter, and --from puts an adapter on a registered model.",
            action="Give an adapter's folder (PEFT), or leave --from out.",
            path=checkpoint.folder,
            key="from",
        )
    first, *others = adaptation.adapters
    if others:
        raise _refused(
            adaptation, others[0].folder, None, "is a second adapter, and Ollama takes one adapter layer"
        )
    untrained = frozenset(_untrained(checkpoint, adaptation))
    _refuse_other_parts(adaptation, first, untrained)
    changes = [change for changes in adaptation.merge.changes.values() for change in changes]
    products = [change for change in changes if isinstance(change, AddProduct)]
    scaled = {product.b.name: product.scale * _rank(first, product) for product in products}
    alpha = max(scaled.values(), key=abs)
    if alpha == 0:
        raise _refused(
            adaptation, first.config.path, "lora_alpha", "gives a scaling of 0: it changes nothing"
        )
    return AdapterLayer(
        folder=first.folder.resolve(),
        alpha=alpha,
        factors={name: value / alpha for name, value in scaled.items() if value != alpha},
        untrained=tuple(sorted(untrained)),
        weights=sum(_weights(first, product) for product in products),
    )


def layer_findings(layer: AdapterLayer, checkpoint: Checkpoint, model: str) -> list[Finding]:
    """What to know of an adapter that is put on ``model`` of a server."""
    return [
        make_finding("GP128", f"{layer.folder} becomes a layer on {model}, in float32.", path=layer.folder),
        make_finding(
            "GP129",
            f"The tensors that the adapter changes have the same shapes in {model} and {checkpoint.origin};"
            " whether their values are the same was not checked.",
            path=checkpoint.origin,
            action=f"Make sure that {model} was made of this folder.",
        ),
    ]


def _untrained(checkpoint: Checkpoint, adaptation: Adaptation) -> Iterator[str]:
    """Whole tensors that PEFT saved because a neighbour was trained (``save_embedding_layers``)."""
    stored = {tensor.name: tensor for adapter in adaptation.adapters for tensor in adapter.whole.values()}
    for name, changes in adaptation.merge.changes.items():
        for change in changes:
            if not isinstance(change, Replace) or name in adaptation.merge.copies:
                continue
            tensor, own = stored[change.by.name], checkpoint.tensors[name]
            if (tensor.dtype, tensor.shape) == (own.dtype, own.shape) and same_bytes(tensor, own):
                yield tensor.name


def _refuse_other_parts(adaptation: Adaptation, adapter: Adapter, untrained: Collection[str]) -> None:
    """Everything that is not a product of a linear layer."""
    if adapter.config.magnitudes:
        raise _refused(
            adaptation, adapter.config.path, "use_dora", "asks for DoRA, which a GGUF LoRA cannot hold"
        )
    for name, tensor in adapter.whole.items():
        if tensor.name in untrained:
            continue
        raise _refused(adaptation, tensor.file, tensor.name, f"is {_whole(adapter, name)}")
    for parts in adapter.modules.values():
        for role, tensor in parts.items():
            if role in _REFUSED_ROLES:
                what = f"is {_REFUSED_ROLES[role]}, which a GGUF LoRA cannot hold"
                raise _refused(adaptation, tensor.file, tensor.name, what)
    for name, changes in adaptation.merge.changes.items():
        for change in changes:
            if not isinstance(change, AddProduct):
                continue
            if name == HEAD and name in adaptation.merge.copies:
                what = (
                    "trains the head of a model that ties it to its embedding, which a GGUF LoRA cannot hold"
                )
                raise _refused(adaptation, change.a.file, change.a.name, what)
            if change.transposed:
                what = "belongs to a Conv1D, whose factors llama.cpp's LoRA converter would swap"
                raise _refused(adaptation, change.a.file, change.a.name, what)


def _whole(adapter: Adapter, name: str) -> str:
    if name.endswith(".bias"):
        return "a trained bias, which a GGUF LoRA cannot hold"
    module = name.removesuffix(".weight")
    if any(module == saved or module.endswith(f".{saved}") for saved in adapter.config.modules_to_save):
        return "a module that was trained whole (modules_to_save), which a GGUF LoRA cannot hold"
    return "a whole tensor (PEFT saves embeddings that were resized), which a GGUF LoRA cannot hold"


def _refused(adaptation: Adaptation, path: Path, key: str | None, why: str) -> AdapterError:
    folders = " ".join(f"--adapter {adapter.folder}" for adapter in adaptation.adapters)
    return AdapterError(
        f"{path}: {'' if key is None else f'{key} '}{why}.",
        action=f"Merge it instead: ggufpack build {adaptation.base} {folders}",
        path=path,
        key=key,
    )


def _rank(adapter: Adapter, product: AddProduct) -> int:
    return _shape(adapter, product.b.name, Role.FACTOR_B)[1]


def _weights(adapter: Adapter, product: AddProduct) -> int:
    outputs = _shape(adapter, product.b.name, Role.FACTOR_B)[0]
    return outputs * _shape(adapter, product.a.name, Role.FACTOR_A)[1]


def _shape(adapter: Adapter, name: str, role: Role) -> tuple[int, ...]:
    return next(tensor.shape for tensor in _tensors(adapter, role) if tensor.name == name)


def _tensors(adapter: Adapter, role: Role) -> Iterable[TensorInfo]:
    return (parts[role] for parts in adapter.modules.values() if role in parts)
