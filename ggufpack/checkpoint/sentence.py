"""sentence-transformers' own files: what becomes of a text before and after the encoder.

``modules.json`` names the steps from a text to its vector. A GGUF holds the encoder and one of three
poolings, and servers normalise: whatever else the trained model does is lost.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ggufpack.checkpoint.findings import make_finding
from ggufpack.checkpoint.jsonfiles import MAX_CONFIG_BYTES, read_object, read_text, unique_keys
from ggufpack.checkpoint.links import followed
from ggufpack.errors import CheckpointFileError
from ggufpack.spec import Finding

MODULES_FILE = "modules.json"
TRANSFORMER_FILE = "sentence_bert_config.json"
PROMPTS_FILE = "config_sentence_transformers.json"
TRANSFORMER, POOLING, NORMALIZE = "Transformer", "Pooling", "Normalize"
_PACKAGE = "sentence_transformers."
# Dropout does nothing after training
_HELD = frozenset({TRANSFORMER, POOLING, NORMALIZE, "Dropout"})


@dataclass(frozen=True)
class Module:
    """One step. ``type`` is the class without its package where it is sentence-transformers' own."""

    type: str
    folder: Path


@dataclass(frozen=True)
class SentencePipeline:
    """What sentence-transformers does with this checkpoint.

    Attributes:
        path: modules.json.
        modules: in order.
        poolings: modes of the pooling step, sentence-transformers' names; several are concatenated.
        max_length: tokens after which a text is cut; ``None`` when the files do not say.
        prompts: name → text that stands in front of texts of that kind, without empty ones.
        default_prompt: the one that every text gets; empty for none.
        renders_chat: whether every text becomes a user's message in the chat template, which a model that
            was trained from a chat model does in newer sentence-transformers (``modality_config``).
    """

    path: Path
    modules: tuple[Module, ...]
    poolings: tuple[str, ...] = ()
    max_length: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str = ""
    renders_chat: bool = False

    @property
    def lost(self) -> tuple[str, ...]:
        """What a GGUF cannot hold, in clauses."""
        types = [module.type for module in self.modules]
        lost = [f"the module {name}" for name in types if name not in _HELD]
        if len(self.poolings) > 1:
            lost.append(f"{len(self.poolings)} poolings beside each other ({', '.join(self.poolings)})")
        if self.renders_chat:
            lost.append(f"the chat template around every text (modality_config in {TRANSFORMER_FILE})")
        return tuple(lost)

    @property
    def is_whole(self) -> bool:
        """Whether it says how a text becomes one vector."""
        types = [module.type for module in self.modules]
        return types[:2] == [TRANSFORMER, POOLING]

    @property
    def normalizes(self) -> bool:
        """Whether the vectors have unit length."""
        return any(module.type == NORMALIZE for module in self.modules)


def read_pipeline(folder: Path) -> SentencePipeline | None:
    """The pipeline of a checkpoint; ``None`` when it has no modules.json.

    Raises:
        CheckpointFileError: a file is damaged, or a module's folder lies outside of ``folder``.
    """
    path = folder / MODULES_FILE
    if not path.is_file():
        return None
    modules = tuple(_module(folder, path, entry) for entry in _array(path))
    prompts = _optional(folder / PROMPTS_FILE)
    known = {
        str(name): text
        for name, text in _mapping(prompts.get("prompts")).items()
        if isinstance(text, str) and text
    }
    pooling = next((module.folder for module in modules if module.type == POOLING), None)
    first = next((module.folder for module in modules if module.type == TRANSFORMER), folder)
    transformer = _optional(first / TRANSFORMER_FILE)
    longest = transformer.get("max_seq_length")
    return SentencePipeline(
        path=path,
        modules=modules,
        poolings=() if pooling is None else _poolings(_optional(pooling / "config.json")),
        max_length=longest if isinstance(longest, int) and longest > 0 else None,
        prompts=known,
        default_prompt=known.get(str(prompts.get("default_prompt_name")), ""),
        renders_chat="message" in _mapping(transformer.get("modality_config")),
    )


def pools_embeddings(folder: Path) -> bool:
    """Whether sentence-transformers' files make the model an embedding model, whatever its architecture.

    Raises:
        CheckpointFileError: as ``read_pipeline``.
    """
    pipeline = read_pipeline(folder)
    return pipeline is not None and pipeline.is_whole


def pipeline_findings(pipeline: SentencePipeline) -> list[Finding]:
    """What a package of this pipeline does otherwise."""
    found = []
    if pipeline.lost:
        found.append(
            make_finding(
                "GP140",
                f"{pipeline.path} names what a GGUF cannot hold: {', '.join(pipeline.lost)}. The package's"
                " vectors would not be the trained model's.",
                path=pipeline.path,
                action="Use an embedding model of plain text, one pooling and normalisation only.",
            )
        )
    if pipeline.default_prompt:
        found.append(
            make_finding(
                "GP141",
                f"The model puts {pipeline.default_prompt!r} in front of every text; a server does not.",
                path=pipeline.path.parent / PROMPTS_FILE,
                key="default_prompt_name",
                action="Send it with every text.",
            )
        )
    elif pipeline.prompts:
        listed = ", ".join(f"{name} {text!r}" for name, text in pipeline.prompts.items())
        found.append(
            make_finding(
                "GP142",
                f"The model was trained with prompts in front of texts: {listed}. Clients send them with the"
                " text.",
                path=pipeline.path.parent / PROMPTS_FILE,
                key="prompts",
            )
        )
    if not pipeline.normalizes and pipeline.is_whole:
        found.append(
            make_finding(
                "GP143",
                "The trained model's vectors are of any length; Ollama's have the length 1, so that a dot"
                " product is a cosine.",
                path=pipeline.path,
            )
        )
    return found


def _module(folder: Path, path: Path, entry: object) -> Module:
    values = _mapping(entry)
    kind, place = values.get("type"), values.get("path", "")
    if not isinstance(kind, str) or not isinstance(place, str):
        raise CheckpointFileError(f"{path}: every module needs a type and a path.", path=path, key="type")
    leaves = Path(place).is_absolute() or ".." in Path(place).parts
    if leaves or ((folder / place).exists() and followed(folder / place, folder) is None):
        raise CheckpointFileError(f"{path}: {place!r} leaves the folder.", path=path, key="path")
    # older releases call it sentence_transformers.models.Pooling, newer ones by its full module
    name = kind.rpartition(".")[2] if kind.startswith(_PACKAGE) else kind
    return Module(name, folder / place)


def _poolings(config: Mapping[str, Any]) -> tuple[str, ...]:
    mode = config.get("pooling_mode")
    if mode is not None:
        return tuple(map(str, mode)) if isinstance(mode, list) else (str(mode),)
    prefix = "pooling_mode_"
    return tuple(key.removeprefix(prefix) for key, on in config.items() if key.startswith(prefix) and on)


def _array(path: Path) -> list[object]:
    text = read_text(path, MAX_CONFIG_BYTES)
    try:
        value = json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise CheckpointFileError(
            f"{path} is not valid JSON: {error}.",
            action="Save it with sentence-transformers again.",
            path=path,
        ) from error
    if not isinstance(value, list):
        raise CheckpointFileError(f"{path} must hold a JSON array of modules.", path=path)
    return value


def _optional(path: Path) -> Mapping[str, Any]:
    return read_object(path) if path.is_file() else {}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
