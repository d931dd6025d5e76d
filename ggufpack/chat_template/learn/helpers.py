"""The ``define`` blocks that learned templates share: JSON as Python spells it, trimming, dates.

Everything that Go's text/template has no function for and that can still be written in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ggufpack.chat_template.go.nodes import (
    Assign,
    Break,
    Define,
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
from ggufpack.chat_template.learn.spelled import DOT, IS_MAP, Nodes, spelled_body, unless_empty
from ggufpack.chat_template.learn.tables import call, negated, text, variable
from ggufpack.chat_template.learn.values import Spelling

_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_DEEPEST = 7
_DATE: Expression = call("currentDate")
_YEAR = call("slice", _DATE, text(0), text(4))
_MONTH = call("slice", _DATE, text(5), text(7))
_DAY = call("slice", _DATE, text(8), text(10))


def field(*names: str) -> Path:
    """``.Name``."""
    return Path("", names)


@dataclass(frozen=True)
class _Style:
    """How objects are spelled."""

    between: str = ", "
    colon: str = ": "
    indent: int = 0
    escaped: bool = False  # for HTML
    sort: bool = False
    python: bool = False  # repr

    @property
    def quote(self) -> str:
        return "'" if self.python else "&#34;" if self.escaped else '"'

    def string(self, value: Expression) -> Node:
        if self.python:
            return Include("repr-string", value)
        quoted = call("printf", text("%q"), value)
        return Print(call("html", quoted) if self.escaped else quoted)

    def line(self, depth: int) -> str:
        return "\n" + " " * (self.indent * depth) if self.indent else ""

    def separator(self, depth: int) -> str:
        return self.between.rstrip() + self.line(depth) if self.indent else self.between


_STYLES: dict[str, _Style] = {
    "python": _Style(),
    "ascii": _Style(),
    "sorted": _Style(sort=True),
    "compact": _Style(",", ":"),
    "compact-sorted": _Style(",", ":", sort=True),
    "indent4": _Style(indent=4),
    "indent2": _Style(indent=2),
    "repr": _Style(python=True),
}
_STYLES |= {
    f"html-{name}": _Style(style.between, style.colon, style.indent, True, style.sort)
    for name, style in _STYLES.items()
    if not style.python
}
_Entry = tuple[str, Nodes, "Expression | None"]  # a key, its value, what it is left out without
# kinds that are Go structs; every other object is a map, a list or a plain value
_STRUCTS = ("tool", "function", "parameters", "properties", "property", "schemas")
_INNER_PROPERTIES = field("Properties", "ToMap")  # a method of Go's ordered map


class Helpers:
    """The helpers that a template uses, made on demand."""

    def __init__(self) -> None:
        self._defines: dict[str, Define] = {}
        self.lossy: set[str] = set()

    @property
    def defines(self) -> tuple[Define, ...]:
        """The blocks, in the order of first use."""
        return tuple(self._defines.values())

    def block(self, name: str, body: Callable[[], Nodes]) -> str:
        """The name of a block of one's own, which may call itself."""
        return self._define(f"{name.rstrip('#')}-block{name.count('#') or ''}", body)

    def _define(self, name: str, body: Callable[[], Nodes]) -> str:
        if name not in self._defines:
            self._defines[name] = Define(name, ())  # named before its body, which may name it
            self._defines[name] = Define(name, body())
        return name

    # --- JSON -----------------------------------------------------------------

    def json(self, kind: str, spelling: str, value: Expression) -> Nodes:
        """An object of ``kind`` in one of ``spans.STYLES``."""
        spelling, _, depth = spelling.partition("@")
        if kind in ("tools", "functions"):
            return self._tool_list(kind, spelling, value)
        return (self._include(kind, spelling, int(depth or 0), value),)

    def _include(self, kind: str, spelling: str, depth: int, value: Expression) -> Node:
        kind = "properties" if kind == "inner_properties" else kind if kind in _STRUCTS else "json"
        style = _STYLES[spelling]
        if style.python:
            self.string_repr()
        name = kind if spelling in ("python", "ascii") else f"{kind}-{spelling}"
        if style.indent and depth:
            name += str(depth)
        if style.indent and depth > _DEEPEST:  # an argument nested deeper than anyone's
            return Print(call("json", value))
        return Include(self._define(name, lambda: self._body(kind, spelling, depth)), value)

    def _body(self, kind: str, spelling: str, depth: int) -> Nodes:
        style = _STYLES[spelling]

        def inner(name: str, value: Expression) -> Nodes:
            return (self._include(name, spelling, depth + 1, value),)

        entries: list[_Entry]
        if kind == "tool":
            entries = [
                ("type", (style.string(field("Type")),), None),
                ("function", inner("function", field("Function")), None),
            ]
            return self._object(entries, style, depth)
        if kind == "function":
            entries = [
                ("name", (style.string(field("Name")),), None),
                ("description", (style.string(field("Description")),), field("Description")),
                ("parameters", inner("parameters", field("Parameters")), None),
            ]
            return self._object(entries, style, depth)
        if kind == "parameters":
            entries = [
                ("$defs", inner("json", field("Defs")), field("Defs")),
                ("type", (style.string(field("Type")),), None),
                ("properties", inner("properties", field("Properties")), None),
                ("required", inner("json", field("Required")), field("Required")),
            ]
            return self._object(entries, style, depth)
        if kind == "property":
            any_of, nested = inner("schemas", field("AnyOf")), inner("properties", _INNER_PROPERTIES)
            entries = [
                ("anyOf", any_of, field("AnyOf")),
                ("type", self._type(style, depth), field("Type")),
                ("items", inner("json", field("Items")), field("Items")),
                ("description", (style.string(field("Description")),), field("Description")),
                ("enum", inner("json", field("Enum")), field("Enum")),
                ("properties", nested, field("Properties")),
                ("required", inner("json", field("Required")), field("Required")),
            ]
            return self._optional(entries, style, depth)
        if kind == "schemas":
            return self._list(style, depth, inner("property", variable("v")))
        if kind == "properties":
            return self._map(style, depth, inner("property", variable("v")))
        return self._any(style, depth, inner("json", variable("v")))

    def _type(self, style: _Style, depth: int) -> Nodes:
        """One type, or the list of several."""
        types = field("Type")
        one = style.string(call("index", types, Literal(0)))
        several = self._list(style, depth + 1, (style.string(variable("v")),), types)
        return (If(call("eq", call("len", types), Literal(1)), (one,), several),)

    @staticmethod
    def _object(entries: Sequence[_Entry], style: _Style, depth: int) -> Nodes:
        ordered = sorted(entries, key=lambda entry: entry[0]) if style.sort else list(entries)
        separator = Text(style.separator(depth + 1))
        # optional entries before the first that is always there have their separator behind them
        fixed = next(place for place, (_, _, given) in enumerate(ordered) if given is None)
        nodes: list[Node] = [Text("{" + style.line(depth + 1))]
        for place, (key, value, given) in enumerate(ordered):
            entry: Nodes = (Text(f"{style.quote}{key}{style.quote}{style.colon}"), *value)
            if place < fixed:
                entry = (*entry, separator)
            elif place > fixed:
                entry = (separator, *entry)
            nodes += entry if given is None else [If(given, entry)]
        return (*nodes, Text(style.line(depth) + "}"))

    @staticmethod
    def _optional(entries: Sequence[_Entry], style: _Style, depth: int) -> Nodes:
        """An object that may lack every key."""
        ordered = sorted(entries, key=lambda entry: entry[0]) if style.sort else list(entries)
        later = Assign("$s", Literal(style.separator(depth + 1)), declare=False)
        nodes: list[Node] = [Text("{"), Assign("$s", Literal(style.line(depth + 1)))]
        for key, value, given in ordered:
            shown = (Print(variable("s")), Text(f"{style.quote}{key}{style.quote}{style.colon}"), *value)
            assert given is not None  # noqa: S101  all are optional
            nodes.append(If(given, (*shown, later)))
        return (*nodes, *unless_empty(style.line(depth)), Text("}"))

    @staticmethod
    def _map(style: _Style, depth: int, value: Nodes) -> Nodes:
        key: Nodes = (style.string(variable("k")), Text(style.colon))
        first = variable("n")
        loop = Range(
            DOT,
            (
                If(first, (Text(style.separator(depth + 1)),), unless_empty(style.line(depth + 1))),
                Assign("$n", Literal(1), declare=False),
                *key,
                *value,
            ),
            "$k",
            "$v",
        )
        closing: Nodes = (Text("}"),)
        if style.indent:
            closing = (If(first, (Text(style.line(depth)),)), Text("}"))
        return (Text("{"), Assign("$n", Literal(0)), loop, *closing)

    @staticmethod
    def _list(style: _Style, depth: int, value: Nodes, items: Expression = DOT) -> Nodes:
        between = If(variable("i"), (Text(style.separator(depth + 1)),), unless_empty(style.line(depth + 1)))
        closing: Nodes = (If(items, (Text(style.line(depth)),)),) if style.indent else ()
        return (Text("["), Range(items, (between, *value), "$i", "$v"), *closing, Text("]"))

    def _any(self, style: _Style, depth: int, value: Nodes) -> Nodes:
        kind = variable("t")
        a_list = self._list(style, depth, value)
        plain: Nodes = (Print(call("json", DOT)),)
        if style.python:
            plain = _python_literal(DOT)
        return (
            Assign("$t", call("printf", text("%T"), DOT)),
            If(
                call("eq", kind, text("string")),
                (style.string(DOT),),
                (
                    If(
                        call("eq", call("slice", kind, text(0), text(2)), text("[]")),
                        a_list,
                        (If(IS_MAP, self._map(style, depth, value), plain),),
                    ),
                ),
            ),
        )

    def _tool_list(self, kind: str, spelling: str, value: Expression) -> Nodes:
        style = _STYLES[spelling]
        one = (
            self._include("tool", spelling, 1, variable("t"))
            if kind == "tools"
            else self._include("function", spelling, 1, Path("$t", ("Function",)))
        )
        between = If(variable("i"), (Text(style.separator(1)),), unless_empty(style.line(1)))
        return (
            Text("["),
            Range(value, (between, one), "$i", "$t"),
            Text(style.line(0) + "]"),
        )

    def spelled(self, spelling: Spelling) -> str:
        """A value as a template's own macro writes it."""
        return self._define("own-value", lambda: spelled_body(spelling, "own-value"))

    # --- text -----------------------------------------------------------------

    def trimmed(self, left: str, right: str, value: Expression) -> Node:
        """``value`` without white space at its edges (ASCII's only); see ``pieces.Value``."""
        if not left and not right:
            return Print(value)
        sides = {"": "", "newlines": "n", "all": "s"}
        same = left == right
        name = {("all", "all"): "trim", ("all", ""): "trim-left", ("", "all"): "trim-right"}.get(
            (left, right), "trim-newlines" if same else f"trim-{sides[left] or '0'}{sides[right] or '0'}"
        )
        return Include(self._define(name, lambda: _trim_body(left, right)), value)

    def string_repr(self) -> str:
        """A string as Python's ``repr`` writes it."""
        return self._define("repr-string", _repr_body)

    # --- dates ----------------------------------------------------------------

    def date(self, directive: str) -> Nodes:
        """Today, as ``strftime`` fills in ``%directive``."""
        parts: dict[str, Nodes] = {
            "Y": (Print(_YEAR),),
            "y": (Print(call("slice", _DATE, text(2), text(4))),),
            "m": (Print(_MONTH),),
            "d": (Print(_DAY),),
            "F": (Print(_DATE),),
            "-d": _without_zero(8),
            "-m": _without_zero(5),
        }
        if directive in parts:
            return parts[directive]
        if directive in ("B", "b", "h"):
            short = directive != "B"
            name = "month" if short else "month-name"
            names = [month[:3] if short else month for month in _MONTHS]
            return (Include(self._define(name, lambda: _month_body(names)), DOT),)
        self.lossy.add(f"date %{directive}")
        return ()


def _python_literal(value: Expression) -> Nodes:
    shown = call("printf", text("%v"), value)
    return (
        If(
            call("eq", shown, text("true")),
            (Text("True"),),
            (
                If(
                    call("eq", shown, text("false")),
                    (Text("False"),),
                    (If(call("eq", shown, text("<nil>")), (Text("None"),), (Print(call("json", value)),)),),
                ),
            ),
        ),
    )


def python_boolean(value: Expression) -> Nodes:
    """``True`` or ``False``."""
    return (If(value, (Text("True"),), (Text("False"),)),)


def _trim_body(left: str, right: str) -> Nodes:
    value = variable("s")
    nodes: list[Node] = [Assign("$s", DOT)]
    if left:
        first = call("slice", value, text(0), text(1))
        cut = Assign("$s", call("slice", value, text(1)), declare=False)
        is_space = call("and", value, _is_space(first, left))
        nodes.append(Range(call("len", DOT), (If(is_space, (cut,), (Break(),)),)))
    if right:
        # the end of the last character that stays
        here = call("slice", call("slice", value, variable("i")), text(0), text(1))
        behind = Assign("$e", variable("i"), declare=False)
        nodes += [
            Assign("$e", Literal(0)),
            Assign("$keep", Literal(False)),
            Range(
                call("len", value),
                (
                    If(variable("keep"), (behind,)),
                    Assign("$keep", negated(_is_space(here, right)), declare=False),
                ),
                "",
                "$i",
            ),
            If(variable("keep"), (Assign("$e", call("len", value), declare=False),)),
            Assign("$s", call("slice", value, text(0), variable("e")), declare=False),
        ]
    return (*nodes, Print(value))


def _is_space(character: Expression, which: str) -> Expression:
    if which == "newlines":
        return call("eq", character, text("\n"))
    return call("le", character, text(" "))


def _repr_body() -> Nodes:
    """Single quotes, but double ones around a text with a single and no double quote."""
    character = variable("c")
    value = variable("s")  # the dot is the number inside of a range over numbers
    take = Assign("$c", call("slice", call("slice", value, variable("i")), text(0), text(1)))
    find = Range(
        call("len", value),
        (
            take,
            If(call("eq", character, text("'")), (Assign("$one", Literal(True), declare=False),)),
            If(call("eq", character, text('"')), (Assign("$two", Literal(True), declare=False),)),
        ),
        "",
        "$i",
    )
    quote = variable("q")
    escaped: tuple[tuple[str, str], ...] = (("\\", "\\\\"), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t"))
    body: Nodes = (
        If(
            call("and", call("eq", character, text("'")), call("eq", quote, text("'"))),
            (Text("\\'"),),
            (Print(character),),
        ),
    )
    for plain, written in reversed(escaped):
        body = (If(call("eq", character, text(plain)), (Text(written),), body),)
    return (
        Assign("$s", DOT),
        Assign("$one", Literal(False)),
        Assign("$two", Literal(False)),
        find,
        Assign("$q", Literal("'")),
        If(
            call("and", variable("one"), call("not", variable("two"))),
            (Assign("$q", Literal('"'), declare=False),),
        ),
        Print(quote),
        Range(call("len", value), (take, *body), "", "$i"),
        Print(quote),
    )


def _month_body(names: Sequence[str]) -> Nodes:
    body: Nodes = ()
    for number, name in reversed(list(enumerate(names, 1))):
        body = (If(call("eq", variable("m"), text(f"{number:02d}")), (Text(name),), body),)
    return (Assign("$m", _MONTH), *body)


def _without_zero(start: int) -> Nodes:
    tens = call("slice", _DATE, text(start), text(start + 1))
    ones = call("slice", _DATE, text(start + 1), text(start + 2))
    return (If(call("ne", tens, text("0")), (Print(tens),)), Print(ones))
