"""Which folder was meant, and a clear answer when it is not one complete safetensors checkpoint."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from ggufpack.checkpoint.jsonfiles import read_object
from ggufpack.checkpoint.links import refuse_hostile_entries
from ggufpack.checkpoint.wording import some
from ggufpack.errors import CheckpointFileError, CheckpointLayoutError

CONFIG = "config.json"
SINGLE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
# written by trainers beside the weights; none of them is a model
_NOT_WEIGHTS = (
    "training_args",
    "optimizer",
    "scheduler",
    "rng_state",
    "scaler",
    "random_states",
    "trainer_state",
)


def locate(path: Path) -> Path:
    """The checkpoint folder that ``path`` means.

    ``path`` itself when it holds ``config.json`` and weights (an export, or a trainer's
    ``checkpoint-N``); otherwise the one checkpoint directly inside it or inside its ``snapshots``
    folder (the Hugging Face cache).

    Raises:
        CheckpointLayoutError: anything else, with what it seems to be and what to do; or a checkpoint
            with a pipe, a device, or a link to a file that is not a model's.
    """
    try:
        _require_folder(path)
        refuse_hostile_entries(path)
        if is_checkpoint(path):
            return path
        names = sorted(entry.name for entry in path.iterdir())
        inside = checkpoints_inside(path)
        if len(inside) == 1 and not _own_weights(names):
            refuse_hostile_entries(inside[0])
            return inside[0]
    except OSError as error:
        raise CheckpointLayoutError(
            f"{path} cannot be read: {error.strerror or error}.", path=path
        ) from error
    raise _explain(path, names, inside)


def weight_files(folder: Path) -> list[str]:
    """Names of the safetensors files that hold the model when there is no index, sorted.

    The rule is llama.cpp's (``conversion/base.py``, ``get_model_part_names``).
    """
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.name.startswith("model") and entry.name.endswith(".safetensors") and entry.is_file()
    )


def is_training_state(name: str) -> bool:
    """Whether a file is a pickle, a trainer's shard or its state: no part of a model that is packaged."""
    return name.endswith((*_PICKLE_SUFFIXES, ".distcp")) or name == "trainer_state.json"


def has_adapter(folder: Path) -> bool:
    """Whether PEFT adapter files lie in the folder."""
    return (folder / ADAPTER_CONFIG).is_file()


def is_checkpoint(folder: Path) -> bool:
    """Whether a full model lies in the folder."""
    return (folder / CONFIG).is_file() and ((folder / INDEX).is_file() or bool(weight_files(folder)))


def is_adapter(folder: Path) -> bool:
    """Whether an adapter lies in the folder, and no full model beside it (finding GP102)."""
    return has_adapter(folder) and not is_checkpoint(folder)


def checkpoints_inside(folder: Path) -> list[Path]:
    """Full models directly inside a folder, or in its ``snapshots``, in the order of their steps."""
    parents = [folder, folder / "snapshots"]
    children = (child for parent in parents if parent.is_dir() for child in parent.iterdir())
    return sorted(
        (child for child in children if child.is_dir() and is_checkpoint(child)), key=checkpoint_order
    )


def checkpoint_order(path: Path) -> tuple[str, int]:
    """Sorts checkpoint-2 before checkpoint-10."""
    stem, _dash, number = path.name.rpartition("-")
    return (stem, int(number)) if number.isascii() and number.isdigit() else (path.name, 0)


def _require_folder(path: Path) -> None:
    if path.is_dir():
        return
    if not path.exists():
        raise CheckpointLayoutError(f"{path} does not exist.", action="Check the path.", path=path)
    if path.suffix == ".gguf":
        raise CheckpointLayoutError(
            f"{path} is a GGUF file already, not a checkpoint folder.",
            action="Give the Hugging Face folder that it was made from.",
            path=path,
        )
    if path.suffix == ".safetensors" or path.name == INDEX:
        raise CheckpointLayoutError(
            f"{path} is one file of a checkpoint.",
            action=f"Give the folder that it lies in: {path.parent}",
            path=path,
        )
    raise CheckpointLayoutError(
        f"{path} is not a folder.",
        action="Give the folder that holds config.json and the weights.",
        path=path,
    )


def _own_weights(names: list[str]) -> bool:
    """Whether the folder itself has weights of some kind, so that a folder inside it was not meant."""
    return any(name.endswith(".safetensors") or _is_pickle(name) for name in names)


def _is_pickle(name: str) -> bool:
    return name.endswith(_PICKLE_SUFFIXES) and not name.startswith(_NOT_WEIGHTS)


def _explain(path: Path, names: list[str], inside: list[Path]) -> CheckpointLayoutError:
    """The most specific sentence on a folder that is no checkpoint."""
    safetensors = [name for name in names if name.endswith(".safetensors")]
    if not names:
        return CheckpointLayoutError(f"{path} is empty.", action="Check the path.", path=path)
    if ADAPTER_CONFIG in names:
        return _adapter_only(path)
    if inside and not safetensors:
        return _several(path, inside)
    if "model_index.json" in names:
        return CheckpointLayoutError(
            f"{path} is a diffusers pipeline, not a language model.",
            action="Give the folder of a language model.",
            path=path,
        )
    if any(name.startswith("model") for name in safetensors) or INDEX in names:
        return CheckpointLayoutError(
            f"{path} has weights and no {CONFIG}.",
            action="Copy config.json and the tokenizer files of the base model into it.",
            path=path,
        )
    if "params.json" in names and any(name.startswith("consolidated") for name in names):
        return CheckpointLayoutError(
            f"{path} is in Mistral's own format (params.json, consolidated.*).",
            action="Give the Hugging Face export of the model, with config.json and model*.safetensors.",
            path=path,
        )
    if safetensors:
        return CheckpointLayoutError(
            f"{path} has safetensors files, but none that is named model*.safetensors: {some(safetensors)}.",
            action=f"If one of them is the model, rename it to {SINGLE_FILE}.",
            path=path,
        )
    return _distributed(path, names) or _without_safetensors(path, names)


def _several(path: Path, inside: list[Path]) -> CheckpointLayoutError:
    named = some([str(child.relative_to(path)) for child in inside])
    return CheckpointLayoutError(
        f"{path} holds {len(inside)} checkpoints: {named}.",
        action=f"Name the one to package, for instance {inside[-1]}",
        path=path,
    )


def _adapter_only(path: Path) -> CheckpointLayoutError:
    try:
        config: dict[str, Any] = read_object(path / ADAPTER_CONFIG)
    except CheckpointFileError:
        config = {}
    base = config.get("base_model_name_or_path")
    named = base if isinstance(base, str) and base else ""
    return CheckpointLayoutError(
        f"{path} holds only an adapter{f' of {named}' if named else ''}.",
        action=f"Give the folder of {named or 'its base model'} with --base.",
        path=path,
        key="base_model_name_or_path",
    )


def _distributed(path: Path, names: list[str]) -> CheckpointLayoutError | None:
    """Sharded states of DeepSpeed and FSDP, which no converter reads."""
    target = path.parent / f"{path.name}-merged"
    steps = [name for name in names if name.startswith("global_step") and (path / name).is_dir()]
    if steps:
        script = path / "zero_to_fp32.py"
        return CheckpointLayoutError(
            f"{path} holds DeepSpeed's sharded state ({some(steps)}), not a model.",
            action="Consolidate it: "
            + shlex.join(["python", str(script), str(path), str(target), "--safe_serialization"])
            + ", then copy config.json and the tokenizer files into it.",
            path=path,
        )
    candidates = [path, *(path / name for name in names if (path / name).is_dir())]
    for folder in candidates:
        if any(entry.suffix == ".distcp" for entry in folder.iterdir()):
            return CheckpointLayoutError(
                f"{folder} holds a sharded FSDP state (*.distcp), not a model.",
                action="Consolidate it: "
                + shlex.join(["accelerate", "merge-weights", str(folder), str(target)])
                + ", then copy config.json and the tokenizer files into it.",
                path=folder,
            )
    return None


def _without_safetensors(path: Path, names: list[str]) -> CheckpointLayoutError:
    pickles = [name for name in names if _is_pickle(name)]
    ggufs = [name for name in names if name.endswith(".gguf")]
    if pickles:
        target = path.parent / f"{path.name}-safetensors"
        code = (
            "import sys; from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
            "M.from_pretrained(sys.argv[1], dtype='auto')"
            ".save_pretrained(sys.argv[2], safe_serialization=True); "
            "T.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])"
        )
        return CheckpointLayoutError(
            f"{path} has its weights in pickle files only ({some(pickles)}), which can run code "
            "when they are loaded and are never opened here.",
            action=f"If you trust them, convert them: {_python(code, path, target)}",
            path=path,
        )
    if ggufs:
        return CheckpointLayoutError(
            f"{path} holds only GGUF files ({some(ggufs)}), which are converted already.",
            action="Give the Hugging Face folder that they were made from.",
            path=path,
        )
    if CONFIG in names:
        return CheckpointLayoutError(
            f"{path} has a {CONFIG} and no weights.",
            action=f"Copy {SINGLE_FILE}, or all shards and {INDEX}, into it.",
            path=path,
        )
    return CheckpointLayoutError(
        f"{path} is not a checkpoint: it has neither {CONFIG} nor model*.safetensors.",
        action="Give the folder that save_pretrained wrote.",
        path=path,
    )


def _python(code: str, *arguments: Path) -> str:
    return shlex.join(["python", "-c", code, *map(str, arguments)])
