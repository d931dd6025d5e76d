"""Names in a store, and models that come into it whole or not at all."""

from __future__ import annotations

import errno
import io
from pathlib import Path

import pytest

from ggufpack.errors import InvalidModelNameError, ModelExistsError, StoreError
from ggufpack.registry.names import parse
from ggufpack.store.folder import StoreFolder, default_store, name_of_path
from ggufpack.store.manifest import Blob
from tests.unit.store.builders import contents_of, put_model, small_store


@pytest.mark.parametrize(
    ("value", "expected"),
    [("/models", "/models"), (' "/a b" ', "/a b"), ("", str(Path.home() / ".ollama" / "models"))],
)
def test_the_default_is_the_server_s(value: str, expected: str) -> None:
    assert str(default_store({"OLLAMA_MODELS": value})) == expected


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("registry.ollama.ai/library/small/latest", "small:latest"),
        ("registry.ollama.ai/team/small/q8_0", "team/small:q8_0"),
        ("localhost:5000/team/small/q8_0", "localhost:5000/team/small:q8_0"),
        ("registry.ollama.ai/library/small", None),
        ("registry.ollama.ai/library/small/latest/more", None),
        ("registry.ollama.ai/library/../latest", None),
        ("../../../etc", None),
        ("/etc/cron.d/x/y", None),
        ("registry.ollama.ai/library/small/a:b", None),
        ("registry.ollama.ai//small/latest", None),
        ("registry.ollama.ai/library/small/.hidden", None),
    ],
)
def test_name_of_path(path: str, name: str | None) -> None:
    found = name_of_path(path)
    assert (None if found is None else str(found)) == name


def test_names_and_manifests(tmp_path: Path) -> None:
    store = small_store(tmp_path / "store", ["small:q8_0", "team/Small"])
    assert set(map(str, store.names().values())) == {"small:q8_0", "team/Small:latest"}
    assert store.read(parse("small:q8_0")) == store.read(parse("team/Small"))
    with pytest.raises(StoreError, match=r'no model "absent:latest"'):
        store.read(parse("absent"))
    # nothing but what a server writes
    assert {path.name for path in (tmp_path / "store").iterdir()} == {"blobs", "manifests"}
    assert {path.name for path in (tmp_path / "store/manifests").iterdir()} == {"registry.ollama.ai"}


def test_a_taken_name(tmp_path: Path) -> None:
    store = small_store(tmp_path, ["Small:Q8_0"])
    manifest = store.read(parse("Small:Q8_0"))
    store.refuse_existing(["small:q8_0"], manifest)  # the same model is no harm
    store.refuse_existing(["small:other"])
    with pytest.raises(ModelExistsError, match="small:q8_0"):
        store.refuse_existing(["small:q8_0"])
    with pytest.raises(InvalidModelNameError):
        store.refuse_existing(["../up"])
    other = put_model(store, ["small:q8_0"], (b"other", b"config"))
    # in the place that it had: the server folds case, and would show two
    assert store.read(parse("Small:Q8_0")) == other
    assert len(store.names()) == 1


def test_what_is_not_published_goes(tmp_path: Path) -> None:
    store = small_store(tmp_path)
    before = contents_of(tmp_path)
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), store.writing() as writer:
            writer.put(Blob.of(b"new"), io.BytesIO(b"new"), lambda _count: None)
            writer.put(Blob.of(b"a config"), io.BytesIO(b"a config"), lambda _count: None)  # it was there
            assert contents_of(tmp_path) != before
            raise error
        assert contents_of(tmp_path) == before


@pytest.mark.parametrize("calls", [1, 2])  # one copy of what there was comes before
def test_names_that_could_not_be_made_durable_are_as_before(
    tmp_path: Path, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was replaced, and one that was not there: a manifest must not name blobs that were removed."""
    store = small_store(tmp_path)
    before = contents_of(tmp_path)
    synced = []

    def refuse(folder: Path) -> None:
        synced.append(folder)
        if len(synced) > calls and folder.name in ("small", "another"):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ggufpack.store.folder.sync", refuse)
    with pytest.raises(StoreError, match="no room"):
        put_model(store, ["small:q8_0", "another:one"], (b"new", b"a config"))
    assert any(folder.name == "small" for folder in synced)
    assert contents_of(tmp_path) == before


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is no store of models"):
        StoreFolder(tmp_path).must_exist()
