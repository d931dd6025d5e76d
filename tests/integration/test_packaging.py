"""A wheel carries what the program reads, and the program finds it there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from ggufpack import vendoring

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: setuptools builds in the source folder, and takes what an older build left."""
    vendoring.require()  # a wheel built where the converter is synced carries it
    folder = tmp_path_factory.mktemp("source")
    for name in ("ggufpack", "templates", "vendor", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _wheel_of(source, tmp_path_factory.mktemp("wheel"))


def _wheel_of(source: Path, folder: Path, **env: str) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*command, "--wheel-dir", str(folder), str(source)],
        check=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **env},
    )
    (made,) = folder.glob("*.whl")
    return made


def test_what_is_in_it(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for wanted in (
        "ggufpack/py.typed",
        "ggufpack/_data/templates/Modelfile.jinja",
        "ggufpack/_data/templates/chat/chatml.jinja",
        "ggufpack/_data/vendor/llama.cpp.lock.toml",
        "ggufpack/_data/vendor/llama.cpp/PROVENANCE.json",
        "ggufpack/_data/vendor/llama.cpp/convert_hf_to_gguf.py",
        "ggufpack/_data/vendor/llama.cpp/LICENSE",
        "ggufpack/quantize/_native.abi3.so",
    ):
        assert wanted in names
    assert "-cp310-abi3-" in wheel.name
    assert not [name for name in names if name.endswith((".c", ".h"))]
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]
    assert not [name for name in names if name.endswith((".pyc", ".gguf", ".safetensors"))]


def test_it_finds_its_data(wheel: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*command, str(wheel)], check=True, stdin=subprocess.DEVNULL)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout

    where = run("-c", "import ggufpack; print(ggufpack.__file__)").strip()
    assert Path(where).is_relative_to(tmp_path)
    status = json.loads(run("-m", "ggufpack", "vendor", "status", "--json"))
    assert status["state"] == "ok"
    assert Path(status["folder"]).is_relative_to(tmp_path)
    assert "chatml" in run("-c", "from ggufpack.chat_template import named; print(named.load('chatml'))")


def test_without_a_compiler_ggml_does_the_work(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "source"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("build"))
    (tmp_path / "wheel").mkdir()
    wheel = _wheel_of(copy, tmp_path / "wheel", CC="false")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]
    unpack = [sys.executable, "-m", "zipfile", "-e", str(wheel), str(tmp_path / "installed")]
    subprocess.run(unpack, check=True)
    code = "from ggufpack.quantize import kernels as k; print(k.__file__, k.load_kernels().name)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    where, name = done.stdout.split()
    assert Path(where).is_relative_to(tmp_path)
    assert name == "reference"


def test_an_sdist_is_enough_for_a_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    """It has the locks, not the converter: the first build fetches that."""
    code = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=source, check=True, capture_output=True, text=True
    )
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / sdist.name.removesuffix(".tar.gz")
    assert (unpacked / "vendor" / "README.md").is_file()
    assert not (unpacked / "vendor" / "llama.cpp").exists()
    (tmp_path / "wheel").mkdir()
    converter = "ggufpack/_data/vendor/llama.cpp/"
    with zipfile.ZipFile(wheel) as ours, zipfile.ZipFile(_wheel_of(unpacked, tmp_path / "wheel")) as theirs:
        assert set(theirs.namelist()) == {name for name in ours.namelist() if not name.startswith(converter)}
