"""What LLaMA-Factory wrote down beside its output: a hint, never more.

``training_args.yaml`` (and ``llamafactory_config.yaml``) in the output folder, or in the one above a
``checkpoint-N``, name the chat template and the base model that were trained with.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufpack.checkpoint.findings import make_finding
from ggufpack.checkpoint.jsonfiles import MIB, read_text
from ggufpack.errors import CheckpointFileError
from ggufpack.spec import Finding

_NAMES = ("training_args.yaml", "llamafactory_config.yaml")


@dataclass(frozen=True)
class TrainerConfig:
    """The keys that matter; empty texts where the file says nothing.

    Attributes:
        path: the file.
        template: LLaMA-Factory's name of the chat template.
        model: ``model_name_or_path``: the base model, a folder or a name.
    """

    path: Path
    template: str
    model: str


def read_trainer_config(folder: Path) -> TrainerConfig | None:
    """The trainer's configuration of an output folder; ``None`` when there is none.

    Raises:
        CheckpointFileError: it cannot be read, or is no YAML mapping.
    """
    places = [folder, *([folder.parent] if folder.name.startswith("checkpoint-") else [])]
    paths = (place / name for place in places for name in _NAMES)
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return None
    values = _mapping(path)
    return TrainerConfig(path, _text(values, "template"), _text(values, "model_name_or_path"))


def template_hint(config: TrainerConfig | None) -> Finding | None:
    """What a checkpoint without a chat template of its own is told."""
    if config is None or not config.template:
        return None
    return make_finding(
        "GP127",
        f"{config.path} names the template {config.template!r}, and the tokenizer has no chat template.",
        path=config.path,
        key="template",
        action=f"Save the tokenizer with LLaMA-Factory's export, or try --template {config.template} if"
        " ggufpack has that name: it cannot prove that the two are the same.",
    )


def _mapping(path: Path) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(read_text(path, MIB))
    except yaml.YAMLError as error:
        raise CheckpointFileError(
            f"{path} is not valid YAML: {error}.", action="Repair it, or move it away.", path=path
        ) from error
    if not isinstance(values, dict):
        raise CheckpointFileError(
            f"{path} must hold a YAML mapping.", action="Repair it, or move it away.", path=path
        )
    return values


def _text(values: dict[str, Any], key: str) -> str:
    value = values.get(key)
    return value if isinstance(value, str) else ""
