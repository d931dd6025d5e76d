"""What lies under URLs, through fsspec: listed, read, hashed. Packages are written in ``transfer``."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol, TypeAlias

from ggufpack.batch.urls import without_secrets
from ggufpack.batch.waiting import TooManyBytesError, waited
from ggufpack.errors import CheckpointFileError, GgufpackError, UsageError

# size, mtime in ns, inode, device; of a URL: size, 0, what the store says of the content and its time, 0
Signature: TypeAlias = tuple[int, int, int, int]
_CHUNK = 1 << 20
_MOST_SIZE = 1 << 63
# keys of fsspec's ``info`` by which stores say that a file is another one: S3, GCS, Azure, Hugging Face,
# HTTP, SFTP, local files
_MARKS = (
    *("ETag", "etag", "md5Hash", "md5", "content_md5", "crc32c", "checksum", "generation", "VersionId"),
    *("blob_id", "oid", "LastModified", "last_modified", "mtime", "updated", "created", "ino"),
)


class Hash(Protocol):
    """Of ``hashlib`` and ``blake3``."""

    def update(self, data: bytes, /) -> Any:
        """Take more bytes in."""

    def hexdigest(self) -> str:
        """Of all of them."""


@dataclass(frozen=True)
class Filesystem:
    """An open storage, and the path of a URL in it."""

    handle: Any
    root: str

    def path(self, name: str) -> str:
        """Of what lies in the folder under a name."""
        return f"{self.root}/{name}"


def opened(url: str) -> Filesystem:
    """Nothing that another object listed earlier is believed. To be called in ``named(url)``."""
    import fsspec

    handle, root = fsspec.url_to_fs(url, use_listings_cache=False)
    handle.invalidate_cache()
    return Filesystem(handle, str(root).rstrip("/"))


def exists(url: str) -> bool:
    """Whether there is something under a URL.

    Raises:
        UsageError: the storage cannot be asked.
    """

    def ask() -> bool:
        storage = opened(url)
        return bool(storage.handle.exists(storage.root))

    with named(url):
        return waited(ask)


def size_of(url: str) -> int:
    """Bytes of a file; 0 when there is none.

    Raises:
        UsageError: the storage cannot be asked.
    """

    def ask() -> int:
        storage = opened(url)
        return int(storage.handle.size(storage.root) or 0) if storage.handle.exists(storage.root) else 0

    with named(url):
        return waited(ask)


def listing(url: str, depth: int) -> dict[str, int]:
    """Name in the folder (``checkpoint-5/config.json``) to bytes, of all files down to a depth (1: its own).

    Raises:
        CheckpointFileError: a name leads out of the folder.
        UsageError: the storage cannot be asked.
    """
    with named(url):
        storage = opened(url)
        found: Mapping[str, Any] = waited(
            lambda: storage.handle.find(storage.root, maxdepth=depth, detail=True)
        )
        names = {_inside(url, storage.root, name): _size(url, info) for name, info in found.items()}
    return {name: names[name] for name in sorted(names) if name}


def _inside(url: str, root: str, name: str) -> str:
    """Relative to the folder; empty for the folder's own placeholder in an object store."""
    if name.rstrip("/") == root:
        return ""
    inside = name.removeprefix(f"{root}/")
    if inside == name or "\0" in inside or any(part in ("", ".", "..") for part in inside.split("/")):
        raise CheckpointFileError(
            f"{url} has a file whose name leads elsewhere: {name!r}.", action="Remove or rename it."
        )
    return inside


def _size(url: str, info: Mapping[str, Any]) -> int:
    """Of a file; some stores tell none of folders, and of files that are empty."""
    size = int(info["size"] or 0)
    if not 0 <= size < _MOST_SIZE:
        raise CheckpointFileError(f"{url} has a file of {size} bytes.", action="Check the storage.")
    return size


def folders(pattern: str) -> list[str]:
    """URLs of the folders that a glob matches.

    Raises:
        UsageError: the storage cannot be asked.
    """
    with named(pattern):
        storage = opened(pattern)
        found: Mapping[str, Any] = waited(lambda: storage.handle.glob(storage.root, detail=True))
        matches = [name.rstrip("/") for name, info in found.items() if info["type"] == "directory"]
        return [str(storage.handle.unstrip_protocol(name)) for name in matches]


def signature(url: str) -> Signature:
    """By which a change of a file shows, as far as its store tells.

    Raises:
        CheckpointFileError: it is gone.
        UsageError: the storage cannot be asked.
    """
    with named(url, missing="was it removed meanwhile?"):
        storage = opened(url)
        info: Mapping[str, Any] = waited(lambda: storage.handle.info(storage.root))
        size = _size(url, info)
        marks = [f"{key}={info[key]}" for key in _MARKS if info.get(key)]
    said = hashlib.sha256(json.dumps(marks).encode()).digest() if marks else b""
    return size, 0, int.from_bytes(said[:8], "big") >> 1, 0


def tells_changes(state: Signature) -> bool:
    """Whether another content would have another signature: a URL's store may tell nothing but the size."""
    return any(state[1:])


def read(url: str, start: int, end: int) -> bytes:
    """Bytes of a file.

    Raises:
        CheckpointFileError: it is gone.
        UsageError: the storage cannot be asked.
    """
    with named(url, missing="was it removed meanwhile?"):
        storage = opened(url)
        found: bytes = waited(lambda: storage.handle.cat_file(storage.root, start=start, end=end))
    if len(found) > end - start:  # the store took no notice of the range
        raise CheckpointFileError(f"{url} sent {len(found)} bytes, and {end - start} were asked for.")
    return found


def write(url: str, content: bytes) -> None:
    """A small file of one piece.

    Raises:
        UsageError: the storage cannot be used.
    """
    with named(url):
        storage = opened(url)
        storage.handle.makedirs(str(PurePosixPath(storage.root).parent), exist_ok=True)
        storage.handle.pipe_file(storage.root, content)


def digest(url: str, hasher: Hash) -> str | None:
    """Of a file's content, in hex, read in pieces; ``None`` when there is no such file.

    Raises:
        UsageError: the storage cannot be asked.
    """
    with named(url):
        storage = opened(url)
        try:
            with storage.handle.open(storage.root, "rb", cache_type="readahead") as file:
                return hashed(file, hasher)
        except (FileNotFoundError, IsADirectoryError):
            return None


def hashed(file: Any, hasher: Hash) -> str:
    """Of what an open binary file has left."""
    while block := file.read(_CHUNK):
        hasher.update(block)
    return hasher.hexdigest()


@contextlib.contextmanager
def named(url: str, *, missing: str | None = None) -> Iterator[None]:
    """What fsspec and its drivers raise (each its own), as an error that names the URL.

    Args:
        url: that is used.
        missing: what to say of a file that is not there, as a ``CheckpointFileError``.
    """
    try:
        yield
    except (GgufpackError, TooManyBytesError):
        raise
    except ImportError as error:
        raise UsageError(
            f"{url} needs a package that is not installed ({_first_line(error)}).",
            action=f"Run: pip install {package}" if (package := _package(url)) else None,
        ) from error
    except Exception as error:
        if missing is not None and isinstance(error, FileNotFoundError):
            raise CheckpointFileError(f"{url} cannot be read: {missing}") from error
        raise UsageError(
            f"{url} cannot be used ({type(error).__name__}: {_first_line(error)}).",
            action="Check the URL, and the credentials of the machine that carries it out.",
        ) from error


def _first_line(error: Exception) -> str:
    return without_secrets(next(iter(str(error).strip().splitlines()), ""))


def _package(url: str) -> str | None:
    """Which has the driver of a protocol; ``None`` for fsspec's own, whose errors name it."""
    from fsspec.registry import known_implementations

    known = known_implementations.get(url.partition(":")[0], {})
    package = str(known.get("class", "fsspec")).partition(".")[0]
    return None if package == "fsspec" else package
