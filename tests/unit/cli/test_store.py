"""``ggufpack store`` on small stores; ``add`` needs a package: tests/integration/test_store.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ggufpack.cli.main import main
from ggufpack.store.manifest import Blob
from tests.unit.store.builders import TEXTS, WEIGHTS, contents_of, small_store


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["store", *map(str, words)])


def answer(*words: str | Path, exit_code: int = 0) -> dict[str, Any]:
    done = run(*words, "--json", "--quiet")
    assert done.exit_code == exit_code, done.output
    assert done.stderr == ""
    return dict(json.loads(done.stdout))


def test_there_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there, archive = tmp_path / "here", tmp_path / "there", tmp_path / "models.tar"
    small_store(here)
    exported = answer("export", "small", "-o", archive, "--store", here)
    assert list(exported["models"]) == ["small:latest"]
    assert exported["blobs"] == 4
    assert exported["bytes"] == archive.stat().st_size
    # a store that is not named is the server's
    monkeypatch.setenv("OLLAMA_MODELS", str(there))
    imported = answer("import", archive)
    size = sum(map(len, (WEIGHTS, *TEXTS)))
    assert imported == {
        "store": str(there),
        "models": exported["models"],
        "written": 4,
        "kept": 0,
        "bytes": size,
    }
    checked = answer("verify")
    assert checked["models"] == exported["models"]
    assert checked["bytes"] == size
    assert checked["damaged"] == {}
    assert run("verify").stdout == f"small:latest  {exported['models']['small:latest'][:12]}  whole\n"
    assert "0 blobs written (0.0 MB), 4 were there" in run("import", archive).stdout


def test_damage_is_exit_code_6(tmp_path: Path) -> None:
    store = small_store(tmp_path)
    store.blobs.path(Blob.of(WEIGHTS)).unlink()
    store.blobs.path(Blob.of(b"orphan")).write_bytes(b"orphan")
    store.blobs.partial_path(Blob.of(WEIGHTS)).write_bytes(b"begun")
    checked = answer("verify", "--store", tmp_path, exit_code=6)
    assert set(checked["damaged"]) == {"small:latest", "small:q8_0"}
    done = run("verify", "--store", tmp_path)
    assert done.exit_code == 6
    words = done.stdout
    assert f"small:latest  DAMAGED: sha256-{Blob.of(WEIGHTS).sha256} is missing" in words
    assert f"blobs/sha256-{Blob.of(b'orphan').sha256}: named by no model" in words
    assert "ggufpack-partial: unfinished" in words


def test_errors_are_one_object(tmp_path: Path) -> None:
    small_store(tmp_path / "here")
    (tmp_path / "bad.tar").write_bytes(b"no tar")
    before = contents_of(tmp_path)
    bad = answer("import", tmp_path / "bad.tar", "--store", tmp_path / "there", exit_code=6)
    assert bad["error"]["type"] == "RefusedArchiveError"
    none = answer("verify", "--store", tmp_path / "nowhere", exit_code=6)
    assert "is no store of models" in none["error"]["problem"]
    taken = answer("export", "-o", tmp_path / "bad.tar", "--store", tmp_path / "here", exit_code=2)
    assert taken["error"]["action"] == "Pass --overwrite to replace it."
    assert contents_of(tmp_path) == before
