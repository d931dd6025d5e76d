"""What the processes that run models may read and write. Both are asked to open one model first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ggufpack.checkpoint.links import linked_files
from ggufpack.confinement import Confinement
from ggufpack.confinement.python import gpu_devices
from ggufpack.convert.confined import keep_files_in, size_of
from ggufpack.verification.fidelity import cache

# distributions, and the weights once more as float32 (four bits each in the most packed source)
_GROWTH = 8
_SPARE_BYTES = 4 << 30


def packages_beside(gguf: Path) -> list[str]:
    """The file, and the package's others: what the trained model is compared with, one after the other."""
    return sorted({str(gguf.absolute()), *(str(path.absolute()) for path in gguf.parent.glob("*.gguf"))})


def source_confinement(request: Mapping[str, Any], libraries: Iterable[Path]) -> Confinement:
    """Of a trained model's process.

    Args:
        request: "open", with ``checkpoint``, ``device``, ``packages`` and, for merged models, ``adaptation``.
        libraries: of the vendored modules and their compiled files.
    """
    folders = [Path(request["checkpoint"])]
    adaptation = request.get("adaptation")
    if adaptation is not None:
        folders += [Path(adaptation["base"]), *(Path(one["folder"]) for one in adaptation["adapters"])]
    inputs = [path for folder in folders for path in (folder, *linked_files(folder))]
    longest = _GROWTH * sum(map(size_of, inputs)) + _SPARE_BYTES
    return Confinement(
        read=(*libraries, *inputs, *map(Path, request["packages"])),
        write=(_made(cache.root()), Path.cwd()),
        longest_file=longest,
        written=4 * longest,
        gpu=request["device"] != "cpu" and bool(gpu_devices()),
    )


def package_confinement(request: Mapping[str, Any]) -> Confinement:
    """Of a package's process. ``request``: "open", with ``model``."""
    read = (Path(request["model"]), _made(cache.root()))
    return Confinement(read=read, write=(Path.cwd(),), longest_file=_SPARE_BYTES, written=_SPARE_BYTES)


def begin_confined() -> None:
    """In the confined process."""
    keep_files_in(Path.cwd())


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
