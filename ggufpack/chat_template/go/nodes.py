"""The part of Go's text/template that we write: frozen nodes, built by the learner and the parser.

Expressions are Go's pipelines without pipes: a constant, a variable or field path, or a function
call. ``Path("$m", ("Role",))`` is ``$m.Role``; ``Path("", ("Content",))`` is ``.Content``;
``Path("$")`` is the root value; ``Path("")`` is ``.``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union


@dataclass(frozen=True)
class Literal:
    """A string, integer or boolean constant."""

    value: str | int | bool


@dataclass(frozen=True)
class Path:
    """A variable (``$``, ``$name``) or the dot (empty), and fields of it."""

    base: str
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Call:
    """A function of text/template or Ollama (``eq``, ``index``, ``json``, …) with its arguments."""

    function: str
    arguments: tuple[Expression, ...]


Expression = Union[Literal, Path, Call]  # noqa: UP007 - a forward reference stands in Call


@dataclass(frozen=True)
class Text:
    """Text as it is printed."""

    text: str


@dataclass(frozen=True)
class Print:
    """``{{ expression }}``."""

    expression: Expression


@dataclass(frozen=True)
class Assign:
    """``{{ $name := expression }}``, or with ``=`` where ``declare`` is false. ``name`` has its ``$``."""

    name: str
    expression: Expression
    declare: bool = True


@dataclass(frozen=True)
class If:
    """``{{ if condition }}…{{ else }}…{{ end }}``; an ``If`` alone in ``otherwise`` is an else-if."""

    condition: Expression
    then: tuple[Node, ...]
    otherwise: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Range:
    """``{{ range $key, $value := expression }}…{{ end }}``; names may be empty (no variables)."""

    expression: Expression
    body: tuple[Node, ...]
    key: str = ""
    value: str = ""


@dataclass(frozen=True)
class With:
    """``{{ with expression }}…{{ else }}…{{ end }}``."""

    expression: Expression
    then: tuple[Node, ...]
    otherwise: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Break:
    """``{{ break }}``."""


@dataclass(frozen=True)
class Define:
    """``{{ define "name" }}…{{ end }}``, at the top of a template."""

    name: str
    body: tuple[Node, ...]


@dataclass(frozen=True)
class Include:
    """``{{ template "name" expression }}``. Ollama fails without an argument, so it always has one."""

    name: str
    argument: Expression


Node = Union[Text, Print, Assign, If, Range, With, Break, Define, Include]  # noqa: UP007 - see Expression
Template = tuple[Node, ...]
