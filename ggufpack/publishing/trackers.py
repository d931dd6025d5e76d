"""Records a run in SwanLab or in Weights & Biases, whichever package is installed.

Source of the calls: SwanLab's documentation (``swanlab.init``, ``swanlab.log``, ``swanlab.Html``, 0.10) and
wandb's (``wandb.init``, ``run.summary``, ``wandb.Html``, 0.31). Offline, both leave a run folder for
their own ``sync``.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType

from ggufpack.errors import TrackerError, UsageError
from ggufpack.publishing.run import Run

TAGS = ["ggufpack"]


def track(run: Run, tracker: str, project: str, offline: Path | None = None) -> Path | None:
    """Record ``run``; returns the folder of an offline run.

    Args:
        run: ``read_run``.
        tracker: a key of ``TRACKERS``.
        project: its name there.
        offline: folder that gets the run; nothing is sent. ``None`` sends it, as who is logged in.

    Raises:
        UsageError: the tracker's package is not installed.
        TrackerError: it refused or failed.
    """
    try:
        module = importlib.import_module(tracker)
    except ImportError:
        raise UsageError(
            f"{tracker} is not installed.", action=f"Install it: pip install {tracker}."
        ) from None
    if offline is not None:
        offline.mkdir(parents=True, exist_ok=True)
    try:
        # both talk on stdout, which is for the result
        with contextlib.redirect_stdout(sys.stderr):
            return TRACKERS[tracker](module, run, project, offline)
    except Exception as error:  # their errors have no common base; the cause is kept
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise TrackerError(
            f"{tracker} did not take the run ({said}).",
            action=f"Log in with `{tracker} login`, or pass --offline DIR and sync the run later.",
        ) from error


def _swanlab(swanlab: ModuleType, run: Run, project: str, offline: Path | None) -> Path | None:
    with swanlab.init(
        project=project,
        name=run.name,
        tags=TAGS,
        config=dict(run.config),
        mode="online" if offline is None else "offline",
        log_dir=None if offline is None else str(offline),
        # no prompt for a key, and no run that looks sent and is not
        settings=swanlab.Settings(interactive=False, on_online_error="raise"),
    ) as made:
        made.log(dict(run.figures), step=0)
        if run.report is not None:
            made.log({"report": swanlab.Html(run.report)}, step=0)
        return None if offline is None else Path(made.dir)


def _wandb(wandb: ModuleType, run: Run, project: str, offline: Path | None) -> Path | None:
    with wandb.init(
        project=project,
        name=run.name,
        tags=TAGS,
        config=dict(run.config),
        mode="online" if offline is None else "offline",
        dir=None if offline is None else str(offline),
    ) as made:
        made.summary.update(dict(run.figures))
        if run.report is not None:
            made.log({"report": wandb.Html(run.report, inject=False)})
        return None if offline is None else Path(made.dir).parent  # dir is its folder files/


TRACKERS: Mapping[str, Callable[[ModuleType, Run, str, Path | None], Path | None]] = MappingProxyType(
    {"swanlab": _swanlab, "wandb": _wandb}
)
