"""The figures of a run, and what a tracker's absence or failure becomes."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ggufpack.errors import TrackerError, UsageError
from ggufpack.publishing.run import read_run, run_config, run_figures
from ggufpack.publishing.trackers import TRACKERS, track
from ggufpack.report.reading import typed
from tests.support.packages import make_package
from tests.support.records import record


def test_figures_of_each_type() -> None:
    figures = run_figures(typed(record(("Q8_0", "Q4_K_M"))))
    assert figures["Q4_K_M/kl"] == 0.0312
    assert figures["Q4_K_M/kl_low"] < figures["Q4_K_M/kl"] < figures["Q4_K_M/kl_high"]
    assert figures["Q4_K_M/top1_low"] < figures["Q4_K_M/top1"] == 0.9084
    assert figures["Q8_0/perplexity"] == 17.934
    assert figures["Q8_0/bytes"] == 144_811_072
    assert (figures["Q8_0/passed"], figures["Q8_0/prompts"], figures["Q8_0/prompts_equal"]) == (1, 12, 12)
    assert figures["seconds/conversion"] == 13.798
    assert figures["peak_worker_bytes"] == 894_963_712


def test_what_was_not_measured_is_not_there() -> None:
    made = record(("Q8_0",))
    made["result"] |= {"verifications": [], "peak_worker_rss": None}
    assert set(run_figures(typed(made))) == {
        "Q8_0/bytes",
        *(f"seconds/{stage}" for stage in ("checkpoint", "conversion", "registry", "verification")),
    }


def test_a_failed_type() -> None:
    figures = run_figures(typed(record(("Q8_0", "Q2_K"), wrong=("Q2_K",))))
    assert (figures["Q8_0/passed"], figures["Q2_K/passed"], figures["Q2_K/prompts_equal"]) == (1, 0, 10)


def test_config_names_what_went_in() -> None:
    made = record(("Q8_0",))
    config = run_config(typed(made))
    assert config["files"]["Q8_0"]["sha256"] == made["result"]["files"][0]["sha256"]
    assert config["checkpoint"]["files"] == made["checkpoint"]["files"]
    assert config["versions"]["torch"] == "2.15.0"
    assert config["status"] == "verified"


def test_without_a_report(tmp_path: Path) -> None:
    make_package(tmp_path / "p", ("Q8_0",), size=1)
    assert read_run(tmp_path / "p").report is None


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_tracker_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: str
) -> None:
    make_package(tmp_path / "p", ("Q8_0",), size=1)
    monkeypatch.setitem(sys.modules, tracker, None)
    with pytest.raises(UsageError, match=f"{tracker} is not installed. Install it: pip install {tracker}"):
        track(read_run(tmp_path / "p"), tracker, "foxes", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_tracker_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def init(**_options: Any) -> None:
        print("a greeting")  # noqa: T201 - as the real ones do
        raise RuntimeError("disk\nfull")

    module = ModuleType("wandb")
    module.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    make_package(tmp_path / "p", ("Q8_0",), size=1)
    with pytest.raises(TrackerError, match=r"wandb did not take the run \(disk full\)"):
        track(read_run(tmp_path / "p"), "wandb", "foxes", tmp_path / "runs")
    assert capsys.readouterr() == ("", "a greeting\n")
