"""One row of the table: a class of faults, and how often something was wrong after one."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any

COUNTED = ("wrong", "disk", "server", "rerun", "message")
HEADINGS = {
    "wrong": "wrong file under a final name",
    "disk": "left on disk",
    "server": "left on the server",
    "rerun": "rerun incomplete",
    "message": "wrong exit code or message",
}


@dataclass
class Row:
    """The tally of a class.

    Attributes:
        name: of the class.
        tries: faults that happened.
        reruns: commands that were run again to their end.
        problems: by kind (``COUNTED``), a sentence each.
        seconds: so far.
        note: what was not run, and why.
    """

    name: str
    tries: int = 0
    reruns: int = 0
    problems: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in COUNTED})
    note: str = ""
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    def tried(self) -> None:
        """Count a fault, and tell now and then."""
        self.tries += 1
        if self.tries % 10 == 0:
            bad = sum(map(len, self.problems.values()))
            sys.stderr.write(f"{self.name}: {self.tries} tries, {bad} problems\n")
            sys.stderr.flush()

    def add(self, kind: str, problem: str | None) -> None:
        """Count a problem; ``None`` is none."""
        if problem is not None:
            self.problems[kind].append(f"try {self.tries}: {problem}")

    def end(self) -> Row:
        """Stop the clock."""
        self.seconds = time.monotonic() - self.started
        return self

    @property
    def bad(self) -> bool:
        """Whether anything but zero was counted."""
        return any(self.problems.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "class": self.name,
            "tries": self.tries,
            "reruns": self.reruns,
            **{kind: len(found) for kind, found in self.problems.items()},
            "seconds": round(self.seconds, 1),
            "note": self.note,
            "problems": self.problems,
        }

    def to_text(self) -> str:
        """A line of the Markdown table."""
        counts = " | ".join(str(len(self.problems[kind])) for kind in COUNTED)
        note = f" ({self.note})" if self.note else ""
        return f"| {self.name}{note} | {self.tries} | {self.reruns} | {counts} | {self.seconds:.0f} |"


def heading() -> str:
    """The table's first two lines."""
    words = ["class", "tries", "reruns", *HEADINGS.values(), "seconds"]
    return f"| {' | '.join(words)} |\n|---|{'---:|' * (len(words) - 1)}"
