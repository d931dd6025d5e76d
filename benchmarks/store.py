"""An offline store of one large model: add, verify, export, import, and an import that broke off.

    python -m benchmarks.store [--bytes 1000000000] [--folder DIR]

Seconds, and the bytes that the process read and wrote (``rchar`` and ``wchar`` of ``/proc/self/io``,
so the page cache counts too) against the model's size.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from ggufpack.errors import ArchiveError
from ggufpack.packages import sha256_of
from ggufpack.store.check import check_store
from ggufpack.store.export import export_models
from ggufpack.store.folder import StoreFolder
from ggufpack.store.manifest import Blob
from ggufpack.store.package import Packaged, add_packages
from ggufpack.store.unpack import import_archive


@dataclass(frozen=True)
class Step:
    """Wall seconds; bytes read and written, as multiples of the model's size."""

    name: str
    seconds: float
    read: float
    written: float


def measure(size: int, folder: Path) -> tuple[Step, ...]:
    """Every step on a model of ``size`` bytes in ``folder``, which needs five times as much room."""
    model = _model(size, folder / "large-F16.gguf")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew, without what made the model
    store, other, third = (StoreFolder(folder / name) for name in ("store", "imported", "resumed"))
    archive = folder / "large.tar"
    steps: list[Step] = []

    def step(name: str, work: Callable[[], object]) -> None:
        before, started = _io(), time.perf_counter()
        work()
        seconds, after = time.perf_counter() - started, _io()
        read, written = (end - begin for begin, end in zip(before, after, strict=True))
        steps.append(Step(name, seconds, read / model.blob.size, written / model.blob.size))

    step("add", lambda: add_packages(store, [model]))
    step("add again", lambda: add_packages(store, [model]))
    step("verify", lambda: check_store(store))
    step("export", lambda: export_models(store, [], archive))
    step("import", lambda: import_archive(archive, other))
    step("import again", lambda: import_archive(archive, other))
    cut = folder / "cut.tar"
    with archive.open("rb") as source, cut.open("wb") as target:
        left = size // 2
        while left and (piece := source.read(min(1 << 20, left))):
            target.write(piece)
            left -= len(piece)

    def broken() -> None:
        with contextlib.suppress(ArchiveError):
            import_archive(cut, third)

    step("import of half a tar", broken)
    step("import of the whole one", lambda: import_archive(archive, third))
    if any(check_store(each).damaged for each in (store, other, third)):
        raise SystemExit("a store is damaged")
    return tuple(steps)


def _model(size: int, path: Path) -> Packaged:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("weights", np.frombuffer(np.random.default_rng(8).bytes(size), dtype=np.int8))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    blob = Blob(sha256_of(path), path.stat().st_size)
    return Packaged(path, blob, {"template": "{{ .Prompt }}"}, ("large:f16", "large:latest"))


def _io() -> tuple[int, int]:
    """Bytes that this process has read and written, by system calls."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"]), int(fields["wchar"])


def _peak_memory() -> int:
    """MiB since the peak began anew."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) >> 10


@contextlib.contextmanager
def _scratch(folder: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ggufpack-bench-", dir=folder) as made:
        yield Path(made)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bytes", type=int, default=1_000_000_000)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: the system's")
    chosen = parser.parse_args()
    with _scratch(chosen.folder) as folder:
        for step in measure(chosen.bytes, folder):
            print(
                f"{step.name:24} {step.seconds:6.2f} s  read {step.read:.3f} x  written {step.written:.3f} x"
            )
    print(f"peak memory {_peak_memory()} MiB")


if __name__ == "__main__":
    main()
