"""Distributions in a folder, and the cache of such folders."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from ggufpack.held import hold
from ggufpack.verification.fidelity import cache
from ggufpack.verification.fidelity.compare import divergence
from ggufpack.verification.fidelity.distributions import (
    DEEPEST,
    Distributions,
    DistributionWriter,
    Rows,
    log_softmax,
)

RANDOM = np.random.default_rng(0)


def logits(tokens: int, vocabulary: int, scale: float = 5.0) -> Rows:
    return (RANDOM.standard_normal((tokens, vocabulary)) * scale).astype(np.float32)


def written(folder: Path, rows: Rows) -> Distributions:
    with DistributionWriter(folder, *rows.shape) as writer:
        writer.add(rows[: len(rows) // 2])
        writer.add(rows[len(rows) // 2 :])
        writer.finish({"reference": "test"})
    return Distributions(folder)


def test_log_softmax() -> None:
    rows = log_softmax(np.array([[1000.0, 1000.0], [0.0, -1000.0]], np.float32))
    assert rows[0] == pytest.approx(np.log([0.5, 0.5]))
    assert rows[1] == pytest.approx([0.0, -1000.0])


def test_what_is_read_is_what_was_written_to_a_level(tmp_path: Path) -> None:
    rows = log_softmax(logits(70, 500))
    found = written(tmp_path / "a", rows)
    assert found.shape == (70, 500)
    assert found.meta == {"reference": "test"}
    back = found.rows(0, 70)
    assert np.abs(back - rows).max() < 5e-4
    assert found.rows(33, 40) == pytest.approx(back[33:40])
    assert np.exp(back).sum(-1) == pytest.approx(np.ones(70), abs=1e-5)
    assert divergence(rows, back).max() < 1e-6


def test_masked_tokens_are_deep_and_finite(tmp_path: Path) -> None:
    values = logits(2, 20)
    values[:, 3] = -np.inf
    back = written(tmp_path / "a", log_softmax(values)).rows(0, 2)
    assert np.isfinite(back).all()
    assert (back[:, 3] < back.max(-1) - DEEPEST + 1).all()


def test_equal_probabilities(tmp_path: Path) -> None:
    back = written(tmp_path / "a", log_softmax(np.zeros((2, 8), np.float32))).rows(0, 2)
    assert back == pytest.approx(np.full((2, 8), np.log(1 / 8)))


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    writer = DistributionWriter(tmp_path / "a", 4, 10)
    with pytest.raises(ValueError, match="2 of 4"), writer:
        writer.add(log_softmax(logits(2, 10)))
        writer.finish({})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_noticed_before_the_map_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int, _offset: int, _size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        DistributionWriter(tmp_path / "a", 4, 10)
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_writers_stays(tmp_path: Path) -> None:
    first = written(tmp_path / "a", log_softmax(logits(2, 10))).rows(0, 2)
    assert written(tmp_path / "a", log_softmax(logits(2, 10))).rows(0, 2) == pytest.approx(first)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_least_used_go_first(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "middle", "old")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "levels").write_bytes(b"x" * 100)
        os.utime(folder, (1e9 - age, 1e9 - age))
    (tmp_path / ".half").mkdir()
    held = hold(tmp_path / ".half")
    assert held is not None
    assert cache.use(tmp_path / "old")
    assert not cache.use(tmp_path / "missing")
    cache.prune(tmp_path / "new", limit=250)
    assert {path.name for path in tmp_path.iterdir()} == {"old", "new", ".half"}
    cache.prune(tmp_path / "new", limit=0)
    assert {path.name for path in tmp_path.iterdir()} == {"new", ".half"}
    os.close(held)  # nobody writes it any more
    cache.prune(tmp_path / "new", limit=0)
    assert {path.name for path in tmp_path.iterdir()} == {"new"}


def test_a_key_depends_on_every_part() -> None:
    keys = {cache.digest_of(a=1, b=[2]), cache.digest_of(a=1, b=[3]), cache.digest_of(a=2, b=[2])}
    assert len(keys) == 3
    assert cache.digest_of(b=[2], a=1) in keys
