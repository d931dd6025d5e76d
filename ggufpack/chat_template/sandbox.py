"""The Jinja environment that chat templates run in: Hugging Face's semantics, with limits on work.

A chat template is a program that came with a download. Jinja's sandbox keeps it from reaching
Python; it does not keep it from looping or growing. Here every loop round, macro, block and filter
call looks at a clock, and everything that can grow (products, powers, ``~``, filters and methods of
texts) is checked before it is computed. The transformed template prints what the plain one prints.
"""

from __future__ import annotations

import functools
import itertools
import re
import sys
import threading
import time
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from contextlib import contextmanager
from typing import Any, cast

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.runtime
import jinja2.sandbox
import jinja2.utils
from jinja2.visitor import NodeTransformer

MAX_SIZE = 4 * 1024 * 1024  # characters of one text, or of all texts nested in one value
MAX_ITEMS = 256 * 1024  # of one list, nested ones counted
MAX_MADE_BYTES = 256 * 1024 * 1024  # of all texts and lists that one render computes
MAX_BITS = 4096  # of an integer
MAX_PADDING = 10_000  # what center, indent, zfill and the like may be asked for
MAX_SLOW_SIZE = 100_000  # for what Python does character by character, or worse
MAX_COMPARED = 64 * 1024 * 1024  # pairs of characters, where a search looks at each pair
MAX_NODES = 10_000  # of the syntax tree; the largest of 80 real ones has 1,300
MAX_BLOCKS = 500  # the compiler takes the square of their number
RENDER_SECONDS = 5.0

_PADDING_METHODS = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs", "to_bytes"})
_PADDING_FILTERS = frozenset({"center", "indent", "batch", "slice", "tojson", "round", "wordwrap"})
# each repeats an argument, a text or so many spaces, for pieces of what is filtered
_REPEATING = frozenset({"indent", "tojson", "wordwrap", "urlize", "xmlattr", "expandtabs", "translate"})
_SLOW = frozenset({"striptags", "urlize", "wordwrap", "xmlattr", "pprint", "unescape"})
# CPython compares each character of the text with each of the argument
_SEARCHING = frozenset({"strip", "lstrip", "rstrip", "trim", "rfind", "rindex", "rsplit", "rpartition"})
# the others are Python code, punycode's in the square of the length
_ENCODINGS = frozenset({"utf-8", "utf8", "ascii", "latin-1"})
# These look at a container without walking through what is nested in it.
_SHALLOW_FILTERS = frozenset({"length", "count", "first", "last", "default", "d", "selectattr", "rejectattr"})
_LONG_NUMBER = re.compile(r"\d{5,}")
# They visit each character of a text as an object of its own.
_VISITING = frozenset(
    {"list", "sort", "batch", "slice", "unique", "join", "map", "select", "reject", "groupby", "min", "max"}
    | {"sum", "random", "title", "selectattr", "rejectattr"}
)
# what filters get beside their arguments
_JINJAS = (jinja2.Environment, jinja2.nodes.EvalContext, jinja2.runtime.Context)
# no template can name these
_TICK, _CHARGE, _JOIN, _CHECK = "ggufpack tick", "ggufpack charge", "ggufpack join", "ggufpack check"


class LimitReachedError(Exception):
    """The template asks for too much; says what of."""


class TimeLimitReachedError(LimitReachedError):
    """The template took more processor time than a render may."""


class OutputLimitReachedError(LimitReachedError):
    """The template printed more than a prompt may hold, inside ``{% set %}`` blocks too."""


class _Budget(threading.local):
    """What the render that runs in this thread has left."""

    deadline: float | None = None
    printed: int = 0
    limit: int = MAX_SIZE
    made: int = 0


_budget = _Budget()


@contextmanager
def limited(seconds: float, characters: int) -> Iterator[None]:
    """Give the render inside so much processor time of this thread, and so many printed characters."""
    before = vars(_budget).copy()
    # processor time: a busy machine does not make an honest template fail
    _budget.deadline, _budget.limit = time.thread_time() + seconds, characters
    _budget.printed = _budget.made = 0
    try:
        yield
    finally:
        vars(_budget).clear()
        vars(_budget).update(before)


def check_time() -> None:
    """Raise when the time is over."""
    if _budget.deadline is not None and time.thread_time() > _budget.deadline:
        raise TimeLimitReachedError


def check_size(value: object) -> int:
    """Characters and items of ``value``; raises when they are too many. Nested data counts as printed."""
    if type(value) is str and len(value) <= MAX_SIZE:
        return len(value)
    characters, items = _measure(value)
    _check_amount(characters, items)
    return characters + items


def _measure(value: object) -> tuple[int, int]:
    """Characters and items of ``value``, nested ones each time they occur; no more than the limits need."""
    if isinstance(value, (str, bytes)):
        return len(value), 0
    if isinstance(value, int):
        _check_bits(value.bit_length())
    characters = items = 0
    waiting: list[object] = [value]
    while waiting and characters <= MAX_SIZE and items <= MAX_ITEMS:
        item = waiting.pop()
        items += 1
        if isinstance(item, (str, bytes)):
            characters += len(item)
        elif (nested := _nested(item)) is not None:
            waiting.extend(nested)
            if len(waiting) > MAX_ITEMS:
                items += len(waiting)
    return characters, items


def _nested(value: object) -> Iterable[object] | None:
    """What printing, comparing or hashing ``value`` walks through."""
    if isinstance(value, (list, tuple, set, frozenset, KeysView, ValuesView, ItemsView)):
        return value
    if isinstance(value, Mapping):
        return itertools.chain(value.keys(), value.values())
    if isinstance(value, jinja2.utils.Namespace):
        attributes: dict[str, object] = object.__getattribute__(value, "_Namespace__attrs")
        return attributes.values()
    return None


def _check_amount(characters: int, items: int) -> None:
    if characters > MAX_SIZE or items > MAX_ITEMS:
        raise LimitReachedError(f"a value of more than {MAX_SIZE} characters or {MAX_ITEMS} items")


def _made(value: Any) -> Any:
    """``value``, which was just computed, if it and all that came before it are not too large."""
    check_size(value)
    if isinstance(value, (str, bytes, list, tuple)):
        _budget.made += sys.getsizeof(value)
        if _budget.made > MAX_MADE_BYTES:
            raise LimitReachedError(f"texts and lists of more than {MAX_MADE_BYTES} bytes in one prompt")
    return value


class LimitedEnvironment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The sandbox with the limits of this module."""

    # all of them: the others do no harm here, but the compiler would compute them without a clock
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name, function in list(self.filters.items()):
            self.filters[name] = limited_filter(name, function)
        for name, test in list(self.tests.items()):
            self.tests[name] = _limited_test(cast(Callable[..., Any], test))
        self.filters[_TICK] = _tick
        self.filters[_CHARGE] = _charge
        self.filters[_JOIN] = _join
        self.filters[_CHECK] = _check
        self.globals["lipsum"] = _no_lipsum
        self.concat = _concat  # type: ignore[method-assign]

    def parse_plain(self, source: str) -> jinja2.nodes.Template:
        """The tree as Jinja reads it, without the checks."""
        return super()._parse(source, None, None)

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        parsed = super()._parse(source, name, filename)
        # the compiler has no clock; of many names and conditions it takes the product
        nodes = list(itertools.islice(parsed.find_all(jinja2.nodes.Node), MAX_NODES))
        if len(nodes) == MAX_NODES:
            raise jinja2.TemplateSyntaxError(f"it has more than {MAX_NODES:,} expressions", 1)
        if sum(isinstance(node, jinja2.nodes.Block) for node in nodes) > MAX_BLOCKS:
            raise jinja2.TemplateSyntaxError(f"it has more than {MAX_BLOCKS} blocks", 1)
        return cast(jinja2.nodes.Template, _Limits().visit(parsed))

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """The operator, if its result cannot be too large."""
        check_time()
        if operator in _CHECKS:
            _CHECKS[operator](left, right)
        return _made(super().call_binop(context, operator, left, right))

    def call(__self, __context: jinja2.runtime.Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """A call; methods of texts are checked first."""
        check_time()
        _check_method(__obj, args, kwargs)
        return _made(super().call(__context, __obj, *args, **kwargs))


def limited_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with its time, its arguments and its result checked."""

    @functools.wraps(function)  # Jinja's marks (pass_environment, …) are attributes and come along
    def checked(*args: Any, **kwargs: Any) -> Any:
        check_time()
        given = [value for value in (*args, *kwargs.values()) if not isinstance(value, _JINJAS)]
        if name not in _SHALLOW_FILTERS:
            for value in given:
                check_size(value)
        if name in _PADDING_FILTERS:
            _check_padding(given[1:])  # the first is what is filtered: any number may be
        if name == "sum" and any(isinstance(value, (list, tuple)) for value in given[1:]):
            raise LimitReachedError("a sum of lists")  # it takes the square of their number
        _check_work(name, given)
        texts = [value for value in given if isinstance(value, str)]
        if name == "replace" and len(texts) > 2:
            _check_replaced(texts[0], texts[1], texts[2])
        elif name == "join" and texts:
            _check_joined(given, max(map(len, texts)))
        elif name == "format" and texts:
            _check_format(texts[0], given)
        return _made(function(*args, **kwargs))

    return checked


def _limited_test(test: Callable[..., Any]) -> Callable[..., Any]:
    """``test`` with its time checked; what it walks through was measured when it was made."""

    @functools.wraps(test)
    def checked(*args: Any, **kwargs: Any) -> Any:
        check_time()
        return test(*args, **kwargs)

    return checked


def _check_work(name: str, given: list[Any]) -> None:
    """Of a filter or a method; the first of ``given`` is what it is of."""
    if not given:
        return
    first, others = given[0], given[1:]
    if name in _SLOW and check_size(first) > MAX_SLOW_SIZE:
        raise LimitReachedError(f"{name} of more than {MAX_SLOW_SIZE} characters")
    if name in _VISITING and isinstance(first, str) and len(first) > MAX_ITEMS:
        raise LimitReachedError(f"{name} of more than {MAX_ITEMS} characters")
    if name in _SEARCHING:
        pairs = (
            len(first) * max((len(v) for v in others if isinstance(v, (str, bytes))), default=0)
            if isinstance(first, (str, bytes))
            else 0
        )
        if pairs > MAX_COMPARED:
            raise LimitReachedError(f"{name} with {pairs} pairs of characters")
    if name in _REPEATING and check_size(first) * max(map(_repeated, others), default=0) > 4 * MAX_SIZE:
        raise LimitReachedError(f"{name} to more than {4 * MAX_SIZE} characters")


def _repeated(value: Any) -> int:
    """Characters that an argument may add for each piece."""
    return abs(value) if isinstance(value, int) else check_size(value)


def _check_product(left: Any, right: Any) -> None:
    for value, times in ((left, right), (right, left)):
        if isinstance(value, (str, bytes, list, tuple)) and isinstance(times, int):
            characters, items = _measure(value)
            _check_amount(characters * times, items * times)
            return
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())


def _check_power(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int) and right > 0:
        _check_bits(left.bit_length() * right)


def _check_bits(bits: int) -> None:
    if bits > MAX_BITS:
        raise LimitReachedError(f"an integer of more than {MAX_BITS} bits")


def _check_sum(left: Any, right: Any) -> None:
    for kind in ((str, bytes), (list, tuple)):
        if isinstance(left, kind) and isinstance(right, kind):
            _check_amount(*map(sum, zip(_measure(left), _measure(right), strict=True)))


def _check_modulo(left: Any, right: Any) -> None:
    if isinstance(left, (str, bytes)):
        values = list(right) if isinstance(right, tuple) else [right]
        _check_format(left if isinstance(left, str) else left.decode("latin-1"), values)


_CHECKS: Mapping[str, Callable[[Any, Any], None]] = {
    "+": _check_sum,
    "*": _check_product,
    "**": _check_power,
    "%": _check_modulo,
}


def _check_method(obj: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    method = getattr(obj, "__wrapped__", obj)  # the sandbox wraps str.format
    owner = getattr(method, "__self__", None)
    if not isinstance(owner, (str, bytes, int)):
        return
    name = getattr(method, "__name__", "")
    given = [*args, *kwargs.values()]
    _check_work(name, [owner, *given])
    if name in _PADDING_METHODS:
        _check_padding(given)
    elif name in ("encode", "decode"):
        _check_encoding(given)
    elif name == "replace" and len(args) > 1 and isinstance(args[0], type(owner)):
        _check_replaced(owner, args[0], args[1])
    elif name == "join":
        _check_joined(given, len(owner) if isinstance(owner, (str, bytes)) else 0)
    elif name in ("format", "format_map") and isinstance(owner, str):
        _check_format(owner, given)


def _check_padding(values: list[Any]) -> None:
    if any(isinstance(value, int) and abs(value) > MAX_PADDING for value in values):
        raise LimitReachedError(f"padding of more than {MAX_PADDING} characters")


def _check_encoding(values: list[Any]) -> None:
    if values and str(values[0]).lower().replace("_", "-") not in _ENCODINGS:
        raise LimitReachedError("an encoding other than UTF-8, ASCII and Latin-1")


def _check_replaced(text: Any, old: Any, new: Any) -> None:
    if isinstance(new, (str, bytes)) and len(text) + text.count(old) * len(new) > MAX_SIZE:
        raise LimitReachedError(f"a text of more than {MAX_SIZE} characters")


def _check_joined(values: list[Any], separator: int) -> None:
    for value in values:
        if isinstance(value, (list, tuple)):
            if check_size(value) + separator * len(value) > MAX_SIZE:
                raise LimitReachedError(f"a text of more than {MAX_SIZE} characters")
        else:
            check_size(value)


def _check_format(text: str, values: list[Any]) -> None:
    size = sum(check_size(value) for value in values)
    if _LONG_NUMBER.search(text) or size * (text.count("%") + text.count("{") + 1) > MAX_SIZE:
        raise LimitReachedError(f"a format of more than {MAX_SIZE} characters")
    if "*" in text or "{" in text.replace("{{", "").partition("{")[2]:
        _check_padding(values)


class _Limits(NodeTransformer):
    """Puts the checks into a parsed template."""

    def visit_For(self, node: jinja2.nodes.For) -> jinja2.nodes.Node:  # noqa: N802
        return self._with_tick(node)

    def visit_Macro(self, node: jinja2.nodes.Macro) -> jinja2.nodes.Node:  # noqa: N802
        return self._with_tick(node)

    def visit_CallBlock(self, node: jinja2.nodes.CallBlock) -> jinja2.nodes.Node:  # noqa: N802
        return self._with_tick(node)

    def visit_Block(self, node: jinja2.nodes.Block) -> jinja2.nodes.Node:  # noqa: N802
        return self._with_tick(node)

    def visit_Output(self, node: jinja2.nodes.Output) -> jinja2.nodes.Node:  # noqa: N802
        self.generic_visit(node)
        fixed = (jinja2.nodes.Const, jinja2.nodes.TemplateData)
        node.nodes = [item if isinstance(item, fixed) else _filter(item, _CHARGE) for item in node.nodes]
        return node

    def visit_List(self, node: jinja2.nodes.List) -> jinja2.nodes.Node:  # noqa: N802
        return self._with_check(node, node.items)

    def visit_Tuple(self, node: jinja2.nodes.Tuple) -> jinja2.nodes.Node:  # noqa: N802
        return self._with_check(node, node.items) if node.ctx == "load" else node

    def visit_Dict(self, node: jinja2.nodes.Dict) -> jinja2.nodes.Node:  # noqa: N802
        return self._with_check(node, [part for pair in node.items for part in (pair.key, pair.value)])

    def visit_Concat(self, node: jinja2.nodes.Concat) -> jinja2.nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filter(jinja2.nodes.List(node.nodes, lineno=node.lineno), _JOIN)

    def _with_check(self, node: jinja2.nodes.Expr, items: list[jinja2.nodes.Expr]) -> jinja2.nodes.Node:
        self.generic_visit(node)
        return node if all(isinstance(item, jinja2.nodes.Const) for item in items) else _filter(node, _CHECK)

    def _with_tick(self, node: Any) -> jinja2.nodes.Node:
        self.generic_visit(node)
        tick = _filter(jinja2.nodes.Const("", lineno=node.lineno), _TICK)
        node.body = [jinja2.nodes.ExprStmt(tick, lineno=node.lineno), *node.body]
        checked: jinja2.nodes.Node = node
        return checked


def _filter(value: jinja2.nodes.Expr, name: str) -> jinja2.nodes.Filter:
    return jinja2.nodes.Filter(value, name, [], [], None, None, lineno=value.lineno)


@jinja2.pass_context  # which keeps the compiler from folding the call
def _tick(_context: jinja2.runtime.Context, _value: object) -> str:
    check_time()
    return ""


@jinja2.pass_context
def _charge(_context: jinja2.runtime.Context, value: object) -> object:
    _budget.printed += check_size(value)
    if _budget.printed > 4 * _budget.limit:  # a text may be printed into a block, and again from there
        raise OutputLimitReachedError
    return value


@jinja2.pass_context
def _join(_context: jinja2.runtime.Context, values: list[object]) -> str:
    for value in values:
        check_size(value)
    texts = [str(value) for value in values]
    _check_amount(sum(map(len, texts)), 0)
    return cast(str, _made("".join(texts)))


@jinja2.pass_context
def _check(_context: jinja2.runtime.Context, value: object) -> object:
    check_time()
    check_size(value)
    return value


def _concat(pieces: Any) -> str:
    """Joins what a block printed; Jinja's own is ``"".join``."""
    texts = list(pieces)
    if sum(map(len, texts)) > _budget.limit:
        raise OutputLimitReachedError
    return cast(str, _made("".join(texts)))


def _no_lipsum(*_args: Any, **_kwargs: Any) -> str:
    raise LimitReachedError("lipsum")
