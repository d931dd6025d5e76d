"""What a build's bytes must not depend on, and builds under each."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ggufpack.package_folder import RECORD_NAME

_SIMD: Mapping[str, Any] = dict(np.show_config(mode="dicts")["SIMD Extensions"])
_NUMPY_DISPATCH = " ".join(_SIMD.get("found", []))
SHUFFLED = Path(__file__).with_name("shuffled")
QUANTIZATIONS = ("Q4_K_M", "Q8_0", "Q2_K", "IQ4_XS", "F16")
# what says when, where and how fast
_VOLATILE = ("created", "seconds", "peak_worker_rss")


@dataclass(frozen=True)
class Variation:
    """One difference between two machines.

    Attributes:
        environment: variables that both processes get.
        threads: of the encoders.
        umask: of the processes.
        other_day: the checkpoint's files are of another day each.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    threads: int = 2
    umask: int = 0o022
    other_day: bool = False


PLAIN = Variation({"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C.UTF-8"})
ALONE: Mapping[str, Variation] = {
    **{f"hash seed {seed}": Variation({"PYTHONHASHSEED": seed}) for seed in ("1", "4242")},
    "1 thread": Variation(threads=1),
    "7 threads": Variation(threads=7),
    "Turkish, Kiribati time": Variation({"LC_ALL": "tr_TR.UTF-8", "TZ": "Pacific/Kiritimati"}),
    "C locale": Variation({"LC_ALL": "C", "PYTHONUTF8": "0"}),
    "umask 077": Variation(umask=0o077),
    "folders listed backwards": Variation({"PYTHONPATH": str(SHUFFLED)}),
    "files of another day": Variation(other_day=True),
    **{
        f"{kernels} kernels": Variation({"GGUFPACK_KERNELS": kernels})
        for kernels in ("generic", "avx2", "reference")
    },
    "torch without AVX": Variation({"ATEN_CPU_CAPABILITY": "default"}),
    "numpy without AVX": Variation({"NPY_DISABLE_CPU_FEATURES": _NUMPY_DISPATCH}),
    "5 OpenMP threads": Variation({"OMP_NUM_THREADS": "5", "MKL_NUM_THREADS": "5"}),
}
# all that differ from PLAIN in one build: for a test that has no time for each
TOGETHER = Variation(
    {
        "PYTHONHASHSEED": "4242",
        "LC_ALL": "tr_TR.UTF-8",
        "TZ": "Pacific/Kiritimati",
        "PYTHONPATH": str(SHUFFLED),
        "GGUFPACK_KERNELS": "generic",
        "ATEN_CPU_CAPABILITY": "default",
        "NPY_DISABLE_CPU_FEATURES": _NUMPY_DISPATCH,
        "OMP_NUM_THREADS": "5",
    },
    threads=3,
    umask=0o077,
    other_day=True,
)


def build(checkpoint: Path, folder: Path, variation: Variation, quantizations: tuple[str, ...]) -> Path:
    """The package of ``checkpoint`` that is made in the new ``folder``.

    Raises:
        RuntimeError: the build failed.
    """
    folder.mkdir()
    source = folder / "model"
    shutil.copytree(checkpoint, source)  # its name is part of the input: of ``general.name``
    if variation.other_day:
        for number, path in enumerate(sorted(source.iterdir())):
            os.utime(path, (number, 1_000_000_000 + number))
    environment = {**os.environ, **PLAIN.environment, **variation.environment}
    paths = [variation.environment.get("PYTHONPATH"), os.environ.get("PYTHONPATH")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    options = ("--no-register", "--verify", "prompts", "--quiet", "--threads", str(variation.threads))
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "ggufpack",
                "build",
                str(source),
                "--name",
                "model",
                "--output",
                str(folder / "out"),
            ),
            *("-q", ",".join(quantizations), *options),
        ],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        umask=variation.umask,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return folder / "out" / "model"


def contents(package: Path) -> dict[str, str]:
    """File name → digest; of the record and the report without what says when, where and how fast."""
    found = {path.name: _digest(path.read_bytes()) for path in package.iterdir()}
    record = json.loads((package / RECORD_NAME).read_text(encoding="utf-8"))
    folder, created = record["checkpoint"]["folder"], record["created"]
    lasting = json.dumps(_lasting(record)).replace(folder, "…")
    page = (package / "report.html").read_text(encoding="utf-8")
    for text in (folder, created, created[:16].replace("T", " ")):
        page = page.replace(text, "…")
    found[RECORD_NAME] = _digest(lasting.encode())
    found["report.html"] = _digest(re.sub(r"\d+(\.\d+)? (s|min|MB|GB)\b", "…", page).encode())
    return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lasting(item) for key, item in value.items() if key not in _VOLATILE}
    return [_lasting(item) for item in value] if isinstance(value, list) else value
