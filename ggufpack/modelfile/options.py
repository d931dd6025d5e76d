"""The parameters that Ollama knows, and their values as it reads them.

Source: Ollama 0.33.0, ``api/types.go``: ``Options``, ``Runner`` and ``FormatParams``.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from ggufpack.errors import UsageError
from ggufpack.modelfile.findings import BAD_PARAMETER, make_finding

Kind = Literal["int", "float", "bool", "text list"]

OPTIONS: Mapping[str, Kind] = MappingProxyType(
    {
        "num_ctx": "int",
        "num_batch": "int",
        "num_gpu": "int",
        "main_gpu": "int",
        "use_mmap": "bool",
        "num_thread": "int",
        "draft_num_predict": "int",
        "num_keep": "int",
        "seed": "int",
        "num_predict": "int",
        "top_k": "int",
        "top_p": "float",
        "min_p": "float",
        "typical_p": "float",
        "repeat_last_n": "int",
        "temperature": "float",
        "repeat_penalty": "float",
        "presence_penalty": "float",
        "frequency_penalty": "float",
        "stop": "text list",
    }
)

# Ollama reads these with a warning and drops them (parser/parser.go, deprecatedParameters).
DEPRECATED = frozenset(
    {
        "penalize_newline",
        "low_vram",
        "f16_kv",
        "logits_all",
        "vocab_only",
        "use_mlock",
        "mirostat",
        "mirostat_tau",
        "mirostat_eta",
    }
)

# strconv.ParseBool
_BOOLEANS = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}
_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)


def typed_value(key: str, text: str) -> Any:
    """``text`` as the int, float, bool or str that Ollama would make of it.

    Of the notations of Go's ``strconv`` the decimal ones are taken; infinity, NaN and hexadecimal
    are refused, as no parameter means them. Floats keep double precision; Ollama rounds to single.

    Raises:
        UsageError: GP504, an unknown key, or a value that is not of its kind; names the key.
    """
    kind = OPTIONS.get(key)
    if kind is None:
        raise _error(key, "Ollama knows no parameter of this name", f"Use one of: {', '.join(OPTIONS)}.")
    if kind == "text list":
        return text
    if kind == "bool" and text in _BOOLEANS:
        return _BOOLEANS[text]
    if kind == "int" and _INTEGER.fullmatch(text) and -(2**63) <= int(text) < 2**63:
        return int(text)
    if kind == "float" and _DECIMAL.fullmatch(text) and _fits_single(float(text)):
        return float(text)
    meant = {"bool": "true or false", "int": "a whole number", "float": "a number"}[kind]
    raise _error(key, f"{text!r} is not {meant}", f"Give {meant}.")


def typed_parameters(parameters: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """``parameters`` as the JSON object of a create request: ``stop`` is a list, the last value of any
    other key counts, deprecated ones are dropped.

    Raises:
        UsageError: as :func:`typed_value`.
    """
    typed: dict[str, Any] = {}
    for key, text in parameters:
        if key in DEPRECATED:
            continue
        value = typed_value(key, text)
        if OPTIONS[key] == "text list":
            typed.setdefault(key, []).append(value)
        else:
            typed[key] = value
    return typed


def _fits_single(value: float) -> bool:
    try:
        struct.pack("<f", value)
    except OverflowError:
        return False
    return True


def _error(key: str, problem: str, action: str) -> UsageError:
    finding = make_finding(BAD_PARAMETER, key=key, problem=problem, action=action)
    return UsageError(finding.message, action=finding.action, key=key, finding=finding.id)
