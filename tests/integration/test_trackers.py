"""``ggufpack track`` with the real SwanLab and wandb, offline: what they wrote is read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ggufpack.publishing.run import read_run
from tests.support.packages import make_package
from tests.support.trackers import read_offline_run, run_with_trackers

pytestmark = pytest.mark.network
TRACKERS = ("swanlab", "wandb")
REPORT = "<!doctype html><title>Bericht</title><p>größer &lt; 1</p>\n"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    make_package(tmp_path / "p", size=10)
    (tmp_path / "p" / "report.html").write_text(REPORT, encoding="utf-8")
    return tmp_path / "p"


def track(package: Path, *words: str) -> tuple[int, dict[str, Any]]:
    done = run_with_trackers(package.parent, "-m", "ggufpack", "track", str(package), "--json", *words)
    found: dict[str, Any] = json.loads(done.stdout)  # one object, whatever the tracker says
    return done.returncode, found


@pytest.mark.parametrize("tracker", TRACKERS)
def test_an_offline_run_holds_the_figures_and_the_report(package: Path, tracker: str) -> None:
    offline = package.parent / "runs"
    code, found = track(package, "--to", tracker, "--project", "foxes", "--offline", str(offline))
    assert code == 0, found
    folder = Path(found["folder"])
    assert folder.is_relative_to(offline)

    run = read_run(package)
    there = read_offline_run(tracker, folder, package.parent)
    assert (there["project"], there["name"]) == ("foxes", "smollm2-demo")
    # SwanLab keeps single precision
    assert there["figures"] == pytest.approx(dict(run.figures), rel=1e-6)
    assert len(there["figures"]) > 30
    assert {key: there["config"][key] for key in run.config} == run.config
    assert there["report"] == REPORT


@pytest.mark.parametrize("tracker", TRACKERS)
def test_who_is_not_logged_in_is_told_so(package: Path, tracker: str) -> None:
    code, found = track(package, "--to", tracker)
    assert code == 6
    assert "API key" in found["error"]["problem"]
    assert "--offline DIR" in found["error"]["action"]
