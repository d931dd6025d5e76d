"""What the person who watches sees."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ggufpack.cli.progress import BarView, LineView, View
from ggufpack.spec import (
    Finding,
    FindingRaised,
    Note,
    Progress,
    Severity,
    Stage,
    StageFinished,
    StageStarted,
)

WARNING = FindingRaised(Finding("GP207", Severity.WARNING, "A head [is] stored.", action="Look."))
INFO = FindingRaised(Finding("GP101", Severity.INFO, "Fine."))


def console() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=False, width=200, soft_wrap=True), out


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("ggufpack.cli.progress.time.monotonic", lambda: now[0])
    return now


def test_quiet_shows_findings_that_matter() -> None:
    target, out = console()
    view = View(target)
    for event in (StageStarted(Stage.CHECKPOINT, "Reading"), INFO, WARNING, Note("hello")):
        view(event)
    assert out.getvalue() == "  GP207 warning: A head [is] stored.\n      Look.\n"


def test_lines_have_rates_and_the_time_left(clock: list[float]) -> None:
    target, out = console()
    view = LineView(target)
    view(StageStarted(Stage.CONVERSION, "Converting"))
    clock[0] += 30  # start-up is no part of the rate
    view(Progress(Stage.CONVERSION, 1, 1000, "bytes"))
    clock[0] += 20
    view(Progress(Stage.CONVERSION, 500_000_000, 1_000_000_000, "bytes"))
    view(Progress(Stage.CONVERSION, 500_000_001, 1_000_000_000, "bytes"))
    view(StageFinished(Stage.CONVERSION, 51.0))
    lines = out.getvalue().splitlines()
    assert lines[0] == "Converting: 1 bytes of 1.0 kB", "no rate before there is one"
    assert lines[1] == "Converting: 500.0 MB of 1.0 GB, 25.0 MB/s, 20 s left"
    assert lines[2:] == ["Converting: 51.0 s"], "not more than a line in ten seconds"


def test_bars_come_and_go(clock: list[float]) -> None:
    out = io.StringIO()
    view = BarView(Console(file=out, force_terminal=True, width=120, highlight=False))
    with view:
        view(StageStarted(Stage.CONVERSION, "Converting"))
        view(Progress(Stage.CONVERSION, 10, 100, "weights", "blk.0"))
        clock[0] += 2
        view(Progress(Stage.CONVERSION, 50, 100, "weights", "blk.1"))
        assert "20 weights/s" in view._bars.tasks[0].fields["amount"]
        view(StageFinished(Stage.CONVERSION, 2.0))
        assert view._bars.tasks == []
    assert "Converting: 2.0 s" in out.getvalue()


def test_a_second_count_in_one_stage_has_a_rate_of_its_own(clock: list[float]) -> None:
    """A server reports its own copy after the upload: from zero again."""
    target, out = console()
    view = LineView(target)
    view(StageStarted(Stage.REGISTRY, "Sending"))
    for done, seconds in ((0, 0), (900_000_000, 10), (0, 100), (100_000_000, 10)):
        clock[0] += seconds
        view(Progress(Stage.REGISTRY, done, 900_000_000, "bytes"))
    assert out.getvalue().splitlines()[-1] == "Sending: 100.0 MB of 900.0 MB, 10.0 MB/s, 80 s left"


def test_without_a_total_there_is_no_time_left(clock: list[float]) -> None:
    target, out = console()
    view = LineView(target)
    view(StageStarted(Stage.REGISTRY, "Sending"))
    view(Progress(Stage.REGISTRY, 0, None, "bytes"))
    clock[0] += 20
    view(Progress(Stage.REGISTRY, 2_000, None, "bytes"))
    assert out.getvalue() == "Sending: 2.0 kB\n"
