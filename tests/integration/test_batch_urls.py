"""Batches whose checkpoints and packages are named by URL, with real builds by both executors."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ggufpack.packages import sha256_of
from tests.support.batch import JOURNAL, command, kill_all, training_output

OPTIONS = ("--verify", "none", "-q", "Q8_0", "--template", "chatml", "--no-reuse", "--no-register")
OTHERS = ("Modelfile", "ggufpack.json", "report.html")


@pytest.fixture
def bucket(tiny_model: Callable[[str], Path], tmp_path: Path) -> Path:
    training_output(tiny_model("llama-224"), tmp_path / "bucket" / "run", [1, 2])
    return tmp_path / "bucket"


def batch(folder: Path, *words: str | Path) -> tuple[int, dict[str, Any], str]:
    """Exit code, the JSON object, stderr; run in ``folder``."""
    done = subprocess.run(
        command("batch", "--json", *OPTIONS, *words),
        cwd=_made(folder),
        env=_environment(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.count("\n") == 1, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def _made(folder: Path) -> Path:
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    return folder


def _environment(folder: Path) -> dict[str, str]:
    """Temporary files in the folder; the checkout is found from there."""
    words = [word for word in os.environ.get("PYTHONPATH", "").split(os.pathsep) if word]
    path = os.pathsep.join(str(Path(word).absolute()) for word in words)
    return {**os.environ, "TMPDIR": str(folder / "tmp"), "PYTHONPATH": path}


def statuses(found: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    return {item["key"]: (item["status"], item["reused"]) for item in found["items"]}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def temporary(folder: Path) -> list[Path]:
    """Temporary files; the empty folder that this user's are in stays."""
    return [
        path for path in (folder / "tmp").glob("*") if not path.name.startswith("ggp-") or any(path.iterdir())
    ]


def test_from_url_to_url(bucket: Path, tmp_path: Path) -> None:
    url, output = f"file://{bucket}/run/checkpoint-*", f"file://{bucket}/packages"
    code, found, errors = batch(tmp_path / "here", url, "--output", output)
    assert code == 0, errors
    assert statuses(found) == {"run-1": ("unverified", False), "run-2": ("unverified", False)}
    assert names(bucket / "packages") == {"run-1", "run-2", "index.html"}
    assert names(tmp_path / "here") == {JOURNAL, "tmp"}
    assert temporary(tmp_path / "here") == []
    item = found["items"][1]
    assert item["checkpoint"] == f"file://{bucket}/run/checkpoint-2"
    assert item["result"]["folder"] == item["folder"] == f"{output}/run-2"
    assert found["index"] == f"{output}/index.html"
    record = (bucket / "packages" / "run-2" / "ggufpack.json").read_text()
    assert json.loads(record)["checkpoint"]["folder"] == item["checkpoint"]
    assert str(tmp_path / "here") not in record

    code, _, errors = batch(tmp_path / "local", bucket / "run", "--output", tmp_path / "packages")
    assert code == 0, errors
    gguf = "run-2/run-2-Q8_0.gguf"
    assert (tmp_path / "packages" / gguf).read_bytes() == (bucket / "packages" / gguf).read_bytes()

    shutil.copytree(bucket / "run" / "checkpoint-1", bucket / "run" / "checkpoint-3")
    (bucket / "packages" / "run-1" / "Modelfile").write_text("FROM elsewhere")
    weights = bucket / "run" / "checkpoint-2" / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    code, found, errors = batch(tmp_path / "here", url, "--output", output)
    assert statuses(found) == {f"run-{step}": ("unverified", False) for step in (1, 2, 3)}, errors
    code, found, errors = batch(tmp_path / "here", url, "--output", output, "--trust-mtime")
    assert statuses(found) == {f"run-{step}": ("unverified", True) for step in (1, 2, 3)}, errors


def test_kills_at_random_moments(bucket: Path, tmp_path: Path) -> None:
    """Nothing is lost, nothing half lies under a final name, and nothing is left at the end."""
    here = tmp_path / "here"
    words = [f"file://{bucket}/run", "--output", f"file://{bucket}/packages"]
    chance = random.Random(7)
    for _ in range(3):
        process = subprocess.Popen(
            command("batch", *OPTIONS, *words),
            cwd=_made(here),
            env=_environment(here),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(chance.uniform(3, 12))
        kill_all(process)
        for package in bucket.glob("packages/run-*"):
            assert names(package) == {f"{package.name}-Q8_0.gguf", *OTHERS}
    code, found, errors = batch(here, *words)
    assert code == 0, errors
    assert set(statuses(found)) == {"run-1", "run-2"}
    assert names(bucket / "packages") == {"run-1", "run-2", "index.html"}
    assert names(here) == {JOURNAL, "tmp"}
    assert temporary(here) == []
    for item in found["items"]:
        (file,) = item["result"]["files"]
        assert sha256_of(Path(file["path"].removeprefix("file://"))) == file["sha256"]
    assert batch(here, *words)[1]["reused"] == 2
