"""What an item is made from, by digest: its files and its options."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from blake3 import blake3

from ggufpack import __version__
from ggufpack.batch import storage
from ggufpack.batch.model_files import listed, model_files
from ggufpack.batch.storage import Signature
from ggufpack.batch.urls import url_of
from ggufpack.checkpoint import locate
from ggufpack.checkpoint.layout import has_adapter
from ggufpack.errors import CheckpointFileError, CheckpointLayoutError
from ggufpack.spec import BuildSpec
from ggufpack.vendoring.lock import load_lock

# fields of BuildSpec that change how a package is made, and nothing in it
_NOT_IN_THE_PACKAGE = frozenset(
    {"require_server", "overwrite", "threads", "device", "reuse", "cache", "token", "aliases", "store"}
)
# (path, signature) → digest, when it is known for exactly this signature
Known: TypeAlias = Callable[[Path, Signature], "str | None"]


@dataclass(frozen=True)
class Inputs:
    """The files that a build reads, each with its state when it was looked at."""

    files: Mapping[Path, Signature]

    @classmethod
    def of(cls, spec: BuildSpec) -> Inputs:
        """Look at the files of a spec.

        Raises:
            GgufpackError: the checkpoint is gone or is none.
        """
        try:
            return cls({path: signature(path) for path in sorted(set(_files(spec)))})
        except OSError as error:
            raise CheckpointFileError(
                f"{error.filename} cannot be read: {error.strerror}.", action="Was it removed meanwhile?"
            ) from error

    def unchanged(self) -> bool:
        """Whether all files are as they were looked at: none was replaced, written or removed."""
        try:
            return all(signature(path) == state for path, state in self.files.items())
        except (OSError, CheckpointFileError):
            return False

    def digest(self, known: Known = lambda _path, _state: None) -> tuple[str, dict[Path, str]]:
        """blake3 over all names and contents; and of each file.

        Raises:
            CheckpointFileError: a file is gone.
        """
        digests: dict[Path, str] = {}
        whole = blake3()
        for path, state in self.files.items():
            found = known(path, state) if storage.tells_changes(state) else None
            digests[path] = found or file_digest(path)
            whole.update(f"{path}\0{digests[path]}\n".encode())
        return whole.hexdigest(), digests


def spec_digest(spec: BuildSpec) -> str:
    """sha256 over all options that shape the package, ggufpack's version and the converter's tree."""
    options = {key: value for key, value in asdict(spec).items() if key not in _NOT_IN_THE_PACKAGE}
    options |= {"ggufpack": __version__, "converter": load_lock().tree_sha256}
    text = json.dumps(options, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """blake3 of a file's content; that of a URL is read in pieces, and never wholly here.

    Raises:
        CheckpointFileError: it cannot be read.
    """
    url = url_of(path)
    if url is not None:
        hasher: Any = blake3()
        found = storage.digest(url, hasher)
        if found is None:
            raise CheckpointFileError(f"{url} cannot be read: was it removed meanwhile?", path=path)
        return found
    try:
        return blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()
    except OSError as error:
        raise CheckpointFileError(
            f"{path} cannot be read: {error.strerror or error}.",
            action="Was it removed meanwhile?",
            path=path,
        ) from error


def signature(path: Path) -> Signature:
    """State of a file, by which a change shows, as far as the filesystem's clock or the store tells."""
    url = url_of(path)
    if url is not None:
        return storage.signature(url)
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev


def _plain(value: object) -> object:
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)


def _files(spec: BuildSpec) -> Iterator[Path]:
    for folder in (spec.checkpoint, *(one.folder for one in spec.adapters)):
        yield from _model_files(folder)
    if spec.base is not None:
        yield from _model_files(spec.base)
    for extra in (spec.imatrix, spec.calibration, Path(spec.template)):
        if extra is not None and extra.is_file():
            yield extra
        elif extra is not None and extra == spec.calibration and extra.is_dir():
            yield from (path for path in extra.rglob("*") if path.is_file())


def _model_files(folder: Path) -> Iterator[Path]:
    """Of a checkpoint or an adapter, of this machine or by URL."""
    url = url_of(folder)
    if url is None:
        folder = folder if has_adapter(folder) else locate(folder)
        names = listed(folder)
    else:
        names = list(storage.listing(url, 2))
        if not names:
            raise CheckpointLayoutError(f"{url} does not exist, or is empty.", action="Check the URL.")
    yield from (folder / name for name in model_files(names))
