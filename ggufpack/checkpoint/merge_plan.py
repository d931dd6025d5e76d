"""From adapters and the tensors of their base to a ``Merge``. Pure: names, shapes and dtypes only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ggufpack.checkpoint.adapter import Adapter, Role
from ggufpack.checkpoint.header import TensorInfo
from ggufpack.checkpoint.merge import (
    AddProduct,
    AddVector,
    Change,
    Merge,
    Replace,
    ReplaceRows,
    Stored,
    in_order,
)
from ggufpack.errors import AdapterError

_FLOATS = frozenset({"F32", "F16", "BF16"})
# transformers builds these of Conv1D, which stores its weight [inputs, outputs]
_CONV1D_MODELS = frozenset({"gpt2", "openai-gpt"})
HEAD = "lm_head.weight"


@dataclass(frozen=True)
class BaseModel:
    """What a plan needs to know of the base model.

    Attributes:
        tensors: its tensors by name.
        model_type: of config.json.
        embedding: the token embedding's name; ``None`` when it is not known.
        tied: the head is the embedding, and not stored.
    """

    tensors: Mapping[str, TensorInfo]
    model_type: str
    embedding: str | None
    tied: bool


def plan_merge(base: BaseModel, adapters: Sequence[Adapter]) -> Merge:
    """What the adapters do to each tensor.

    Raises:
        AdapterError: a tensor that fits no tensor of the base model, or two adapters that cannot be
            merged together.
    """
    plan = _Plan(base)
    for adapter in adapters:
        if adapter.config.magnitudes and (len(adapters) > 1 or adapter.weight != 1):
            raise _cannot_weigh(adapter, adapter.config.path, "use_dora", "a DoRA adapter")
        for module, parts in adapter.modules.items():
            plan.add_module(adapter, module, parts)
        for parameter, tensor in adapter.whole.items():
            plan.add_whole(adapter, parameter, tensor)
    return plan.merge(adapters)


@dataclass
class _Plan:
    """Changes as they are collected."""

    base: BaseModel
    changes: dict[str, list[Change]] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    # --- one module or parameter ----------------------------------------------

    def add_module(self, adapter: Adapter, module: str, parts: Mapping[Role, TensorInfo]) -> None:
        first = next(iter(parts.values()))
        name = self._find(adapter, f"{module}.weight", first)
        if Role.FACTOR_A in parts:
            self._add_product(adapter, module, name, parts, parts[Role.FACTOR_A], parts[Role.FACTOR_B])
        if Role.EMBEDDING_A in parts:
            a, b = parts[Role.EMBEDDING_A], parts[Role.EMBEDDING_B]
            self._add_product(adapter, module, name, parts, a, b, embedding=True)
        if Role.BIAS_OF_B in parts:
            bias = self._find(adapter, f"{module}.bias", parts[Role.BIAS_OF_B])
            self._same_shape(adapter, parts[Role.BIAS_OF_B], bias)
            scale = adapter.config.scaling(module) * adapter.weight
            self._add(bias, AddVector(_stored(parts[Role.BIAS_OF_B]), scale))
        if Role.TOKEN_ROWS in parts:
            self._replace_rows(adapter, module, name, parts[Role.TOKEN_ROWS])

    def add_whole(self, adapter: Adapter, parameter: str, tensor: TensorInfo) -> None:
        """A parameter that was trained, or saved, whole."""
        if parameter == HEAD and self.base.tied and HEAD not in self.base.tensors:
            name = HEAD
            self.changes.setdefault(HEAD, [])
        else:
            name = self._find(adapter, parameter, tensor)
        if adapter.weight != 1:
            raise _cannot_weigh(adapter, tensor.file, tensor.name, "a parameter that was trained whole")
        if any(isinstance(change, Replace) for change in self.changes.get(name, ())):
            raise AdapterError(
                f"{tensor.file}: {tensor.name} replaces {name} of the base model, which another adapter"
                " replaces too.",
                action="Give one of the two adapters only.",
                path=tensor.file,
                key=tensor.name,
            )
        shape = self._shape(name)
        if tensor.shape != shape:
            resized = name in (self.base.embedding, HEAD) and tensor.shape[1:] == shape[1:]
            if not resized:
                raise self._wrong_shape(adapter, tensor, name)
            self.shapes[name] = tensor.shape
        self._add(name, Replace(_stored(tensor)))

    def _add_product(
        self,
        adapter: Adapter,
        module: str,
        name: str,
        parts: Mapping[Role, TensorInfo],
        a: TensorInfo,
        b: TensorInfo,
        *,
        embedding: bool = False,
    ) -> None:
        rank = adapter.config.rank_of(module)
        if len(a.shape) != 2 or len(b.shape) != 2:
            raise self._unsupported_shape(adapter, a if len(a.shape) != 2 else b)
        if a.shape[0] != rank or b.shape[1] != rank:
            raise AdapterError(
                f"{a.file}: the factors of {module} are {list(a.shape)} and {list(b.shape)}, and its rank is"
                f" {rank} by {adapter.config.path.name}.",
                action="Save the adapter again: its configuration belongs to other weights.",
                path=a.file,
                key=a.name,
            )
        outputs, inputs = b.shape[0], a.shape[1]
        transposed = embedding or self._is_transposed(adapter, name, outputs, inputs)
        # an adapter of a resized model has its embedding's new size
        shape = self.shapes.get(name) or self._saved_shape(adapter, name) or self._shape(name)
        if shape != ((inputs, outputs) if transposed else (outputs, inputs)):
            raise self._wrong_shape(adapter, a, name, f"{list(b.shape)} · {list(a.shape)}")
        magnitude = parts.get(Role.MAGNITUDE)
        if magnitude is not None and magnitude.shape != (outputs,):
            raise self._unsupported_shape(adapter, magnitude)
        self._add(
            name,
            AddProduct(
                _stored(a),
                _stored(b),
                adapter.config.scaling(module) * adapter.weight,
                transposed,
                None if magnitude is None else _stored(magnitude),
            ),
        )

    def _is_transposed(self, adapter: Adapter, name: str, outputs: int, inputs: int) -> bool:
        """Whether W is [inputs, outputs]. PEFT sees it by the module's class, whatever the config says."""
        if outputs != inputs:
            return self._shape(name) == (inputs, outputs)
        return self.base.model_type in _CONV1D_MODELS or adapter.config.transposed

    def _replace_rows(self, adapter: Adapter, module: str, name: str, tensor: TensorInfo) -> None:
        named = adapter.config.token_rows
        matching = [key for key in named if not key or module == key or module.endswith(f".{key}")]
        if not matching:
            raise AdapterError(
                f"{tensor.file}: {tensor.name} has rows, and trainable_token_indices names none of {module}.",
                action="Save the adapter again.",
                path=adapter.config.path,
                key="trainable_token_indices",
            )
        rows = named[matching[0]]
        shape = self.shapes.get(name) or self._saved_shape(adapter, name) or self._shape(name)
        if tensor.shape != (len(rows), *shape[1:]):
            raise self._wrong_shape(adapter, tensor, name)
        if adapter.weight != 1:
            raise _cannot_weigh(adapter, tensor.file, tensor.name, "rows of trained tokens")
        taken = {
            row
            for change in self.changes.get(name, ())
            if isinstance(change, ReplaceRows)
            for row in change.rows
        }
        outside = [row for row in rows if row >= shape[0]]
        if outside or taken & set(rows):
            what = f"row {outside[0]}, and {name} has {shape[0]:,}" if outside else "rows of another adapter"
            raise AdapterError(
                f"{adapter.config.path}: trainable_token_indices names {what}.",
                action="Give the base model that the adapter was trained on, with one such adapter.",
                path=adapter.config.path,
                key="trainable_token_indices",
            )
        self._add(name, ReplaceRows(_stored(tensor), rows))

    # --- the whole ------------------------------------------------------------

    def merge(self, adapters: Sequence[Adapter]) -> Merge:
        copies: dict[str, str] = {}
        embedding = self.base.embedding
        if self.base.tied and embedding is not None and HEAD not in self.base.tensors:
            copies = self._tied(embedding, adapters)
        self._check_vocabulary(copies)
        return Merge(
            {name: in_order(changes) for name, changes in sorted(self.changes.items()) if changes},
            {name: shape for name, shape in self.shapes.items() if name in self.changes},
            copies,
        )

    def _tied(self, embedding: str, adapters: Sequence[Adapter]) -> dict[str, str]:
        """Whether the head is still the embedding after training; PEFT trains a module, not its twin."""
        head = self.changes.get(HEAD, [])
        changed = self.changes.get(embedding, [])
        own = [adapter for adapter in adapters if _trains_alone(adapter, embedding)]
        if not head and (not own or all(isinstance(change, ReplaceRows) for change in changed)):
            return {}  # saved because it was resized, or token rows, which PEFT changes in both
        if head and all(adapter.config.keeps_tying for adapter in adapters):
            del self.changes[HEAD]
            self.shapes.pop(HEAD, None)
            return {}
        return {HEAD: embedding}

    def _check_vocabulary(self, copies: Mapping[str, str]) -> None:
        """Embedding and head have as many rows as each other."""
        embedding = self.base.embedding
        separate = HEAD in self.base.tensors or HEAD in copies
        if embedding is None or not separate or not {embedding, HEAD} & self.shapes.keys():
            return
        sizes = [self.shapes.get(name, self._shape(name))[0] for name in (embedding, HEAD)]
        if sizes[0] != sizes[1]:
            resized = next(name for name in (embedding, HEAD) if name in self.shapes)
            stored = next(change.by for change in self.changes[resized] if isinstance(change, Replace))
            raise AdapterError(
                f"{stored.file}: with {stored.name} the embedding has {sizes[0]:,} rows and the head"
                f" {sizes[1]:,}.",
                action="Save the adapter again with save_embedding_layers=True, which saves both.",
                path=stored.file,
                key=stored.name,
            )

    # --- names and shapes -------------------------------------------------------

    def _find(self, adapter: Adapter, name: str, tensor: TensorInfo) -> str:
        """The base model's own name: a module may lack its model's prefix, or have it in addition."""
        names = self.base.tensors
        if name == HEAD and name not in names and self.base.tied:
            return HEAD
        shorter = name.partition(".")[2]
        prefixed = (f"{prefix}.{name}" for prefix in sorted({key.partition(".")[0] for key in names}))
        found = next((candidate for candidate in (name, shorter, *prefixed) if candidate in names), None)
        if found is None:
            raise AdapterError(
                f"{tensor.file}: {tensor.name} fits no tensor of the base model, which has no {name}.",
                action=f"Give the base model that the adapter was trained on{_named(adapter)}; if it is"
                " that one, merge the adapter with PEFT.",
                path=tensor.file,
                key=tensor.name,
            )
        if names[found].dtype not in _FLOATS:
            raise AdapterError(
                f"{names[found].file}: {found} is stored as {names[found].dtype}, and an adapter can be"
                " merged into F32, F16 and BF16 only.",
                action="Give the base model in BF16, as it was before it was quantised.",
                path=names[found].file,
                key=found,
            )
        return found

    def _shape(self, name: str) -> tuple[int, ...]:
        stored = self.base.tensors.get(name)
        if stored is None and name == HEAD and self.base.embedding is not None:
            return self.base.tensors[self.base.embedding].shape
        if stored is None:
            raise KeyError(name)
        return stored.shape

    def _saved_shape(self, adapter: Adapter, name: str) -> tuple[int, ...] | None:
        """Of the tensor that the adapter brings in place of the base model's."""
        return next(
            (
                tensor.shape
                for parameter, tensor in adapter.whole.items()
                if name in (parameter, parameter.partition(".")[2]) or name.endswith(f".{parameter}")
            ),
            None,
        )

    def _same_shape(self, adapter: Adapter, tensor: TensorInfo, name: str) -> None:
        if tensor.shape != self._shape(name):
            raise self._wrong_shape(adapter, tensor, name)

    def _add(self, name: str, change: Change) -> None:
        self.changes.setdefault(name, []).append(change)

    def _wrong_shape(
        self, adapter: Adapter, tensor: TensorInfo, name: str, shape: str | None = None
    ) -> AdapterError:
        return AdapterError(
            f"{tensor.file}: {tensor.name} has the shape {shape or list(tensor.shape)}, and {name} of the"
            f" base model {list(self._shape(name))}.",
            action=f"Give the base model that the adapter was trained on{_named(adapter)}.",
            path=tensor.file,
            key=tensor.name,
        )

    def _unsupported_shape(self, adapter: Adapter, tensor: TensorInfo) -> AdapterError:
        return AdapterError(
            f"{tensor.file}: {tensor.name} has the shape {list(tensor.shape)}; ggufpack merges adapters of"
            " linear layers and embeddings.",
            action="Merge the adapter with PEFT. (A factor of one dimension or without elements was saved"
            " by DeepSpeed or FSDP without gathering it: save it again.)",
            path=adapter.weights_file,
            key=tensor.name,
        )


def _trains_alone(adapter: Adapter, embedding: str) -> bool:
    """Whether the adapter trained the embedding as a module of its own, apart from a tied head."""
    module = embedding.removesuffix(".weight")
    if adapter.config.keeps_tying:
        return False
    with_factors = [name for name, parts in adapter.modules.items() if Role.EMBEDDING_A in parts]
    trained = (*with_factors, *adapter.config.modules_to_save)
    return any(
        module == name or module.endswith(f".{name}") or name.endswith(f".{module}") for name in trained
    )


def _stored(tensor: TensorInfo) -> Stored:
    return Stored(tensor.file.absolute(), tensor.name)


def _named(adapter: Adapter) -> str:
    return f" ({adapter.config.base})" if adapter.config.base else ""


def _cannot_weigh(adapter: Adapter, path: object, key: str, what: str) -> AdapterError:
    return AdapterError(
        f"{path}: {key}: {what} cannot be weighted, nor added to other adapters.",
        action=f"Give {adapter.folder} alone, without a weight.",
        path=adapter.folder,
        key=key,
    )
