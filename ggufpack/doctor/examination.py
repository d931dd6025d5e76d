"""What an examination says, and how it is gathered: a check that fails does not end the others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

from ggufpack.doctor.raised import finding_of, stands_for_a_finding
from ggufpack.errors import (
    CheckpointError,
    GgufpackError,
    PromptError,
    RegistryError,
    VendorError,
)
from ggufpack.progress import StageLog
from ggufpack.spec import EventHandler, Finding, FindingRaised, Note, Severity, Stage, ignore_event

Kind = Literal["checkpoint", "gguf", "modelfile", "package", "model"]
Status = Literal["fine", "warnings", "errors"]

DEEP = "it reads all weights: pass --deep"
# worst first; what was not checked is told with the checks that did not run
_ORDER = (Severity.ERROR, Severity.WARNING, Severity.UNCHECKED, Severity.INFO)


@dataclass(frozen=True)
class NotChecked:
    """A check that did not run, and why; ``why`` is a clause."""

    check: str
    why: str

    def to_json(self) -> dict[str, str]:
        """As it stands in ``--json`` output."""
        return {"check": self.check, "why": self.why}


@dataclass(frozen=True)
class Examination:
    """All findings about one target.

    Attributes:
        kind: what the target is.
        target: as it was given.
        findings: errors first, then warnings, then what could not be told, then remarks; within
            these in the order of the checks.
        checked: names of the checks that ran, in order.
        not_checked: those that did not. They are never part of a "fine".
        facts: what was read: architecture, types, template strategy, stops and the like.
    """

    kind: Kind
    target: str
    findings: tuple[Finding, ...] = ()
    checked: tuple[str, ...] = ()
    not_checked: tuple[NotChecked, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> Status:
        """``"fine"`` says something about the checks that ran only."""
        severities = {finding.severity for finding in self.findings}
        if Severity.ERROR in severities:
            return "errors"
        return "warnings" if Severity.WARNING in severities else "fine"

    @property
    def exit_code(self) -> int:
        """0 without an error; else the code of the first error's stage (DESIGN, exit codes)."""
        if self.status != "errors":
            return 0
        if self.kind == "model":
            return RegistryError.exit_code
        first = self.findings[0].id
        if first.startswith("GP57"):
            return RegistryError.exit_code
        return PromptError.exit_code if first[:3] in ("GP4", "GP5") else CheckpointError.exit_code

    def to_json(self) -> dict[str, Any]:
        """The object that ``ggufpack doctor --json`` prints."""
        return {
            "kind": self.kind,
            "target": self.target,
            "status": self.status,
            "findings": [finding.to_json() for finding in self.findings],
            "checked": list(self.checked),
            "not_checked": [one.to_json() for one in self.not_checked],
            "facts": dict(self.facts),
        }


class Log:
    """Gathers what the checks find.

    Args:
        deep: whether checks that read all weights run.
        on_event: told the findings as they come, and which check runs.
    """

    def __init__(self, *, deep: bool = False, on_event: EventHandler = ignore_event) -> None:
        self.deep = deep
        self.on_event = on_event
        self.findings: list[Finding] = []
        self.checked: list[str] = []
        self.not_checked: list[NotChecked] = []
        self.facts: dict[str, Any] = {}

    def check(self, name: str) -> _Check:
        """One check, as a context. An error of ours that stands for a finding becomes one, and ends this
        check only."""
        return _Check(self, name)

    def add(self, findings: Iterable[Finding]) -> None:
        """Keep and tell new findings."""
        for finding in findings:
            if finding not in self.findings:
                self.findings.append(finding)
                self.on_event(FindingRaised(finding))

    def skip(self, check: str, why: str) -> None:
        """Say that a check did not run."""
        one = NotChecked(check, why)
        if one not in self.not_checked:
            self.not_checked.append(one)

    def skip_all(self, checks: Iterable[str], why: str) -> None:
        """Say that several checks did not run for one reason."""
        for check in checks:
            self.skip(check, why)

    def reading(self, name: str) -> contextlib.AbstractContextManager[None]:
        """A long read, as a stage for those who watch."""
        return StageLog(self.on_event).stage(Stage.CHECKPOINT, f"Reading {name}")

    def finish(self, kind: Kind, target: str) -> Examination:
        """The result."""
        found = sorted(self.findings, key=lambda finding: _ORDER.index(finding.severity))
        return Examination(
            kind, target, tuple(found), tuple(self.checked), tuple(self.not_checked), dict(self.facts)
        )


class _Check:
    """A check under way. A class, so that type checkers know that it swallows errors."""

    def __init__(self, log: Log, name: str) -> None:
        self.log = log
        self.name = name

    def __enter__(self) -> None:
        self.log.on_event(Note(f"Checking {self.name}"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> bool:
        if isinstance(error, VendorError):
            self.log.skip(self.name, error.problem.rstrip("."))  # says nothing about the target
            return True
        if isinstance(error, GgufpackError) and stands_for_a_finding(error):
            self.log.add([finding_of(error)])
        elif error is not None:
            return False
        if self.name not in self.log.checked:
            self.log.checked.append(self.name)
        return True
