"""What ``/api/show`` answers, as data. Source: Ollama 0.33.0, server/routes.go (GetModelInfo)."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# images.go: Model.String gives a model without a TEMPLATE layer this one
_NO_TEMPLATE = re.compile(r"^TEMPLATE \{\{ \.Prompt \}\}$", re.MULTILINE)
_ADAPTER_BLOB = re.compile(r"^ADAPTER .*sha256[-:]([0-9a-f]{64})$", re.MULTILINE)
_LITERAL = re.compile(r'[-+]?[0-9][0-9.e+-]{0,40}|"(?:[^"\\\n]|\\.)*"')
_FROM_BLOB = re.compile(r"^FROM (.*sha256[-:]([0-9a-f]{64}))$", re.MULTILINE)


@dataclass(frozen=True)
class ShownModel:
    """One registered model.

    Attributes:
        template: the template in use. It is the Go TEMPLATE, or the GGUF's Jinja where the server
            prefers that.
        modelfile: the Modelfile that the server makes up from what it stored.
        system: SYSTEM text, empty when there is none.
        parameters: every value of every stored parameter, in order.
        capabilities: ``"completion"``, ``"tools"``, ``"thinking"``, …; empty on servers that do not say.
        sha256: hex digest of the stored GGUF, ``None`` where the Modelfile does not name it.
        details: format, family, parameter size and quantisation level, as the server names them.
        adapters: hex digests of its adapters.
    """

    template: str
    modelfile: str
    system: str
    parameters: Mapping[str, tuple[Any, ...]]
    capabilities: tuple[str, ...]
    sha256: str | None
    details: Mapping[str, Any]
    adapters: tuple[str, ...] = ()

    @property
    def own_sha256(self) -> str | None:
        """Of the file that it was made with: its adapter, or else its GGUF."""
        return self.adapters[-1] if self.adapters else self.sha256

    @property
    def has_template_layer(self) -> bool:
        """Whether a TEMPLATE is stored, in use or not."""
        return _NO_TEMPLATE.search(self.modelfile) is None

    def stores_template(self, template: str) -> bool:
        """Whether this TEMPLATE is stored, in use or not."""
        return self.template == template or (self.has_template_layer and template in self.modelfile)


def local_blob(shown: ShownModel) -> Path | None:
    """The stored GGUF, when the server's store is on this machine and can be read."""
    blob = _FROM_BLOB.search(shown.modelfile)
    if blob is None:
        return None
    path = Path(blob[1])
    # nothing but a blob of that digest: a server may name any path
    named = path.name == f"sha256-{blob[2]}"
    return path if named and path.is_file() and os.access(path, os.R_OK) else None


def parse_shown(answer: Mapping[str, Any]) -> ShownModel:
    """The answer of ``/api/show``."""
    modelfile = answer.get("modelfile") or ""
    blob = _FROM_BLOB.search(modelfile)
    return ShownModel(
        template=answer.get("template") or "",
        modelfile=modelfile,
        system=answer.get("system") or "",
        parameters=_parse_parameters(answer.get("parameters") or ""),
        capabilities=tuple(map(str, answer.get("capabilities") or ())),
        sha256=blob[2] if blob else None,
        details=dict(answer.get("details") or {}),
        adapters=tuple(_ADAPTER_BLOB.findall(modelfile)),
    )


def _parse_parameters(text: str) -> dict[str, tuple[Any, ...]]:
    """``NAME   VALUE`` lines, VALUE in Go's ``%#v``; a list parameter has one line for each value.

    Go quotes a string with the escapes that Python's literals have too (strconv.Quote), so no value
    spans lines.
    """
    found: dict[str, tuple[Any, ...]] = {}
    for line in text.splitlines():
        key, _, literal = line.partition(" ")
        if key:
            found[key] = (*found.get(key, ()), _go_value(literal.strip()))
    return found


def _go_value(literal: str) -> Any:
    if literal in {"true", "false"}:
        return literal == "true"
    if not _LITERAL.fullmatch(literal):  # Python's parser recurses, and a server may send anything
        return literal
    try:
        return ast.literal_eval(literal)
    except (ValueError, SyntaxError):
        return literal
