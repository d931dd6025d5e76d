"""Checkpoints under a training output: ``checkpoint-N``, the final export, adapters, sweeps of runs.

Only names, headers and JSON are read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ggufpack.batch.outline import outline
from ggufpack.batch.urls import url_of
from ggufpack.checkpoint.config import read_config
from ggufpack.checkpoint.header import read_header
from ggufpack.checkpoint.jsonfiles import read_object
from ggufpack.checkpoint.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, INDEX, is_adapter, locate
from ggufpack.checkpoint.tensors import read_tensors
from ggufpack.errors import GgufpackError
from ggufpack.package_folder import RECORD_NAME

TRAINER_STATE = "trainer_state.json"
FINAL_STEP = "final"
MAX_DEPTH = 4
# HF Trainer's name of a checkpoint, and of one that older releases are still writing
_CHECKPOINT = re.compile(r"checkpoint-(\d+)\Z")
_UNFINISHED = re.compile(r"tmp-checkpoint-\d+\Z")
_NUMBER = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Found:
    """A complete checkpoint or adapter.

    Attributes:
        folder: where it is.
        run: name of the training output it belongs to.
        step: of ``checkpoint-N``; ``None`` for a final export.
        adapter: whether it is a PEFT adapter.
        base: that an adapter names as its base model: a folder, or an id.
    """

    folder: Path
    run: str
    step: int | None
    adapter: bool
    base: str | None = None

    @property
    def fields(self) -> dict[str, str]:
        """For name patterns (``names.FIELDS``)."""
        fields = {
            "run": self.run,
            "step": FINAL_STEP if self.step is None else str(self.step),
            "checkpoint": self.folder.name,
        }
        return {**fields, "adapter": self.folder.name} if self.adapter else fields


@dataclass(frozen=True)
class LeftOut:
    """A folder that looks like a checkpoint and is not a complete one."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class Discovery:
    """What lies under a folder, in natural order: by run, then by step, the final export last."""

    found: tuple[Found, ...]
    left_out: tuple[LeftOut, ...]


def discover(root: Path) -> Discovery:
    """Look through a training output, or through a folder of several; of this machine, or by URL.

    Folders of packages, hidden ones and links to folders are passed over.

    Raises:
        UsageError: the storage of a URL cannot be asked.
        CheckpointFileError: a name in it leads elsewhere.
    """
    url = url_of(root)
    if url is None:
        return _discover(root)
    with outline(url, MAX_DEPTH + 1) as copy:
        looked = _discover(copy)
        return Discovery(
            tuple(replace(one, folder=root / one.folder.relative_to(copy)) for one in looked.found),
            tuple(
                LeftOut(root / one.folder.relative_to(copy), one.reason.replace(str(copy), url))
                for one in looked.left_out
            ),
        )


def _discover(root: Path) -> Discovery:
    found: list[Found] = []
    left_out: list[LeftOut] = []
    # links to folders could lead in circles; the one that was named is followed
    for folder in _candidates(root.resolve(), MAX_DEPTH):
        reason = incomplete(folder)
        if reason is None:
            found.append(_found(folder))
        else:
            left_out.append(LeftOut(folder, reason))
    found.sort(key=lambda item: (natural_order(_run_folder(item.folder)), _step_order(item)))
    left_out.sort(key=lambda item: natural_order(item.folder))
    return Discovery(tuple(found), tuple(left_out))


def incomplete(folder: Path) -> str | None:
    """Why a folder is no complete checkpoint, as a sentence; ``None`` when it is one.

    Complete: config.json can be read, and every safetensors file that the index names is there with the
    length its header promises.
    """
    if _UNFINISHED.match(folder.name):
        return "It is still being written (its name begins with tmp-)."
    try:
        if is_adapter(folder):
            read_object(folder / ADAPTER_CONFIG)
            if not (folder / ADAPTER_WEIGHTS).is_file():
                return f"It has no {ADAPTER_WEIGHTS}."
            read_header(folder / ADAPTER_WEIGHTS)
        else:
            if locate(folder) != folder:
                return f"It has no weights of its own, and no {CONFIG}."
            read_config(folder)
            read_tensors(folder)
    except GgufpackError as error:
        return error.problem
    except OSError as error:  # the trainer removes old checkpoints while we look
        return f"It cannot be read: {error.strerror or error}."
    return None


def natural_order(path: Path) -> list[tuple[int, int | str]]:
    """Sort key: ``run-2`` before ``run-10``."""
    parts = [part for name in path.parts for part in (*_NUMBER.split(name), "")]
    return [(1, int(part)) if part.isdecimal() else (0, part) for part in parts]


# --- folders --------------------------------------------------------------------


def _candidates(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = {entry.name: entry for entry in folder.iterdir()}
    except OSError:  # removed meanwhile, or not ours to read
        return
    if RECORD_NAME in entries:
        return
    if _looks_like_one(folder.name, entries):
        yield folder
    if depth:
        for name, entry in sorted(entries.items()):
            if not name.startswith(".") and entry.is_dir() and not entry.is_symlink():
                yield from _candidates(entry, depth - 1)


def _looks_like_one(name: str, entries: dict[str, Path]) -> bool:
    if _CHECKPOINT.match(name) or _UNFINISHED.match(name):
        return True
    starts = ("model", "pytorch_model")
    weights = any(entry.startswith(starts) and entry.endswith((".safetensors", ".bin")) for entry in entries)
    return weights or INDEX in entries or ADAPTER_CONFIG in entries


def _found(folder: Path) -> Found:
    match = _CHECKPOINT.match(folder.name)
    step = None if match is None else int(match[1])
    adapter = is_adapter(folder)
    run = _run_folder(folder).name or folder.name
    return Found(folder, run, step, adapter, _named_base(folder) if adapter else None)


def _named_base(folder: Path) -> str | None:
    named = read_object(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    return named if isinstance(named, str) and named else None


def _run_folder(folder: Path) -> Path:
    return folder.parent if _CHECKPOINT.match(folder.name) else folder


def _step_order(found: Found) -> float:
    return math.inf if found.step is None else found.step
