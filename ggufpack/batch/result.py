"""What became of a batch. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ggufpack.batch.discover import LeftOut
from ggufpack.batch.items import Outcome
from ggufpack.batch.planning import Planned
from ggufpack.batch.urls import shown

# an outcome's status; or nothing was done: it was finished before, or the batch was interrupted
RowStatus = Literal["verified", "unverified", "failed", "error", "interrupted"]


@dataclass(frozen=True)
class Row:
    """One item: what was planned, and how it ended; ``outcome`` is ``None`` when it was interrupted.

    ``reused``: its package was finished before, and is still what it has to be.
    """

    planned: Planned
    outcome: Outcome | None
    reused: bool = False

    @property
    def status(self) -> RowStatus:
        """Of the outcome."""
        return "interrupted" if self.outcome is None else self.outcome.status

    @property
    def result(self) -> Mapping[str, Any]:
        """``BuildResult.to_json()``, empty without one."""
        return {} if self.outcome is None or self.outcome.result is None else self.outcome.result

    @property
    def size(self) -> int | None:
        """Bytes of all its GGUF files."""
        files = self.result.get("files")
        return sum(file["size"] for file in files) if files else None

    @property
    def kl(self) -> float | None:
        """Mean KL divergence of the first type, nats a token."""
        found = self._fidelity()
        return None if found is None else float(found["kl"]["value"])

    @property
    def top1(self) -> float | None:
        """Share of tokens with the same most probable token, of the first type."""
        found = self._fidelity()
        return None if found is None else float(found["top1"]["value"])

    @property
    def problem(self) -> str | None:
        """The error's sentence."""
        error = None if self.outcome is None else self.outcome.error
        return None if error is None else str(error["problem"])

    def to_json(self) -> dict[str, Any]:
        """As it stands in ``--json`` output."""
        spec, outcome = self.planned.item.spec, self.outcome
        return {
            "key": self.planned.item.key,
            "checkpoint": shown(spec.checkpoint),
            "run": self.planned.run,
            "step": self.planned.step,
            "folder": shown(self.planned.folder),
            "status": self.status,
            "reused": self.reused,
            "seconds": None if outcome is None else round(outcome.seconds, 3),
            "result": None if outcome is None else outcome.result,
            "error": None if outcome is None else outcome.error,
        }

    def _fidelity(self) -> Mapping[str, Any] | None:
        verifications: Sequence[Mapping[str, Any]] = self.result.get("verifications") or [{}]
        found: Mapping[str, Any] | None = verifications[0].get("fidelity")
        return found


@dataclass(frozen=True)
class BatchResult:
    """All items, in the order they were planned; ``interrupted_by`` is the exit code of the interruption."""

    rows: tuple[Row, ...]
    left_out: tuple[LeftOut, ...]
    seconds: float
    interrupted_by: int | None = None

    @property
    def exit_code(self) -> int:
        """0 when every item is as it should be; the interruption's when one is left undone; the items' own
        when all that failed failed alike (7: only verifications did); 1 when they failed in several ways.
        """
        if self.interrupted_by is not None and any(row.outcome is None for row in self.rows):
            return self.interrupted_by
        return common_exit_code([row.outcome.error for row in self.rows if row.outcome])

    @property
    def counts(self) -> dict[str, int]:
        """Status to number of items."""
        return dict(Counter(row.status for row in self.rows))

    def to_json(self) -> dict[str, Any]:
        """The object that ``ggufpack batch --json`` prints."""
        return {
            "items": [row.to_json() for row in self.rows],
            "left_out": [{"folder": shown(one.folder), "reason": one.reason} for one in self.left_out],
            "counts": self.counts,
            "reused": sum(row.reused for row in self.rows),
            "seconds": round(self.seconds, 3),
            "exit_code": self.exit_code,
        }


def common_exit_code(errors: Sequence[Mapping[str, Any] | None]) -> int:
    """0 without errors; their exit code when it is one; else 1."""
    codes = {int(error["exit_code"]) for error in errors if error is not None}
    return 0 if not codes else codes.pop() if len(codes) == 1 else 1
