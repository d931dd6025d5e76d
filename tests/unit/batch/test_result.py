"""Exit codes, tables and the page of a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ggufpack.batch.index import write_batch_index
from ggufpack.batch.items import Item, Outcome
from ggufpack.batch.planning import Planned
from ggufpack.batch.result import BatchResult, Row, common_exit_code
from ggufpack.cli.batch_table import table
from ggufpack.spec import BuildSpec


def row(folder: Path, key: str, step: int | None = None, kl: float | None = None, code: int = 0) -> Row:
    spec = BuildSpec(folder / key, name=key, output=folder, register=False)
    fidelity = None if kl is None else {"kl": {"value": kl}, "top1": {"value": 0.987}}
    result: dict[str, Any] = {"files": [{"size": 12_300_000}], "verifications": [{"fidelity": fidelity}]}
    error = {"problem": f"<b>{key}</b>", "exit_code": code} if code else None
    status: Any = {0: "verified", 7: "failed"}.get(code, "error")
    return Row(Planned(Item(key, spec), "run", step, "x"), Outcome(key, status, result, error, 61.0))


@pytest.mark.parametrize(
    ("codes", "expected"), [([], 0), ([0], 0), ([7, 0, 7], 7), ([3], 3), ([3, 7], 1), ([1, 1], 1)]
)
def test_exit_codes(codes: list[int], expected: int) -> None:
    assert common_exit_code([{"exit_code": code} if code else None for code in codes]) == expected


def test_an_interruption_counts_when_something_is_left(tmp_path: Path) -> None:
    done = row(tmp_path, "a", code=7)
    left = Row(row(tmp_path, "b").planned, None)
    assert BatchResult((done, left), (), 1.0, 130).exit_code == 130
    assert BatchResult((done,), (), 1.0, 130).exit_code == 7
    assert left.to_json()["status"] == "interrupted"


def test_the_table(tmp_path: Path) -> None:
    head, first, second = table(
        BatchResult((row(tmp_path, "a", 1, 0.0123), row(tmp_path, "bb", code=3)), (), 1.0)
    )
    assert first.split() == ["a", "verified", "12.3", "MB", "0.0123", "98.7", "%", "61.0", "s"]
    assert second.startswith("bb    error")
    assert head.index("status") == first.index("verified")


def test_the_page(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.html").write_text("")
    rows = (row(tmp_path, "a", 1, 0.5), row(tmp_path, "b", 2, 0.25), row(tmp_path, "c", 3, code=3))
    page = write_batch_index(BatchResult(rows, (), 1.0), tmp_path).read_text()
    assert '<a href="a/report.html">a</a>' in page
    assert "c/report.html" not in page
    assert "&lt;b&gt;c&lt;/b&gt;" in page
    assert "Mean KL divergence by training step" in page
    assert "<script" not in page
    assert page.count("<tr>") == 4
