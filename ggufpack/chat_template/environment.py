"""What Hugging Face transformers gives to a chat template, in the sandbox of ``sandbox.py``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.utils

from ggufpack.chat_template.sandbox import LimitedEnvironment, LimitReachedError, limited_filter

MAX_TIME_FORMAT = 1000


def make_environment(now: Callable[[], datetime]) -> LimitedEnvironment:
    """A new environment by this clock, as ``_compile_jinja_template`` makes it."""
    environment = LimitedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = limited_filter("tojson", _to_json)

    def strftime_now(format: str) -> str:  # noqa: A002  the name templates use
        # the C library pads to any width that a format names
        if len(format) > MAX_TIME_FORMAT or re.search(r"\d{4,}", format):
            raise LimitReachedError(f"a time format of more than {MAX_TIME_FORMAT} characters, or padding")
        return now().strftime(format)

    environment.globals.update(
        raise_exception=_raise_exception, strftime_now=strftime_now, dict=_Dict(), namespace=_Namespace
    )
    return environment


class RaisedByTemplate(jinja2.TemplateError):
    """What ``raise_exception`` raises inside the sandbox."""


class _GenerationTag(jinja2.ext.Extension):
    """``{% generation %} … {% endgeneration %}``: marks the trained part, prints it unchanged.

    The body is a call block, as in transformers, so names set inside it do not leak out.
    """

    tags = {"generation"}  # noqa: RUF012  Jinja declares it on the instance

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """The tag as a call of :meth:`_body`."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


class _Dict:
    """``dict`` without the attributes of the type, which would lead out of the sandbox."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        """``dict.fromkeys``."""
        return dict.fromkeys(*args, **kwargs)


class _Namespace(jinja2.utils.Namespace):
    """Jinja's ``namespace`` without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        # no parameter called self, so that namespace(self=…) works in a template
        self, *rest = args
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _refuse_private(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot hold the name {name!r}")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes < > & for HTML; a prompt must not
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise RaisedByTemplate(message)
