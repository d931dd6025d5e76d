"""The base model that an adapter was trained on, as a folder of this machine."""

from __future__ import annotations

from pathlib import Path

from ggufpack.checkpoint.jsonfiles import MAX_CONFIG_BYTES, read_object
from ggufpack.checkpoint.layout import ADAPTER_CONFIG
from ggufpack.errors import CheckpointLayoutError


def base_folder(adapter: Path, given: Path | None, cwd: Path) -> Path:
    """The folder of an adapter's base model.

    Args:
        adapter: the PEFT folder; ``base_model_name_or_path`` of its configuration is a folder, or the
            name of a model whose files transformers has put into its cache for the training.
        given: the caller's word, which wins.
        cwd: what relative paths start from.

    Raises:
        CheckpointLayoutError: there is no such folder.
        CheckpointFileError: the adapter's configuration cannot be read.
    """
    config = read_object(adapter / ADAPTER_CONFIG, MAX_CONFIG_BYTES)
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    wanted = str(name or "") if given is None else str(given)
    folder = cwd / wanted
    if wanted and folder.is_dir():
        return folder
    cached = _cached(wanted, revision) if given is None and wanted else None
    if cached is not None:
        return cached
    raise CheckpointLayoutError(
        f"{adapter.name} is an adapter, and its base model ({wanted or 'not named'}) is no folder here.",
        action="Give the callback base=FOLDER.",
        path=adapter / ADAPTER_CONFIG,
        key="base_model_name_or_path",
    )


def _cached(name: str, revision: str | None) -> Path | None:
    """The snapshot in the Hugging Face cache; nothing is fetched."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None
