"""Which files of a folder a build reads, by their names. Pure, but for ``listed``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ggufpack.checkpoint.chat_template import JINJA_FOLDER
from ggufpack.checkpoint.layout import CONFIG, INDEX, is_training_state

# logs of trainers, beside their state (``is_training_state``)
_TRAINING_LOG = "trainer_"


def model_files(names: Iterable[str]) -> list[str]:
    """Of a checkpoint or an adapter.

    All of its own files but for hidden ones and what the trainer keeps for itself; the further chat
    templates; the configuration in folders like ``1_Pooling``, which are no models of their own.

    Args:
        names: in the folder, with those in the folders of it: ``1_Pooling/config.json``.
    """
    names = sorted(names)
    models = {folder for folder, name in map(_split, names) if _is_weights(name)}
    return [name for name in names if _is_read(*_split(name), models)]


def listed(folder: Path) -> list[str]:
    """Names of the files in a folder of this machine, and of those in its folders.

    Raises:
        OSError: it cannot be read.
    """
    names = []
    for path in folder.iterdir():
        if path.is_dir():
            names += [f"{path.name}/{inner.name}" for inner in path.iterdir() if inner.is_file()]
        elif path.is_file():
            names.append(path.name)
    return names


def _split(name: str) -> tuple[str, str]:
    folder, _, own = name.rpartition("/")
    return folder, own


def _is_weights(name: str) -> bool:
    return name == INDEX or (name.startswith("model") and name.endswith(".safetensors"))


def _is_read(folder: str, name: str, models: set[str]) -> bool:
    if name.startswith((".", _TRAINING_LOG)) or is_training_state(name):
        return False
    if not folder:
        return True
    return folder == JINJA_FOLDER or (name == CONFIG and folder not in models)
