"""The block that writes a value as a template's own macro does; see ``values``."""

from __future__ import annotations

from ggufpack.chat_template.go.nodes import (
    Assign,
    Expression,
    If,
    Include,
    Literal,
    Node,
    Path,
    Print,
    Range,
    Text,
)
from ggufpack.chat_template.learn.tables import call, text, variable
from ggufpack.chat_template.learn.values import Spelling

Nodes = tuple[Node, ...]
DOT = Path("")
_TYPE = variable("t")
IS_MAP = call(
    "or",
    call("eq", _TYPE, text("template.templateArgs")),
    call("eq", _TYPE, text("map[string]interface {}")),
)


def unless_empty(separator: str) -> Nodes:
    """A text, or nothing."""
    return (Text(separator),) if separator else ()


def _around(texts: tuple[str, str], value: Expression) -> Nodes:
    return (*unless_empty(texts[0]), Print(value), *unless_empty(texts[1]))


def spelled_body(spelling: Spelling, name: str) -> Nodes:
    """The block ``name``, which writes a value and calls itself for what the value holds."""
    inner = Include(name, variable("v"))
    (list_open, list_between, list_close), (map_open, map_between, map_close) = (
        spelling.items,
        spelling.entries,
    )
    item: Nodes = (If(variable("i"), unless_empty(list_between)), inner) if list_between else (inner,)
    a_list: Nodes = (
        If(
            DOT,
            (*unless_empty(list_open), Range(DOT, item, "$i", "$v"), *unless_empty(list_close)),
            unless_empty(spelling.empty),
        ),
    )
    key = variable("k")
    entry: Nodes = (
        *((If(variable("n"), (Text(map_between),)),) if map_between else ()),
        Assign("$n", Literal(1), declare=False),
        *_around(spelling.key, key),
        inner,
        *(_around(spelling.again, key) if spelling.again else ()),
    )
    if spelling.null is None:
        entry = (If(call("ne", call("printf", text("%T"), variable("v")), text("<nil>")), entry),)
    a_map: Nodes = (
        *unless_empty(map_open),
        Assign("$n", Literal(0)),
        Range(DOT, entry, "$k", "$v"),
        *unless_empty(map_close),
    )
    a_bool: Nodes = (If(DOT, (Text(spelling.true),), (Text(spelling.false),)),)
    cases: list[tuple[Expression, Nodes]] = [
        (call("eq", _TYPE, text("string")), _around(spelling.text, DOT)),
        (call("eq", call("slice", _TYPE, text(0), text(2)), text("[]")), a_list),
        (IS_MAP, a_map),
        (call("eq", _TYPE, text("bool")), a_bool),
        (call("eq", _TYPE, text("<nil>")), unless_empty(spelling.null or "")),
    ]
    body: Nodes = (Print(call("json", DOT)),)
    for condition, nodes in reversed(cases):
        body = (If(condition, nodes, body),)
    return (Assign("$t", call("printf", text("%T"), DOT)), *body)
