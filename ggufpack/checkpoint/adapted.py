"""A base model and its adapters as one checkpoint.

Every reader downstream (llama.cpp's converter, transformers) wants one folder. It is made of links in
a private temporary folder: weights of the base model; tokenizer, chat template and generation
configuration of the first adapter that has them, otherwise the base model's; and ``config.json``
written anew where the adapters change it. No weights are copied: they are merged while they are read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ggufpack.checkpoint import Checkpoint, layout_findings, open_checkpoint, read_checkpoint
from ggufpack.checkpoint.adapter import Adaptation, Adapter, open_adapter
from ggufpack.checkpoint.adapter_files import files_of_folder
from ggufpack.checkpoint.adapter_sources import Sources, find_sources
from ggufpack.checkpoint.checks import find_embedding
from ggufpack.checkpoint.config import ModelConfig, read_config
from ggufpack.checkpoint.findings import make_finding
from ggufpack.checkpoint.header import TensorInfo
from ggufpack.checkpoint.layout import CONFIG, INDEX, locate
from ggufpack.checkpoint.merge import Merge
from ggufpack.checkpoint.merge_plan import HEAD, BaseModel, plan_merge
from ggufpack.checkpoint.tensors import TensorTable, read_tensors
from ggufpack.errors import GgufpackError
from ggufpack.held import held_folder
from ggufpack.spec import AdapterSpec, Finding

_VOCABULARY, _TIED = "vocab_size", "tie_word_embeddings"


@contextmanager
def open_model(
    checkpoint: Path, base: Path | None = None, adapters: Sequence[AdapterSpec] = ()
) -> Iterator[Checkpoint]:
    """A checkpoint, or a base model with adapters. Its folder is there as long as the context.

    Args:
        checkpoint: a full model, or an adapter's folder.
        base: of ``checkpoint``, when it is an adapter; ``None`` looks where the adapter says.
        adapters: more of them, added in this order.

    Raises:
        UsageError: ``base`` for a full model.
        AdapterError: an adapter cannot be merged exactly.
        CheckpointError: or what else ``open_checkpoint`` raises.
    """
    sources = find_sources(checkpoint, base, adapters)
    if not sources.adapters:
        yield open_checkpoint(checkpoint)
        return
    with held_folder("ggufpack-adapted-") as scratch:
        # its name is the model's: the converter writes it down
        folder = scratch / checkpoint.resolve().name
        folder.mkdir()
        try:
            yield _adapted(sources, folder)
        except GgufpackError as error:
            _put_in_place(error, folder, sources.base)
            raise


def _adapted(sources: Sources, folder: Path) -> Checkpoint:
    given = locate(sources.base)
    table, raised = read_tensors(given)
    config, _ = read_config(given)
    opened = [open_adapter(spec.folder, spec.weight) for spec in sources.adapters]
    embedding = find_embedding(table.values())
    tied = config.tied is not False and HEAD not in table
    adapters = [_without_twin(adapter, embedding) if tied else adapter for adapter in opened]
    base = BaseModel(table, config.model_type, None if embedding is None else embedding.name, tied)
    merge = plan_merge(base, adapters)
    vocabulary = None if base.embedding is None else merge.shapes.get(base.embedding, (None,))[0]
    adaptation = Adaptation(given, tuple(adapters), merge, vocabulary)
    findings = [
        *layout_findings(sources.base, given),
        *raised,
        *sources.findings,
        *_findings(adaptation, config),
    ]
    files, more = files_of_folder(given, adapters)
    for name, path in files.items():
        (folder / name).symlink_to(path.absolute())  # links of the base are judged where they lie
    if vocabulary is not None or merge.copies:
        _write_config(folder, config, vocabulary, untied=bool(merge.copies))
    if merge.copies:
        _write_index(folder, table, merge)
    merged = _merged_table(table, merge)
    trained_in = [adapter.folder for adapter in adapters]
    made = read_checkpoint(folder, merged, [*findings, *more], trained_in)
    return _in_place(replace(made, adaptation=adaptation), folder, given)


# --- tensors ------------------------------------------------------------------


def _without_twin(adapter: Adapter, embedding: TensorInfo | None) -> Adapter:
    """Without a head that equals the embedding: PEFT saves both of a tied and resized model."""
    head = adapter.whole.get(HEAD)
    twin = None if embedding is None else adapter.whole.get(embedding.name)
    if head is None or twin is None or head.shape != twin.shape or head.dtype != twin.dtype:
        return adapter
    if not same_bytes(head, twin):
        return adapter
    return replace(adapter, whole={name: tensor for name, tensor in adapter.whole.items() if name != HEAD})


def same_bytes(one: TensorInfo, other: TensorInfo) -> bool:
    """Whether two tensors of one size hold the same."""
    block = 1 << 20
    with one.file.open("rb") as left, other.file.open("rb") as right:
        left.seek(one.begin)
        right.seek(other.begin)
        for start in range(0, one.nbytes, block):
            size = min(block, one.nbytes - start)
            if left.read(size) != right.read(size):
                return False
    return True


def _merged_table(table: TensorTable, merge: Merge) -> TensorTable:
    """The tensors as they will be: other shapes, and heads of their own."""
    tensors = dict(table.by_name)
    for name, origin in merge.copies.items():
        tensors[name] = replace(tensors[origin], name=name)
    for name, shape in merge.shapes.items():
        rows = tensors[name].nbytes // tensors[name].shape[0]
        end = tensors[name].begin + rows * shape[0]
        tensors[name] = replace(tensors[name], shape=shape, end=end)
    return TensorTable(tensors, table.files)


# --- the folder -----------------------------------------------------------------


def _write_config(folder: Path, config: ModelConfig, vocabulary: int | None, *, untied: bool) -> None:
    changes: dict[str, Any] = {}
    if vocabulary is not None:
        changes[_VOCABULARY] = vocabulary
    if untied:
        changes[_TIED] = False
    written = {**config.raw, **changes}
    for key, part in config.raw.items():
        if isinstance(part, dict):
            written[key] = {**part, **{name: value for name, value in changes.items() if name in part}}
    path = folder / CONFIG
    path.unlink()
    path.write_text(json.dumps(written, indent=2), encoding="utf-8")


def _write_index(folder: Path, table: TensorTable, merge: Merge) -> None:
    """With the added tensors: the converter compares the index with what it finds."""
    index = folder / INDEX
    if not index.exists():
        return
    content = json.loads(index.read_text(encoding="utf-8"))
    for name, origin in merge.copies.items():
        content["weight_map"][name] = table[origin].file.name
    index.unlink()
    index.write_text(json.dumps(content), encoding="utf-8")


# --- findings -------------------------------------------------------------------


def _findings(adaptation: Adaptation, config: ModelConfig) -> Iterator[Finding]:
    for adapter in adaptation.adapters:
        weight = "" if adapter.weight == 1 else f" with weight {adapter.weight:g}"
        yield make_finding(
            "GP120",
            f"{adapter.folder} is merged into {adaptation.base}{weight}: in float32, rounded once to the base"
            " model's dtype.",
            path=adapter.weights_file,
        )
        if not _is_named(adapter.config.base, adaptation.base):
            yield make_finding(
                "GP122",
                f"{adapter.folder} was trained on {adapter.config.base}, and its base model here is"
                f" {adaptation.base}; its tensors fit.",
                path=adapter.config.path,
                key="base_model_name_or_path",
                action="Give that base model with --base, unless it is this one under another name.",
            )
    if adaptation.vocabulary is not None:
        yield make_finding(
            "GP124",
            f"The adapter's embedding has {adaptation.vocabulary:,} rows, the base model's"
            f" {config.vocab_size or 0:,}; vocab_size follows the adapter.",
            path=config.path,
            key=_VOCABULARY,
        )
    if adaptation.merge.copies:
        yield make_finding(
            "GP125",
            "The base model ties its head to the embedding, and the adapter trained one of them alone: the"
            " package has both. (PEFT's merge_and_unload may change both.)",
            path=config.path,
            key=_TIED,
        )


def _is_named(name: str, base: Path) -> bool:
    """Whether a base model's name can mean this folder: a path, or a name of the Hub by its last part."""
    if not name:
        return True
    if os.path.isdir(name):  # noqa: PTH112 - Path's raises for a name that no folder can have
        return Path(name).resolve() == base.resolve()
    last = name.rstrip("/").rpartition("/")[2].lower()
    # the cache's folder of org/name is models--org--name/snapshots/COMMIT
    return any(part.lower().rpartition("--")[2] == last for part in base.resolve().parts)


def _in_place(made: Checkpoint, folder: Path, base: Path) -> Checkpoint:
    """With the user's own paths: what is said about a file must name it."""

    def path(linked: Path | None) -> Any:
        return _path_in_place(linked, folder, base)

    template = made.chat_template
    return replace(
        made,
        model_config=replace(made.model_config, path=path(made.model_config.path)),
        generation=replace(made.generation, path=path(made.generation.path)),
        tokenizer=replace(
            made.tokenizer, files={name: path(file) for name, file in made.tokenizer.files.items()}
        ),
        chat_template=None if template is None else replace(template, origin=path(template.origin)),
        license_files=tuple(map(path, made.license_files)),
        findings=tuple(
            replace(
                finding,
                message=_text_in_place(finding.message, folder, base),
                action=_text_in_place(finding.action, folder, base),
                path=path(finding.path),
            )
            for finding in made.findings
        ),
    )


def _put_in_place(error: GgufpackError, folder: Path, base: Path) -> None:
    error.problem = _text_in_place(error.problem, folder, base)
    error.action = _text_in_place(error.action, folder, base)
    error.path = _path_in_place(error.path, folder, base)
    error.args = (error.problem if error.action is None else f"{error.problem} {error.action}",)


def _text_in_place(text: Any, folder: Path, base: Path) -> Any:
    return None if text is None else text.replace(str(folder), str(base))


def _path_in_place(path: Path | None, folder: Path, base: Path) -> Path | None:
    if path is None or not path.is_relative_to(folder):
        return path
    return path.resolve() if path.is_symlink() else base / path.relative_to(folder)
