"""An archive of a store, changed: refused, or imported whole; nothing is written outside of the store, and
nothing in it has another digest than its name."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

from ggufpack.errors import ArchiveError, ModelExistsError, StoreError
from ggufpack.registry.names import parse
from ggufpack.store.folder import StoreFolder
from ggufpack.store.index import INDEX_NAME, Index, blob_member, encode_index, manifest_member
from ggufpack.store.manifest import Blob, Layer, encode_manifest
from ggufpack.store.unpack import import_archive
from tests.fuzz import scratch

WORDS = (
    b"ustar\x0000",
    b"../../x",
    b"/etc/x",
    b"blobs/sha256-",
    b"path=",
    b"size=",
    b"GNU.sparse.map=",
    b"\x80",
)


def one_input(data: bytes) -> None:
    outside = scratch.folder() / "import"
    shutil.rmtree(outside, ignore_errors=True)
    store = StoreFolder(outside / "store")
    store.root.mkdir(parents=True)
    archive = scratch.put("store.tar", data)
    try:
        imported = import_archive(archive, store)
    except (ArchiveError, ModelExistsError) as error:
        str(error).encode()
        assert not store.names()
    except StoreError as error:
        assert "no room" in str(error)
    else:
        assert set(imported.models) == {str(name) for name in store.names().values()}
    assert [path.name for path in outside.iterdir()] == ["store"]
    for path in (store.root / "blobs").glob("*"):
        if not path.name.endswith("-partial"):
            assert path.name == f"sha256-{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert not any(path.is_symlink() for path in _all(store.root))


def _all(folder: Path) -> Iterator[Path]:
    yield from folder.rglob("*")


def seeds() -> Iterator[bytes]:
    for contents in ((b"{}",), (b"{}", b"GGUF" * 40)):
        layers = [Layer("application/vnd.ollama.image.model", Blob.of(content)) for content in contents]
        manifest = encode_manifest(layers[0], tuple(layers[1:]))
        blobs = tuple(sorted(Blob.of(content) for content in contents))
        name = parse("model")
        index = encode_index(Index(blobs, {name: Blob.of(manifest)}))
        by_digest = {Blob.of(content): content for content in contents}
        members = [(INDEX_NAME, index), *((blob_member(blob), by_digest[blob]) for blob in blobs)]
        members.append((manifest_member(name), manifest))
        yield _tar(members)
        yield _tar(members, pax=True)


def _tar(members: list[tuple[str, bytes]], *, pax: bool = False) -> bytes:
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=tarfile.PAX_FORMAT if pax else tarfile.USTAR_FORMAT
    ) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.pax_headers = {"comment": "x"} if pax else {}
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue().rstrip(b"\0") + bytes(1024)
