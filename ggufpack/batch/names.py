"""Names of packages from a pattern: ``{run}-{step}:{type}``. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ggufpack.errors import UsageError
from ggufpack.registry.names import suggested

FIELDS = ("run", "step", "type", "checkpoint", "adapter")
# what a build does anyway: NAME:type
_TAG = ":{type}"
_FIELD = re.compile(r"\{([^{}]*)\}")


def check_pattern(pattern: str) -> str:
    """The pattern as given.

    Raises:
        UsageError: an unknown field, a lone brace, or a tag other than ``:{type}``.
    """
    text = pattern.removesuffix(_TAG)
    for field in _FIELD.findall(text):
        if field not in FIELDS:
            raise UsageError(
                f"The name pattern {pattern!r} has the unknown field {{{field}}}.",
                action=f"Use {', '.join(f'{{{name}}}' for name in FIELDS)}.",
                key="name",
            )
    rest = _FIELD.sub("", text)
    if "{" in rest or "}" in rest:
        raise UsageError(f"The name pattern {pattern!r} has a brace that is not a field's.", key="name")
    if ":" in rest:
        raise UsageError(
            f"The name pattern {pattern!r} has a tag, and ggufpack sets the tag itself.",
            action=f"Leave it out, or end the pattern with {_TAG}.",
            key="name",
        )
    return pattern


def make_name(pattern: str, fields: Mapping[str, str]) -> str:
    """The model name, without a tag; values of fields are made valid in names.

    Args:
        pattern: that ``check_pattern`` let pass.
        fields: those that this item has (``FIELDS``).

    Raises:
        UsageError: the item lacks a field that the pattern asks for.
    """

    def value(match: re.Match[str]) -> str:
        found = fields.get(match[1])
        if found is None:
            raise UsageError(
                f"The name pattern {pattern!r} needs {{{match[1]}}}, which this item does not have.",
                action=f"It has {', '.join(f'{{{name}}}' for name in fields)}.",
                key="name",
            )
        return suggested(found)

    return _FIELD.sub(value, pattern.removesuffix(_TAG))
