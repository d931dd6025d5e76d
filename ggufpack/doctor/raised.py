"""Errors that stages raise, as the findings that they would have been."""

from __future__ import annotations

from ggufpack.errors import (
    AdapterError,
    ChatTemplateError,
    CheckpointFileError,
    CheckpointLayoutError,
    ConversionError,
    GgufpackError,
    ModelfileError,
    RegistryError,
    ServerUnreachableError,
    TensorFileError,
    UnsupportedWeightsError,
)
from ggufpack.spec import Finding, Severity

# the first class that an error is one of; errors that carry an id of their own keep it
_OF_ERRORS: tuple[tuple[type[GgufpackError], str], ...] = (
    (AdapterError, "GP155"),
    (CheckpointLayoutError, "GP150"),
    (CheckpointFileError, "GP151"),
    (TensorFileError, "GP260"),
    (UnsupportedWeightsError, "GP152"),
    (ConversionError, "GP153"),
    (ChatTemplateError, "GP450"),
    (ModelfileError, "GP501"),
    (ServerUnreachableError, "GP570"),
    (RegistryError, "GP572"),
)


def stands_for_a_finding(error: GgufpackError) -> bool:
    """Whether :func:`finding_of` knows an id for it."""
    return _id_of(error) is not None


def finding_of(error: GgufpackError) -> Finding:
    """An error as the finding that it would have been: same sentence, same action.

    Raises:
        GgufpackError: ``error`` itself, when its class stands for no finding.
    """
    identifier = _id_of(error)
    if identifier is None:
        raise error
    return Finding(
        identifier, Severity.ERROR, error.problem, path=error.path, key=error.key, action=error.action
    )


def _id_of(error: GgufpackError) -> str | None:
    return error.finding or next((name for kind, name in _OF_ERRORS if isinstance(error, kind)), None)
