"""Which folders were meant: the base model, and the adapters that are merged into it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufpack.checkpoint.adapter_config import read_adapter_config
from ggufpack.checkpoint.findings import make_finding
from ggufpack.checkpoint.layout import ADAPTER_CONFIG, checkpoint_order, checkpoints_inside, is_checkpoint
from ggufpack.checkpoint.trainer_config import read_trainer_config
from ggufpack.checkpoint.wording import some
from ggufpack.errors import AdapterError, UsageError
from ggufpack.spec import AdapterSpec, Finding


@dataclass(frozen=True)
class Sources:
    """A base model and its adapters; without adapters ``base`` is the checkpoint as it was given."""

    base: Path
    adapters: tuple[AdapterSpec, ...]
    findings: tuple[Finding, ...] = ()


def find_sources(checkpoint: Path, base: Path | None, adapters: Sequence[AdapterSpec]) -> Sources:
    """Sort out what the user gave.

    Raises:
        UsageError: ``base`` beside a full model.
        AdapterError: a folder that is no adapter, or a base model that nobody names.
        CheckpointFileError: an adapter's configuration cannot be read.
    """
    is_model = not checkpoint.is_dir() or is_checkpoint(checkpoint) or checkpoints_inside(checkpoint)
    own = None if is_model else _adapter_folder(checkpoint)
    if own is None and base is not None:
        raise UsageError(
            f"{checkpoint} is no adapter, so it has no base model {base}.",
            action="Give the adapter as CHECKPOINT, or the base model as CHECKPOINT and --adapter.",
            path=checkpoint,
            key="base",
        )
    given = () if own is None else (AdapterSpec(own),)
    all_adapters = (*given, *(_located(spec) for spec in adapters))
    findings: list[Finding] = []
    if own is not None and own != checkpoint:
        findings.append(
            make_finding("GP101", f"{own}, the only adapter in {checkpoint}, was taken.", path=own)
        )
    if own is None:
        return Sources(checkpoint, all_adapters, tuple(findings))
    if base is None:
        base, path, key = _named_base(own)
        findings.append(
            make_finding("GP126", f"The base model is {base}, as {path} names it.", path=path, key=key)
        )
    return Sources(base, all_adapters, tuple(findings))


def parse_adapter(word: str, resolve: Callable[[str], Path] = Path) -> AdapterSpec:
    """``DIR`` or ``DIR=WEIGHT``; a folder (or URL) whose own name has an equals sign comes first.

    Args:
        word: as a user wrote it.
        resolve: makes a path of ``DIR``.

    Raises:
        UsageError: a weight that is no finite number.
    """
    folder, separator, number = word.rpartition("=")
    whole_url = "://" in word and "/" in number
    if not separator or whole_url or resolve(word).is_dir():
        return AdapterSpec(resolve(word))
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight) or not folder:
        raise UsageError(
            f"The adapter {word}: {number!r} is no weight.", action="Write DIR=0.5.", key="adapter"
        )
    return AdapterSpec(resolve(folder), weight)


def _located(spec: AdapterSpec) -> AdapterSpec:
    found = _adapter_folder(spec.folder) if spec.folder.is_dir() else None
    if found is None:
        raise AdapterError(
            f"{spec.folder} is not an adapter's folder: it has no {ADAPTER_CONFIG}.",
            action="Give the folder that PEFT's save_pretrained wrote.",
            path=spec.folder,
        )
    return AdapterSpec(found, spec.weight)


def _adapter_folder(path: Path) -> Path | None:
    """The adapter's folder that ``path`` means: itself, or the only one directly inside."""
    if (path / ADAPTER_CONFIG).is_file():
        return path
    inside = sorted(_adapters_inside(path), key=checkpoint_order)
    if len(inside) > 1:
        named = some([child.name for child in inside])
        raise AdapterError(
            f"{path} holds {len(inside)} adapters: {named}.",
            action=f"Name the one to package, for instance {inside[-1]}",
            path=path,
        )
    return inside[0] if inside else None


def _adapters_inside(path: Path) -> Iterator[Path]:
    for child in path.iterdir():
        if child.is_dir() and (child / ADAPTER_CONFIG).is_file() and not is_checkpoint(child):
            yield child


def _named_base(adapter: Path) -> tuple[Path, Path, str]:
    """The base model's folder that an adapter or its trainer names, and where: file and key."""
    config = read_adapter_config(adapter)
    trainer = read_trainer_config(adapter)
    named = [(config.base, config.path, "base_model_name_or_path")]
    if trainer is not None:
        named.append((trainer.model, trainer.path, "model_name_or_path"))
    for text, path, key in named:
        if text and os.path.isdir(text):  # noqa: PTH112 - Path's raises for a name that no folder can have
            return Path(text), path, key
    name = f"{config.base:.200}" or "its base model"
    raise AdapterError(
        f"{adapter} holds only an adapter, and its base model ({name}) is no folder here.",
        action=f"Give the folder of {name} with --base.",
        path=config.path,
        key="base_model_name_or_path",
    )
