"""What the process of one conversion may read and write."""

from __future__ import annotations

import importlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ggufpack.checkpoint.links import linked_files
from ggufpack.confinement import Confinement
from ggufpack.convert.protocol import Job

# a file has at most the source's weights as float32, and the most packed source has four bits for each
_GROWTH = 8
_SPARE_BYTES = 1 << 30  # metadata, a vocabulary, modules


def confinement_of(job: Job, libraries: Iterable[Path], scratch: Path) -> Confinement:
    """What the job needs, and no more.

    Code of the checkpoint could put wrong blocks under other models' names into the tensor cache, so it
    only reads it.

    Args:
        job: its output files exist.
        libraries: folders of the converter and its compiled files.
        scratch: a folder of the process's own.
    """
    inputs = [job.checkpoint, *linked_files(job.checkpoint), *_named_files(job)]
    read, write = [*libraries, *inputs], [scratch]
    if job.cache is not None:
        (read if job.trust_remote_code or job.plan_only else write).append(job.cache)
    if not job.plan_only:
        write += [path for _, path in job.outputs]
        write += [] if job.projector is None else [job.projector]
    longest = _GROWTH * sum(map(size_of, inputs)) + _SPARE_BYTES
    files = len(job.outputs) + (job.projector is not None) + (job.cache is not None)
    return Confinement(tuple(read), tuple(write), longest_file=longest, written=longest * (files + 1))


def keep_files_in(scratch: Path) -> None:
    """Temporary files, and what transformers copies of the checkpoint's own code, if it is loaded."""
    os.chdir(scratch)
    os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)
    if "transformers" in sys.modules:
        modules = importlib.import_module("transformers.dynamic_module_utils")
        modules.HF_MODULES_CACHE = str(scratch / "modules")  # type: ignore[attr-defined]


def _named_files(job: Job) -> Iterator[Path]:
    if job.imatrix is not None:
        yield job.imatrix
    for _, path in job.earlier:
        yield path
    if job.merge is not None:
        yield from sorted(set(_stored_files(job.merge)))
    if job.layer is not None:
        folder = Path(job.layer["folder"])
        yield folder
        yield from linked_files(folder)


def _stored_files(data: Any) -> Iterator[Path]:
    """Of every ``checkpoint.merge.Stored`` in the JSON data."""
    if isinstance(data, dict):
        if isinstance(data.get("file"), str) and "name" in data:
            yield Path(data["file"])
        for value in data.values():
            yield from _stored_files(value)
    elif isinstance(data, list):
        for value in data:
            yield from _stored_files(value)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all in a folder; links count nothing, their files do."""
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        return status.st_size
    return sum(Path(inner, name).lstat().st_size for inner, _, names in os.walk(path) for name in names)
