"""Every finding of the Modelfile stage, in one table (GP501 to GP519)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ggufpack.spec import Finding, Severity

NOT_A_MODELFILE = "GP501"
QUOTES = "GP502"
NOT_PRINTABLE = "GP503"
BAD_PARAMETER = "GP504"
CONTEXT_CAPPED = "GP505"
GREEDY = "GP506"
GENERATION_CONFIG = "GP507"
LICENSE_LEFT_OUT = "GP508"

_ONLY_TEXT = "Register through the API, which has no such limit, or change the text."

# id: severity, message pattern, action
FINDINGS: Mapping[str, tuple[Severity, str, str | None]] = MappingProxyType(
    {
        NOT_A_MODELFILE: (Severity.ERROR, "{place}: {problem}.", None),
        QUOTES: (
            Severity.WARNING,
            "{key} cannot be written in a Modelfile: its text has quotes at a place where the format, "
            "which knows no escape, would end it.",
            _ONLY_TEXT,
        ),
        NOT_PRINTABLE: (
            Severity.WARNING,
            "{key} cannot be written in a Modelfile: Ollama drops {characters} when it reads the file.",
            _ONLY_TEXT,
        ),
        BAD_PARAMETER: (Severity.ERROR, "Parameter {key}: {problem}.", "{action}"),
        CONTEXT_CAPPED: (
            Severity.INFO,
            "num_ctx is {num_ctx}, not the {context_length} tokens of the model: a longer context takes its "
            "memory at load time.",
            "Set --parameter num_ctx=N for more.",
        ),
        GREEDY: (
            Severity.INFO,
            "generation_config.json says do_sample false: temperature is 0, its sampling values are unused.",
            None,
        ),
        GENERATION_CONFIG: (
            Severity.WARNING,
            "generation_config.json: {key} is {value}, which is no value for {parameter}; it is left out.",
            "Correct it, or set --parameter {parameter}=VALUE.",
        ),
        LICENSE_LEFT_OUT: (
            Severity.INFO,
            "The Modelfile's text cannot hold the license and leaves it out; the registered model has it.",
            None,
        ),
    }
)


def make_finding(id_: str, *, key: str | None = None, **values: object) -> Finding:
    """The finding ``id_`` with its patterns filled in from ``values`` and ``key``."""
    severity, message, action = FINDINGS[id_]
    values = {"key": key, **values}
    return Finding(
        id=id_,
        severity=severity,
        message=message.format(**values),
        key=key,
        action=None if action is None else action.format(**values),
    )
