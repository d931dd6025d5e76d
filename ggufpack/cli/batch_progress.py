"""A batch's progress on stderr: one bar for the whole and one for each running item, or plain lines."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

from ggufpack.batch.urls import shown
from ggufpack.cli.terminal import stderr_console
from ggufpack.report.words import counted
from ggufpack.spec import Event, FindingRaised, Note, Progress, Severity, StageFinished, StageStarted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from ggufpack.batch.planning import BatchPlan
    from ggufpack.batch.result import Row

_STYLES = {"verified": "green", "unverified": "", "failed": "red", "error": "red", "interrupted": "yellow"}


def batch_view(*, quiet: bool) -> BatchView:
    """Ends of items alone with ``quiet``, bars on a terminal, lines elsewhere."""
    console = stderr_console()
    if quiet:
        return BatchView(console)
    return BatchBars(console) if sys.stderr.isatty() else BatchLines(console)


class BatchView:
    """Says how failed items ended; the base of the other two."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._total = 0
        self._done = 0

    def __enter__(self) -> BatchView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is open."""

    def planned(self, plan: BatchPlan) -> None:
        """A batch, or one more round of it, begins."""
        self._total += len(plan.items)

    def told(self, key: str, event: Event) -> None:
        """An event of an item."""

    def ended(self, row: Row) -> None:
        """An item has ended."""
        self._done += 1
        if row.problem is not None:
            self._end(row)

    def _end(self, row: Row) -> None:
        seconds = row.outcome.seconds if row.outcome is not None else 0.0
        text = f"[{self._done}/{self._total}] {row.planned.item.key}: {row.status}"
        text += " (finished before)" if row.reused else f", {seconds:.1f} s"
        self._console.print(text, style=_STYLES[row.status], markup=False)
        if row.problem is not None and row.outcome is not None and row.outcome.error is not None:
            self._console.print(f"    {row.problem}", markup=False)
            if action := row.outcome.error.get("action"):
                self._console.print(f"    {action}", style="dim", markup=False)


class BatchLines(BatchView):
    """A line for each stage and each item; a finding that several items have is told once."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._findings: set[str] = set()

    def planned(self, plan: BatchPlan) -> None:
        """Say what is left out."""
        super().planned(plan)
        self._console.print(counted(len(plan.items), "item"), markup=False)
        for one in plan.left_out:
            self._console.print(f"left out: {shown(one.folder)}: {one.reason}", style="dim", markup=False)

    def told(self, key: str, event: Event) -> None:
        """Stages, notes and findings."""
        if isinstance(event, StageFinished):
            self._console.print(
                f"{key}: {event.stage.value} {event.seconds:.1f} s", style="dim", markup=False
            )
        elif isinstance(event, Note):
            self._console.print(f"{key}: {event.message}", markup=False)
        elif isinstance(event, FindingRaised) and event.finding.severity is not Severity.INFO:
            finding = event.finding
            if finding.id in self._findings:
                return
            self._findings.add(finding.id)
            text = f"{key}: {finding.id} {finding.severity.value}: {finding.message}"
            self._console.print(text, style="yellow", markup=False)

    def ended(self, row: Row) -> None:
        """How it ended."""
        self._done += 1
        self._end(row)


class BatchBars(BatchLines):
    """Live bars."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        from rich import progress as rich

        self._bars = rich.Progress(
            rich.SpinnerColumn(),
            rich.TextColumn("{task.description}", markup=False),
            rich.BarColumn(bar_width=24),
            rich.TextColumn("{task.fields[what]}", style="dim", markup=False),
            console=console,
            transient=True,
        )
        self._whole = self._bars.add_task("all items", total=None, what="")
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> BatchView:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bars away; what was printed stays."""
        self._bars.stop()

    def planned(self, plan: BatchPlan) -> None:
        """The bar of the whole."""
        super().planned(plan)
        self._bars.update(self._whole, total=self._total, completed=self._done, what=f"of {self._total}")

    def told(self, key: str, event: Event) -> None:
        """Move the item's bar; stages need no lines."""
        if not isinstance(event, StageFinished):
            super().told(key, event)
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(key, total=None, what="")
        if isinstance(event, StageStarted):
            self._bars.reset(self._tasks[key], total=None, what=event.title)
        elif isinstance(event, Progress):
            self._bars.update(self._tasks[key], total=event.total, completed=event.done)

    def ended(self, row: Row) -> None:
        """The item's bar goes."""
        super().ended(row)
        task = self._tasks.pop(row.planned.item.key, None)
        if task is not None:
            self._bars.remove_task(task)
        self._bars.update(self._whole, completed=self._done)
