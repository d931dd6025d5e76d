"""Stages as they run: their events, their times, and the findings that came up."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator

from ggufpack.findings import refuse_errors
from ggufpack.spec import (
    EventHandler,
    Finding,
    FindingRaised,
    Progress,
    Stage,
    StageFinished,
    StageStarted,
)


class StageLog:
    """Sends stage events and keeps what the result needs.

    Args:
        on_event: gets the events.
        allowed: finding ids that do not stop the build.
    """

    def __init__(self, on_event: EventHandler, allowed: Iterable[str] = ()) -> None:
        self.on_event = on_event
        self.seconds: dict[Stage, float] = {}
        self.findings: list[Finding] = []
        self._allowed = frozenset(allowed)

    @contextlib.contextmanager
    def stage(self, stage: Stage, title: str) -> Iterator[None]:
        """Time a stage; one that runs twice (for two files) adds up."""
        self.on_event(StageStarted(stage, title))
        started = time.perf_counter()
        yield
        elapsed = time.perf_counter() - started
        self.seconds[stage] = self.seconds.get(stage, 0.0) + elapsed
        self.on_event(StageFinished(stage, elapsed))

    def add(self, findings: Iterable[Finding]) -> None:
        """Tell new findings, then refuse those of severity error that were not allowed.

        Raises:
            GgufpackError: of the finding's stage.
        """
        self.keep(findings)
        refuse_errors(self.findings, self._allowed)

    def keep(self, findings: Iterable[Finding]) -> None:
        """Tell new findings without stopping on any."""
        for finding in findings:
            if finding not in self.findings:
                self.findings.append(finding)
                self.on_event(FindingRaised(finding))

    def weights_done(self, done: int, total: int, item: str) -> None:
        """Progress of the conversion."""
        self.on_event(Progress(Stage.CONVERSION, done, total, "weights", item))
