"""The Jinja environment that chat templates run in: Hugging Face's semantics, with limits on work.

A chat template is a program that came with a download. Jinja's sandbox keeps it from reaching
Python; it does not keep it from looping or growing. Here every loop round, macro, block and filter
call looks at a clock, and everything that can grow (products, powers, ``~``, filters and methods of
texts) is checked before it is computed. The transformed template prints what the plain one prints.
"""

from __future__ import annotations

import functools
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.runtime
import jinja2.sandbox
from jinja2.visitor import NodeTransformer

MAX_SIZE = 4 * 1024 * 1024  # characters of one text, items of one list, nested ones counted
MAX_BITS = 4096  # of an integer
MAX_PADDING = 10_000  # what center, indent, zfill and the like may be asked for
RENDER_SECONDS = 5.0

_PADDING_METHODS = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs", "to_bytes"})
_PADDING_FILTERS = frozenset({"center", "indent", "batch", "slice", "tojson", "round", "wordwrap"})
# These look at a container without walking through what is nested in it.
_SHALLOW_FILTERS = frozenset({"length", "count", "first", "last", "default", "d", "selectattr", "rejectattr"})
_LONG_NUMBER = re.compile(r"\d{5,}")
_TICK, _CHARGE, _JOIN = "ggufpack tick", "ggufpack charge", "ggufpack join"  # no template can name these


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


_budget = _Budget()


@contextmanager
def limited(seconds: float, characters: int) -> Iterator[None]:
    """Give the render inside so much processor time of this thread, and so many printed characters."""
    before = (_budget.deadline, _budget.printed, _budget.limit)
    # processor time: a busy machine does not make an honest template fail
    _budget.deadline, _budget.printed, _budget.limit = time.thread_time() + seconds, 0, characters
    try:
        yield
    finally:
        _budget.deadline, _budget.printed, _budget.limit = before


def check_time() -> None:
    """Raise when the time is over."""
    if _budget.deadline is not None and time.thread_time() > _budget.deadline:
        raise TimeLimitReachedError


def check_size(value: object) -> int:
    """Characters and items of ``value``; raises when they are too many. Nested data counts as printed."""
    if isinstance(value, (str, bytes)):
        size = len(value)
    elif isinstance(value, (list, tuple, Mapping, set)):
        size = 0
        waiting: list[object] = [value]
        while waiting:
            item = waiting.pop()
            if isinstance(item, (str, bytes)):
                size += len(item)
            elif isinstance(item, (list, tuple, set)):
                waiting.extend(item)
            elif isinstance(item, Mapping):
                waiting.extend(item.values())
            size += 1
            if size > MAX_SIZE or len(waiting) > MAX_SIZE:
                break
    else:
        return 1
    if size > MAX_SIZE:
        raise LimitReachedError(f"a value of more than {MAX_SIZE} characters or items")
    return size


class LimitedEnvironment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The sandbox with the limits of this module."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name, function in list(self.filters.items()):
            self.filters[name] = limited_filter(name, function)
        self.filters[_TICK] = _tick
        self.filters[_CHARGE] = _charge
        self.filters[_JOIN] = _join
        self.globals["lipsum"] = _no_lipsum
        self.concat = _concat  # type: ignore[method-assign]

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        return cast(jinja2.nodes.Template, _Limits().visit(super()._parse(source, name, filename)))

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """The operator, if its result cannot be too large."""
        check_time()
        _CHECKS[operator](left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: jinja2.runtime.Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """A call; methods of texts are checked first."""
        check_time()
        _check_method(__obj, args, kwargs)
        return super().call(__context, __obj, *args, **kwargs)


def limited_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with its time, its arguments and its result checked."""

    @functools.wraps(function)  # Jinja's marks (pass_environment, …) are attributes and come along
    def checked(*args: Any, **kwargs: Any) -> Any:
        check_time()
        given = [*args, *kwargs.values()]
        if name not in _SHALLOW_FILTERS:
            for value in given:
                check_size(value)
        if name in _PADDING_FILTERS:
            _check_padding(given[1:])  # the first is what is filtered: any number may be
        texts = [value for value in given if isinstance(value, str)]
        if name == "replace" and len(texts) > 2:
            _check_replaced(texts[0], texts[1], texts[2])
        elif name == "join" and texts:
            _check_joined(given, max(map(len, texts)))
        elif name == "format" and texts:
            _check_format(texts[0], given)
        result = function(*args, **kwargs)
        if isinstance(result, str):
            check_size(result)
        return result

    return checked


def _check_product(left: Any, right: Any) -> None:
    for value, times in ((left, right), (right, left)):
        if isinstance(value, (str, bytes, list, tuple)) and isinstance(times, int):
            if len(value) * times > MAX_SIZE:
                raise LimitReachedError(f"a product of more than {MAX_SIZE} characters or items")
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
        if isinstance(left, kind) and isinstance(right, kind) and len(left) + len(right) > MAX_SIZE:
            raise LimitReachedError(f"a sum of more than {MAX_SIZE} characters or items")


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
    if name in _PADDING_METHODS:
        _check_padding(given)
    elif name == "replace" and len(args) > 1 and isinstance(args[0], type(owner)):
        _check_replaced(owner, args[0], args[1])
    elif name == "join":
        _check_joined(given, len(owner) if isinstance(owner, (str, bytes)) else 0)
    elif name in ("format", "format_map") and isinstance(owner, str):
        _check_format(owner, given)


def _check_padding(values: list[Any]) -> None:
    if any(isinstance(value, int) and value > MAX_PADDING for value in values):
        raise LimitReachedError(f"padding of more than {MAX_PADDING} characters")


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

    def visit_Concat(self, node: jinja2.nodes.Concat) -> jinja2.nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filter(jinja2.nodes.List(node.nodes, lineno=node.lineno), _JOIN)

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
    if sum(map(len, texts)) > MAX_SIZE:
        raise LimitReachedError(f"a text of more than {MAX_SIZE} characters")
    return "".join(texts)


def _concat(pieces: Any) -> str:
    """Joins what a block printed; Jinja's own is ``"".join``."""
    texts = list(pieces)
    if sum(map(len, texts)) > _budget.limit:
        raise OutputLimitReachedError
    return "".join(texts)


def _no_lipsum(*_args: Any, **_kwargs: Any) -> str:
    raise LimitReachedError("lipsum")
