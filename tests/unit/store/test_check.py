"""The check of a store names every kind of damage."""

from __future__ import annotations

from pathlib import Path

from ggufpack.spec import Event, Progress
from ggufpack.store.check import check_store
from ggufpack.store.manifest import Blob
from tests.unit.store.builders import TEXTS, WEIGHTS, put_model, small_store

BLOB = Blob.of(WEIGHTS)


def test_a_whole_store(tmp_path: Path) -> None:
    store = small_store(tmp_path)
    events: list[Event] = []
    checked = check_store(store, events.append)
    assert set(checked.models) == {"small:q8_0", "small:latest"}
    assert checked.models["small:latest"] == Blob.of((next(tmp_path.rglob("latest"))).read_bytes()).sha256
    assert not checked.damaged
    assert not checked.orphans
    assert not checked.unfinished
    # each blob once, though two names need it
    assert checked.bytes == sum(map(len, (WEIGHTS, *TEXTS)))
    last = events[-1]
    assert isinstance(last, Progress)
    assert last.done == last.total == checked.bytes


def test_every_damage_has_its_words(tmp_path: Path) -> None:
    store = small_store(tmp_path, ["changed"])
    put_model(store, ["short"], (b"weights of short", b"c1"))
    put_model(store, ["missing"], (b"weights of missing", b"c2"))
    put_model(store, ["torn"], (b"weights of torn", b"c3"))
    put_model(store, ["whole"], (b"weights of whole", b"c4"))
    content = bytearray(WEIGHTS)
    content[-1] ^= 1
    store.blobs.path(BLOB).write_bytes(content)
    store.blobs.path(Blob.of(b"weights of short")).write_bytes(b"weights")
    store.blobs.path(Blob.of(b"weights of missing")).unlink()
    (torn,) = tmp_path.rglob("torn/latest")
    torn.write_bytes(torn.read_bytes()[:50])
    store.blobs.partial_path(BLOB).write_bytes(b"begun")
    strange = tmp_path / "manifests/registry.ollama.ai/library/whole/.bad"
    strange.write_text("{}")
    checked = check_store(store)
    assert set(checked.models) == {"whole:latest"}
    assert checked.damaged["changed:latest"] == (f"sha256-{BLOB.sha256} has another content",)
    assert checked.damaged["short:latest"][0].endswith("has 7 bytes, not 16")
    assert checked.damaged["missing:latest"][0].endswith("is missing")
    assert checked.damaged["torn:latest"][0].startswith("its manifest is damaged")
    assert len(checked.damaged) == 5
    assert len(checked.orphans) == 2  # torn's weights and config
    assert checked.unfinished == (store.blobs.partial_path(BLOB).name,)
