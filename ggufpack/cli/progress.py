"""Shows events on stderr: live bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ggufpack.cli.terminal import printable, stderr_console
from ggufpack.spec import (
    Event,
    Finding,
    FindingRaised,
    Note,
    Progress,
    Severity,
    StageFinished,
    StageStarted,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

LINE_SECONDS = 10.0
_STYLES = {
    Severity.ERROR: "bold red",
    Severity.WARNING: "yellow",
    Severity.INFO: "dim",
    Severity.UNCHECKED: "magenta",
}


def progress_view(*, quiet: bool) -> View:
    """The view that fits: findings alone with ``quiet``, bars on a terminal, lines elsewhere."""
    console = stderr_console()
    if quiet:
        return View(console)
    return BarView(console) if sys.stderr.isatty() else LineView(console)


def line_view(*, quiet: bool) -> View:
    """Lines also on a terminal, for commands where another library draws the bars."""
    console = stderr_console()
    return View(console) if quiet else LineView(console)


class View:
    """Shows findings only; the base of the other two."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> View:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is open."""

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, FindingRaised) and event.finding.severity is not Severity.INFO:
            self._finding(event.finding)

    def _finding(self, finding: Finding) -> None:
        text = f"  {finding.id} {finding.severity.value}: {finding.message}"
        self._console.print(text, style=_STYLES[finding.severity], markup=False)
        if finding.action:
            self._console.print(f"      {finding.action}", style="dim", markup=False)


class LineView(View):
    """One line for each thing that happens; progress every ``LINE_SECONDS``."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._title = ""
        # time and count of the first progress: start-up is no part of the rate
        self._first: tuple[float, int] | None = None
        self._done = 0
        self._last = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Show one event as a line."""
        if isinstance(event, StageStarted):
            self._title = event.title
            self._first = None
            self._last = time.monotonic()
        elif isinstance(event, StageFinished):
            self._line(f"{self._title}: {event.seconds:.1f} s")
        elif isinstance(event, Note):
            self._line(event.message)
        elif isinstance(event, Progress):
            self._progress(event)
        else:
            super().__call__(event)

    def _rate(self, event: Progress) -> float:
        """Units a second since the first progress; 0 while that is too short to tell."""
        now = time.monotonic()
        if self._first is None or event.done < self._done:  # another count within the stage
            self._first = now, event.done
        self._done = event.done
        elapsed = now - self._first[0]
        return (event.done - self._first[1]) / elapsed if elapsed > 0.5 else 0.0

    def _progress(self, event: Progress) -> None:
        rate = self._rate(event)
        now = time.monotonic()
        if now - self._last < LINE_SECONDS:
            return
        self._last = now
        text = f"{self._title}: {_amount(event.done, event.unit)}"
        if event.total:
            text += f" of {_amount(event.total, event.unit)}"
            if rate:
                text += f", {_amount(rate, event.unit)}/s, {(event.total - event.done) / rate:.0f} s left"
        self._line(text)

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False)


class BarView(LineView):
    """A live bar for the running stage, with rate and time left, and a line when it is done."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        from rich import progress as rich

        self._bars = rich.Progress(
            rich.SpinnerColumn(),
            rich.TextColumn("{task.description}", markup=False),
            rich.BarColumn(bar_width=24),
            rich.TextColumn("{task.fields[amount]}", markup=False),
            rich.TimeRemainingColumn(compact=True),
            rich.TextColumn("{task.fields[item]}", style="dim", markup=False),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> View:
        self._bars.start()
        return self

    def __exit__(self, *_error: Any) -> None:
        """Take the bar away; what was printed stays."""
        self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Move the bar, or print a line above it."""
        super().__call__(event)
        if isinstance(event, StageStarted):
            self._clear()
            self._task = self._bars.add_task(event.title, total=None, amount="", item="")
        elif isinstance(event, StageFinished):
            self._clear()

    def _progress(self, event: Progress) -> None:
        if self._task is None:
            return
        rate = self._rate(event)
        amount = _amount(event.done, event.unit)
        if rate:
            amount += f"  {_amount(rate, event.unit)}/s"
        self._bars.update(
            self._task,
            completed=event.done,
            total=event.total,
            amount=amount,
            item=printable(event.item[:40]),
        )

    def _clear(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None


def _amount(value: float, unit: str) -> str:
    """``1.2 GB`` or ``34 M weights``: decimal, as disks and rates are."""
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            number = f"{value / size:.1f}"
            return f"{number} {prefix}B" if unit == "bytes" else f"{number} {prefix} {unit}"
    return f"{value:.0f} {unit}"
