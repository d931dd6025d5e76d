"""A save as the trainer wrote it, kept while it is packaged: the trainer may delete its own folder.

The snapshot holds hard links, so it costs no room as long as the save exists, and milliseconds to take.
Trainers write each save to new files; that none is written to later is checked (``Snapshot.check``).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ggufpack.checkpoint.layout import ADAPTER_WEIGHTS, INDEX, has_adapter, is_training_state, weight_files
from ggufpack.errors import CheckpointFileError, CheckpointLayoutError

# transformers leaves folders that begin with _ out of what it pushes to a hub (Trainer._push_from_checkpoint)
PREFIX = "_ggufpack-"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt")
_FOLDERS = ("additional_chat_templates",)

# bytes and modification time (ns) of a file
Stamp = tuple[int, int]


@dataclass(frozen=True)
class Snapshot:
    """A private folder beside a save, with links to its files.

    Attributes:
        folder: has the save's name.
        stamps: of each file (its path below ``folder``), when it was linked.
        lock: descriptor that holds ``folder.parent`` locked while this process lives.
    """

    folder: Path
    stamps: Mapping[str, Stamp]
    lock: int

    def check(self) -> None:
        """Raises ``CheckpointFileError`` when a file was written to since the snapshot was taken."""
        check_stamps(self.folder, self.stamps)

    def remove(self) -> None:
        """Delete the links, and with the last link of a file the file."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)
        os.close(self.lock)


def new_snapshot(folder: Path, name: str) -> Snapshot:
    """An empty snapshot in ``folder``, to be filled by the caller; it has no stamps."""
    holder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
    lock = os.open(holder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    inner = holder / name
    inner.mkdir()
    return Snapshot(inner, {}, lock)


def take_snapshot(save: Path) -> Snapshot:
    """Link the files of a save that a build reads.

    Raises:
        CheckpointLayoutError: the save has no weights that can be packaged; the error says why.
        CheckpointFileError: it changed while it was linked, or cannot be read.
    """
    require_weights(save)
    snapshot = new_snapshot(save.parent, save.name)
    try:
        stamps = _link_files(save, snapshot.folder)
        for name in _FOLDERS:
            if (save / name).is_dir():
                (snapshot.folder / name).mkdir()
                below = _link_files(save / name, snapshot.folder / name)
                stamps.update({f"{name}/{file}": stamp for file, stamp in below.items()})
    except OSError as error:
        snapshot.remove()
        raise CheckpointFileError(
            f"{save} cannot be linked or copied: {error.strerror or error}.", path=save
        ) from error
    except BaseException:
        snapshot.remove()
        raise
    return Snapshot(snapshot.folder, stamps, snapshot.lock)


def check_stamps(folder: Path, stamps: Mapping[str, Stamp]) -> None:
    """Raises ``CheckpointFileError`` when a file below ``folder`` is not as ``stamps`` say."""
    for name, stamp in stamps.items():
        if _stamp((folder / name).stat()) != tuple(stamp):
            raise CheckpointFileError(
                f"{name} of {folder.name} was written to while it was packaged.",
                action="Let the trainer write each save to a folder of its own.",
                path=folder / name,
            )


def require_weights(save: Path) -> None:
    """Raises ``CheckpointLayoutError``, with the reason, when there is nothing to package in a save."""
    if not save.is_dir():
        raise CheckpointLayoutError(f"{save} does not exist: the trainer saved elsewhere.", path=save)
    if (
        (save / INDEX).is_file()
        or weight_files(save)
        or (has_adapter(save) and (save / ADAPTER_WEIGHTS).is_file())
    ):
        return
    names = sorted(entry.name for entry in save.iterdir())
    if any(name.startswith("pytorch_model_fsdp") for name in names):
        problem = "has FSDP's own shards, which only the same training can read"
        action = "Set fsdp_state_dict_type to FULL_STATE_DICT, or package the model that is saved at the end."
    elif any(name.startswith("global_step") for name in names):
        problem = "has DeepSpeed's own shards, which only the same training can read"
        action = "Set stage3_gather_16bit_weights_on_model_save, or package what zero_to_fp32.py makes of it."
    elif any(name.endswith(".bin") and name.startswith(("pytorch_model", "adapter_model")) for name in names):
        problem = "has its weights as pickles (.bin), which are never loaded"
        action = "Let the trainer write safetensors (save_safetensors=True)."
    else:
        problem = "has no weights"
        action = "Package the folder that save_pretrained writes."
    raise CheckpointLayoutError(f"{save} is not packaged: it {problem}.", action=action, path=save)


def has_tokenizer(folder: Path) -> bool:
    """Whether tokenizer files lie in a folder."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def remove_stale(folder: Path) -> list[Path]:
    """Remove snapshots in ``folder`` that a process left behind when it was killed; returns them."""
    removed = []
    for holder in sorted(folder.glob(f"{PREFIX}*")):
        with contextlib.suppress(OSError):  # a living process holds it, or another one removes it now
            descriptor = os.open(holder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(holder)
                removed.append(holder)
            finally:
                os.close(descriptor)
    return removed


def _link_files(source: Path, target: Path) -> dict[str, Stamp]:
    stamps = {}
    for entry in sorted(source.iterdir()):
        if entry.is_file() and not is_training_state(entry.name):
            before = _stamp(entry.stat())
            link = target / entry.name
            _link(entry, link)
            if _stamp(entry.stat()) != before:
                raise CheckpointFileError(f"{entry} is still being written to.", path=entry)
            stamps[entry.name] = _stamp(link.stat())
    return stamps


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except FileNotFoundError:
        raise
    except OSError:  # the filesystem has no hard links (FAT, some network and FUSE filesystems)
        shutil.copy2(source, target)


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_size, status.st_mtime_ns
