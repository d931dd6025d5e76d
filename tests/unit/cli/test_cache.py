"""``ggufpack cache``, on folders that ``TensorCache`` filled."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ggufpack.cli.main import main
from ggufpack.tensor_cache import TensorCache, entries

pytestmark = pytest.mark.usefixtures("roomy_disk")

DAY = 24 * 3600


def run(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["cache", *words, "--cache", str(folder)])


def answer(folder: Path, *words: str, exit_code: int = 0) -> dict[str, Any]:
    done = run(folder, *words, "--json")
    assert done.exit_code == exit_code, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    assert found.pop("folder") == str(folder)
    return found


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """Three blocks of 1032 bytes, unused for 1, 2 and 3 days; the last one was used after it was made."""
    folder = tmp_path / "cache"
    cache = TensorCache(folder, 10**9)
    for number, kind in enumerate(("Q4_K", "Q6_K", "Q4_K"), 1):
        key = bytes([number]) * 32
        cache.store(key, kind, bytes(1000))
        used = time.time() - number * DAY
        path = folder / key.hex()[:2] / f"{key.hex()}.{kind}"
        os.utime(path, (used, used - (DAY if number == 3 else 0)))
    return folder


def test_show(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGUFPACK_CACHE_SIZE", "2GB")
    assert answer(filled, "show") == {
        "entries": 3,
        "bytes": 3096,
        "limit": 2 * 10**9,
        "used_again": 1,
        "types": {"Q4_K": {"entries": 2, "bytes": 2064}, "Q6_K": {"entries": 1, "bytes": 1032}},
    }
    lines = run(filled, "show").stdout.splitlines()
    assert lines[1] == "3 entries, 0.0 MB of 2.0 GB; 1 were used again"
    assert [line.split() for line in lines[2:]] == [["Q4_K", "2", "0.0", "MB"], ["Q6_K", "1", "0.0", "MB"]]


def test_an_empty_cache_is_no_error_and_is_not_made(tmp_path: Path) -> None:
    folder = tmp_path / "none"
    assert answer(folder, "show")["entries"] == 0
    assert answer(folder, "prune", "--all")["removed"] == 0
    assert answer(folder, "verify") == {"checked": 0, "damaged": 0, "damaged_bytes": 0}
    assert not folder.exists()


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (("--max-size", "2.1kB"), 2),
        (("--older-than", "2.5"), 2),
        (("--older-than", "0.5"), 0),
        (("--older-than", "2.5", "--max-size", "1100"), 1),
        (("--all",), 0),
        ((), 3),
    ],
)
def test_prune(words: tuple[str, ...], left: int, filled: Path) -> None:
    assert answer(filled, "prune", *words) == {
        "removed": 3 - left,
        "removed_bytes": (3 - left) * 1032,
        "unfinished": 0,
        "entries": left,
        "bytes": left * 1032,
    }
    assert len(list(entries(filled))) == left


def test_prune_without_options_keeps_the_bound(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGUFPACK_CACHE_SIZE", "1100")
    assert run(filled, "prune").stdout == "2 entries removed (2,064 bytes), 1 kept (1,032 bytes)\n"


def test_verify_removes_damage_and_is_1(filled: Path) -> None:
    assert run(filled, "verify").stdout == "3 entries read, 0 damaged and removed (0 bytes)\n"
    entry = next(entries(filled))
    entry.path.write_bytes(bytes(entry.size))
    assert answer(filled, "verify", exit_code=1) == {"checked": 3, "damaged": 1, "damaged_bytes": 1032}
    assert answer(filled, "verify") == {"checked": 2, "damaged": 0, "damaged_bytes": 0}


@pytest.mark.parametrize("command", ["show", "prune", "verify"])
def test_a_file_is_refused_by_a_sentence(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    done = run(tmp_path / "file", command)
    assert done.exit_code == 2
    assert f"Error: The tensor cache {tmp_path / 'file'} is not a folder.\n" in done.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_a_size_that_is_none_is_refused_before_anything_goes(filled: Path) -> None:
    done = run(filled, "prune", "--max-size", "much", "--older-than", "0")
    assert done.exit_code == 2
    assert "'much' is no size" in done.stderr
    assert len(list(entries(filled))) == 3
