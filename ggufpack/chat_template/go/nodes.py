"""The part of Go's text/template that we write: frozen nodes, built by the learner and the parser.

Expressions are a constant, a variable or field path, a field of another expression, a function call,
and (from the parser; the learner needs none) a pipeline. ``Path("$m", ("Role",))`` is ``$m.Role``;
``Path("", ("Content",))`` is ``.Content``; ``Path("$")`` is the root value; ``Path("")`` is ``.``;
``Chain(Call("index", …), ("Role",))`` is ``(index …).Role``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union


@dataclass(frozen=True)
class Literal:
    """A string, integer, boolean or floating-point constant, or ``nil``."""

    value: str | int | bool | float | None


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


@dataclass(frozen=True)
class Chain:
    """``(expression).Field…``."""

    expression: Expression
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Pipe:
    """``stage | stage``: each value is the last argument of the next stage. One stage is parentheses.

    A call that is an operand has its parentheses without being a ``Pipe``; ``(.Field)`` and a call
    in parentheses where none are needed are one, because Ollama's tag parser looks at that.
    """

    stages: tuple[Expression, ...]


Expression = Union[Literal, Path, Call, Chain, Pipe]  # noqa: UP007 - forward references stand in Call


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
    """``{{ if condition }}…{{ else }}…{{ end }}``; an ``If`` alone in ``otherwise`` is an else-if.

    ``variable``, where there is one, is declared with the condition: ``{{ if $x := condition }}``.
    """

    condition: Expression
    then: tuple[Node, ...]
    otherwise: tuple[Node, ...] = ()
    variable: str = ""


@dataclass(frozen=True)
class Range:
    """``{{ range $key, $value := expression }}…{{ end }}``; names may be empty (no variables).

    A ``key`` without a ``value`` is not Go. ``otherwise`` is printed when there is nothing to range over.
    """

    expression: Expression
    body: tuple[Node, ...]
    key: str = ""
    value: str = ""
    otherwise: tuple[Node, ...] = ()


@dataclass(frozen=True)
class With:
    """``{{ with expression }}…{{ else }}…{{ end }}``; ``variable`` as in ``If``."""

    expression: Expression
    then: tuple[Node, ...]
    otherwise: tuple[Node, ...] = ()
    variable: str = ""


@dataclass(frozen=True)
class Break:
    """``{{ break }}``."""


@dataclass(frozen=True)
class Continue:
    """``{{ continue }}``."""


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


Node = Union[  # noqa: UP007 - see Expression
    Text, Print, Assign, If, Range, With, Break, Continue, Define, Include
]
Template = tuple[Node, ...]
