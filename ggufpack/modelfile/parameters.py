"""Which parameters are written: everything explicit, nothing left to Ollama's detection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ggufpack.errors import UsageError
from ggufpack.modelfile.findings import (
    BAD_PARAMETER,
    CONTEXT_CAPPED,
    GENERATION_CONFIG,
    GREEDY,
    make_finding,
)
from ggufpack.modelfile.options import DEPRECATED, OPTIONS, typed_value
from ggufpack.spec import Finding

# Ollama allocates the cache for num_ctx tokens at load time. Models state up to a million; 8192 is
# what a desktop bears, and twice what Ollama would take without the parameter.
MAX_DERIVED_NUM_CTX = 8192

# generation_config.json to Ollama. A key that is not given is not written.
_SAMPLING = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}
_UNUSED_WHEN_GREEDY = frozenset({"temperature", "top_k", "top_p", "min_p"})


@dataclass(frozen=True)
class DerivedParameters:
    """``parameters`` as :class:`~ggufpack.modelfile.model.Modelfile` holds them, and what to know."""

    parameters: tuple[tuple[str, str], ...]
    findings: tuple[Finding, ...]


def derive_parameters(
    *,
    stops: Sequence[str] = (),
    context_length: int | None = None,
    generation_config: Mapping[str, object] | None = None,
    overrides: Mapping[str, Sequence[str]] | None = None,
) -> DerivedParameters:
    """The parameters of a package: ``num_ctx``, sampling, stops, then what only the user set.

    Args:
        stops: stop strings, in order.
        context_length: tokens that the model was trained for; ``num_ctx`` is at most 8192 of them.
        generation_config: the JSON object of the file, when there is one. ``do_sample: false`` is
            ``temperature 0``.
        overrides: the user's values; each replaces all derived values of its key.

    Raises:
        UsageError: GP504, an override that Ollama would refuse; names the key.
    """
    derived: dict[str, list[str]] = {}
    findings: list[Finding] = []
    user = _checked(overrides or {})
    if context_length is not None:
        num_ctx = min(context_length, MAX_DERIVED_NUM_CTX)
        derived["num_ctx"] = [str(num_ctx)]
        if num_ctx < context_length and "num_ctx" not in user:
            capped = {"num_ctx": num_ctx, "context_length": context_length}
            findings.append(make_finding(CONTEXT_CAPPED, key="num_ctx", **capped))
    _add_sampling(generation_config or {}, derived, findings)
    if stops:
        derived["stop"] = list(dict.fromkeys(stops))
    derived.update(user)
    pairs = tuple((key, value) for key, values in derived.items() for value in values)
    return DerivedParameters(pairs, tuple(findings))


def _add_sampling(
    config: Mapping[str, object], derived: dict[str, list[str]], findings: list[Finding]
) -> None:
    greedy = config.get("do_sample") is False
    if greedy:
        derived["temperature"] = ["0"]
        findings.append(make_finding(GREEDY, key="temperature"))
    for key, parameter in _SAMPLING.items():
        value = config.get(key)
        if value is None or (greedy and key in _UNUSED_WHEN_GREEDY):
            continue
        try:
            text = _number_text(value)
            typed_value(parameter, text)
        except (TypeError, UsageError):
            unusable = {"value": repr(value), "parameter": parameter}
            findings.append(make_finding(GENERATION_CONFIG, key=key, **unusable))
        else:
            derived[parameter] = [text]


def _number_text(value: object) -> str:
    """A JSON number as Ollama reads it: a whole one without a decimal point."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is not a number")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return repr(value)


def _checked(overrides: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    checked = {}
    for key, values in overrides.items():
        if key in DEPRECATED:
            raise _error(key, "Ollama reads this parameter and drops it", "Leave it out.")
        for value in values:
            typed_value(key, value)
        if len(values) != 1 and OPTIONS.get(key) != "text list":
            raise _error(key, f"{len(values)} values, where one is possible", "Give it once.")
        checked[key] = list(values)
    return checked


def _error(key: str, problem: str, action: str) -> UsageError:
    finding = make_finding(BAD_PARAMETER, key=key, problem=problem, action=action)
    return UsageError(finding.message, action=finding.action, key=key, finding=finding.id)
