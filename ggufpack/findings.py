"""Which findings stop a build, and as which error."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ggufpack.errors import (
    ChatTemplateError,
    CheckpointError,
    GgufpackError,
    ModelfileError,
    TensorFileError,
    TokenizerConversionError,
    VerificationError,
)
from ggufpack.spec import Finding, Severity

# by the hundred of the id (DESIGN, findings): the stage that would fail on it
_ERRORS: dict[str, type[GgufpackError]] = {
    "GP1": CheckpointError,
    "GP2": TensorFileError,
    "GP3": TokenizerConversionError,
    "GP4": ChatTemplateError,
    "GP5": ModelfileError,
    "GP6": VerificationError,
}


def refuse_errors(findings: Iterable[Finding], allowed: Collection[str]) -> None:
    """Raise the first finding of severity error that the user did not allow.

    Raises:
        GgufpackError: the subclass of the finding's stage.
    """
    for finding in findings:
        if finding.severity is Severity.ERROR and finding.id not in allowed:
            error = _ERRORS.get(finding.id[:3], GgufpackError)
            accept = f"pass --allow {finding.id} to go on all the same."
            action = f"{finding.action} Or {accept}" if finding.action else f"P{accept[1:]}"
            raise error(
                finding.message, action=action, path=finding.path, key=finding.key, finding=finding.id
            )
