"""A batch's manifest: ``name``, ``defaults`` and ``items``, in YAML or TOML.

    name: "{run}-{step}:{type}"
    defaults: {quantization: [Q4_K_M, Q8_0], output: packages}
    items:
      - checkpoint: runs/*/checkpoint-*
      - checkpoint: runs/best
        name: best
        parameters: {temperature: 0.7}

Paths are relative to the manifest's folder; URLs (``s3://bucket/run``) stand for folders as well.
"""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path

from ggufpack.batch import storage
from ggufpack.batch.discover import natural_order
from ggufpack.batch.keys import Source, Values, check_keys, read_values
from ggufpack.batch.located import Located, load_located, manifest_error
from ggufpack.batch.urls import url_of
from ggufpack.errors import GgufpackError

SUFFIXES = (".yaml", ".yml", ".toml")
_KEYS = ("name", "defaults", "items")
_GLOB = frozenset("*?[")


@dataclass(frozen=True)
class Wanted:
    """A checkpoint that somebody named, and the options that differ for it.

    Attributes:
        folder: the checkpoint, or a folder to look through.
        values: fields of ``BuildSpec``; "name" is a pattern.
        place: where it was named, for errors: ``FILE:LINE``, or the argument.
    """

    folder: Path
    values: Values
    place: str


def read_manifest(path: Path) -> tuple[Wanted, ...]:
    """The checkpoints of a manifest, in its order; globs are expanded in natural order by the caller.

    Raises:
        ManifestError: FILE:LINE, the key, and what to do.
    """
    source = Source(path)
    top = load_located(path)
    entries = _mapping(source, top, "The manifest")
    check_keys(source, entries, _KEYS)
    defaults = _mapping(source, entries.get("defaults", Located({}, 1)), "defaults")
    shared = {**read_values(source, defaults)}
    if "name" in entries:
        shared |= read_values(source, {"name": entries["name"]})
    items = entries.get("items", Located([], top.line))
    if not isinstance(items.value, list) or not items.value:
        raise manifest_error(
            path,
            items.line,
            "items must be a list of checkpoints.",
            action="For example: items: [{checkpoint: runs/a/checkpoint-100}]",
            key="items",
        )
    return tuple(wanted for item in items.value for wanted in _item(source, item, shared))


def expand(pattern: Path) -> list[Path]:
    """Folders that a path, a URL or a glob of them names; none when there is no such folder.

    Raises:
        UsageError: the storage of a URL cannot be asked.
    """
    url = url_of(pattern)
    if url is not None:
        if not _GLOB.intersection(url):
            return [pattern] if storage.exists(url) else []
        return sorted(map(Path, storage.folders(url)), key=natural_order)
    if not _GLOB.intersection(str(pattern)):
        return [pattern] if pattern.exists() else []
    matches = map(Path, glob.glob(str(pattern), recursive=True))  # noqa: PTH207 - Path has none for absolute ones
    return sorted((match for match in matches if match.is_dir()), key=natural_order)


def _item(source: Source, item: Located, shared: Values) -> list[Wanted]:
    entries = _mapping(source, item, "An item")
    values = {**shared, **read_values(source, entries, extra=("checkpoint",))}
    checkpoint = entries.get("checkpoint")
    if checkpoint is None:
        raise manifest_error(
            source.path,
            item.line,
            "An item has no checkpoint.",
            action="Add checkpoint: a folder, or a glob of folders.",
            key="checkpoint",
        )
    if not isinstance(checkpoint.value, str) or not checkpoint.value:
        raise manifest_error(
            source.path, checkpoint.line, "checkpoint must be a path or a glob.", key="checkpoint"
        )
    try:
        folders = expand(source.resolve(checkpoint.value))
    except GgufpackError as error:
        raise manifest_error(
            source.path,
            checkpoint.line,
            f"checkpoint: {error.problem}",
            action=error.action,
            key="checkpoint",
        ) from error
    if not folders:
        is_glob = _GLOB.intersection(checkpoint.value)
        raise manifest_error(
            source.path,
            checkpoint.line,
            f"{'nothing matches' if is_glob else 'there is no'} {checkpoint.value}.",
            action=f"Paths are relative to {source.folder.absolute()}.",
            key="checkpoint",
        )
    return [Wanted(folder, values, f"{source.path}:{item.line}") for folder in folders]


def _mapping(source: Source, item: Located, what: str) -> dict[str, Located]:
    if item.value is None:
        return {}
    if not isinstance(item.value, dict):
        raise manifest_error(source.path, item.line, f"{what} must be a mapping of keys to values.")
    return item.value
