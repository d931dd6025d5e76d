"""Open a Hugging Face checkpoint folder: what is in it, and what could go wrong with it.

Only names, headers and JSON are read, never tensor data and never a pickle. Importing this package
loads neither numpy nor torch, transformers, tokenizers or safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ggufpack.checkpoint.adapter import Adaptation
from ggufpack.checkpoint.chat_template import ChatTemplate, read_chat_template
from ggufpack.checkpoint.checks import cross_checks
from ggufpack.checkpoint.config import ModelConfig, check_weight_format, read_config
from ggufpack.checkpoint.findings import FINDING_KINDS, FindingKind, make_finding
from ggufpack.checkpoint.generation import Generation, read_generation
from ggufpack.checkpoint.header import TensorInfo
from ggufpack.checkpoint.layers import check_layers
from ggufpack.checkpoint.layout import has_adapter, locate
from ggufpack.checkpoint.sentence import SentencePipeline, pipeline_findings, read_pipeline
from ggufpack.checkpoint.tensors import TensorTable, read_tensors
from ggufpack.checkpoint.tokenizer import AddedToken, Tokenizer, read_tokenizer
from ggufpack.checkpoint.trainer_config import read_trainer_config, template_hint
from ggufpack.errors import CheckpointLayoutError
from ggufpack.spec import Finding

__all__ = [
    "FINDING_KINDS",
    "Adaptation",
    "AddedToken",
    "ChatTemplate",
    "Checkpoint",
    "FindingKind",
    "Generation",
    "ModelConfig",
    "TensorInfo",
    "TensorTable",
    "Tokenizer",
    "locate",
    "open_checkpoint",
    "read_checkpoint",
]

# sentence-transformers; llama.cpp's converter reads the pooling type through it (conversion/base.py)
POOLING_FILE = "modules.json"
_LICENSE_STEMS = ("LICENSE", "LICENCE", "COPYING")
_LICENSE_SUFFIXES = ("", ".MD", ".TXT", ".RST")


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: everything that the later stages need to know about it.

    Attributes:
        folder: the checkpoint itself, which may lie inside the folder that was given; a temporary one of
            links when adapters are merged (``checkpoint.adapted``).
        model_config: config.json.
        generation: generation_config.json, or what config.json says in its place.
        tensors: name → dtype, shape and place of every tensor.
        tokenizer: special and added tokens, ids.
        chat_template: the one that transformers would use; ``None`` when there is none.
        license_files: LICENSE, COPYING and their like, sorted.
        findings: in the order of their ids.
        adaptation: the adapters that are merged into ``tensors`` while they are converted; ``None`` for
            weights that are packaged as they are stored.
        pipeline: of an encoder, what sentence-transformers does with it; ``None`` without modules.json.
    """

    folder: Path
    model_config: ModelConfig = field(repr=False)
    generation: Generation
    tensors: TensorTable = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    chat_template: ChatTemplate | None
    license_files: tuple[Path, ...]
    findings: tuple[Finding, ...]
    adaptation: Adaptation | None = None
    pipeline: SentencePipeline | None = None

    @property
    def origin(self) -> Path:
        """The user's own folder with the weights: of the base model, when adapters are merged into it."""
        return self.folder if self.adaptation is None else self.adaptation.base

    @property
    def architecture(self) -> str:
        """First of ``architectures`` in config.json."""
        return self.model_config.architecture

    @property
    def model_type(self) -> str:
        """``model_type`` in config.json; empty when it has none."""
        return self.model_config.model_type

    @property
    def config(self) -> Mapping[str, Any]:
        """config.json as it stands."""
        return self.model_config.raw

    @property
    def context_length(self) -> int | None:
        """Tokens; ``None`` when nothing says it. An encoder's texts are cut where its training cut them."""
        cut = None if self.pipeline is None else self.pipeline.max_length
        lengths = (self.model_config.context_length, cut)
        return min((length for length in lengths if length is not None), default=None)

    @property
    def embeds(self) -> bool:
        """Whether the model embeds text and does not generate it."""
        return self.model_config.embeds

    @property
    def special_texts(self) -> tuple[str, ...]:
        """The texts of all special tokens, those of the end-of-sequence ids included."""
        stops = (self.tokenizer.text(token) for token in self.generation.eos_token_ids)
        return tuple(dict.fromkeys([*self.tokenizer.special_texts, *(text for text in stops if text)]))


def open_checkpoint(path: Path) -> Checkpoint:
    """Read and check a checkpoint folder. Reads headers only, so it takes the same time for any size.

    Raises:
        CheckpointLayoutError: not one complete safetensors checkpoint.
        CheckpointFileError: a JSON or tokenizer file is unreadable or malformed.
        TensorFileError: a safetensors file or the index is damaged, or tensors are missing.
        UnsupportedWeightsError: weights that must be merged or dequantised first.
        ChatTemplateError: a chat template that is no text, or too large.
    """
    folder = locate(Path(path))
    tensors, raised = read_tensors(folder)
    return read_checkpoint(folder, tensors, [*layout_findings(Path(path), folder), *raised])


def read_checkpoint(
    folder: Path,
    tensors: TensorTable,
    raised_before: Sequence[Finding],
    trained_in: Sequence[Path] = (),
) -> Checkpoint:
    """Read and check everything but the ``tensors`` of a folder.

    Args:
        folder: the checkpoint itself.
        tensors: the model's, wherever they are stored.
        raised_before: findings on the tensors and on how the folder was found.
        trained_in: where the trainer's configuration may lie; ``folder`` unless given.

    Raises:
        GgufpackError: as ``open_checkpoint``.
    """
    findings = list(raised_before)
    config, raised = read_config(folder)
    findings += raised
    pipeline = read_pipeline(folder) if config.embeds else None
    findings += pooling_findings(folder, config, pipeline)
    check_weight_format(config, {name: tensor.dtype for name, tensor in tensors.items()})
    findings += check_layers(tensors, config.text, folder)
    generation, raised = read_generation(folder, config.text, config.path, generates=not config.embeds)
    findings += raised
    tokenizer, tokenizer_config, raised = read_tokenizer(folder)
    findings += raised
    chat_template, raised = read_chat_template(folder, tokenizer_config)
    findings += raised
    findings += cross_checks(config, generation, tensors, tokenizer)
    if chat_template is None and not config.embeds:
        findings += filter(None, map(template_hint, map(read_trainer_config, trained_in or (folder,))))
    return Checkpoint(
        folder=folder,
        model_config=config,
        generation=generation,
        tensors=tensors,
        tokenizer=tokenizer,
        chat_template=chat_template,
        license_files=license_files(folder),
        pipeline=pipeline,
        findings=tuple(sorted(findings, key=lambda finding: finding.id)),
    )


def layout_findings(given: Path, folder: Path) -> list[Finding]:
    """Whether another folder was taken than the ``given`` one, and what lies beside the model."""
    findings: list[Finding] = []
    if folder != given:
        findings.append(
            make_finding("GP101", f"{folder} was taken, the only checkpoint in {given}.", path=folder)
        )
    if has_adapter(folder):
        findings.append(
            make_finding(
                "GP102",
                "An adapter lies beside the full model; transformers would apply it, ggufpack does not.",
                path=folder / "adapter_config.json",
                action="Merge the adapter, or move its files away if it is merged already.",
            )
        )
    return findings


def pooling_findings(folder: Path, config: ModelConfig, pipeline: SentencePipeline | None) -> list[Finding]:
    """Whether an embedding model says how it pools, and what a GGUF cannot hold of it."""
    if not config.embeds:
        return []
    if pipeline is not None:
        return pipeline_findings(pipeline)
    return [
        make_finding(
            "GP117",
            f"{folder} has no {POOLING_FILE}: the GGUF gets no pooling type, and llama.cpp cannot make"
            " one embedding of a text.",
            path=folder / POOLING_FILE,
            action="Save it with sentence-transformers, or copy modules.json and its pooling folder from"
            " the base model.",
        )
    ]


def license_files(folder: Path) -> tuple[Path, ...]:
    """LICENSE, COPYING and their like, sorted.

    Raises:
        CheckpointLayoutError: the folder cannot be read.
    """
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    except OSError as error:
        raise CheckpointLayoutError(
            f"{folder} cannot be read: {error.strerror or error}.", path=folder
        ) from error
    return tuple(folder / name for name in names if _is_license(name.upper()))


def _is_license(name: str) -> bool:
    # "LICENSE-MIT" and "LICENSE.md", not "license_check.py"
    stem = next((stem for stem in _LICENSE_STEMS if name.startswith(stem)), None)
    return stem is not None and Path(name).suffix in _LICENSE_SUFFIXES
