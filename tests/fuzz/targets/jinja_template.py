"""A chat template: ChatTemplateError, or a prompt of bounded length in bounded time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from unittest import mock

from ggufpack.chat_template import render
from ggufpack.chat_template.render import MAX_RENDERED_CHARACTERS, ChatTemplate
from ggufpack.chat_template.sandbox import RENDER_SECONDS
from ggufpack.errors import ChatTemplateError

WORDS = tuple(
    word.encode()
    for word in (
        *(
            "{{ ",
            " }}",
            "{% for m in messages %}",
            "{% endfor %}",
            "{% if ",
            "{% endif %}",
            "{% set x = ",
            " %}",
        ),
        *("{% macro f(x) %}", "{% endmacro %}", "{% set ns = namespace(a=1) %}", "ns.a", "messages", "tools"),
        *("['content']", ".content", "|tojson", "|trim", "|length", "|list", "|join(", "range(", "loop.last"),
        *(
            ".__class__",
            ".__init__",
            "|attr('",
            ".format(",
            "~",
            "**",
            "*",
            "%",
            "|string",
            "|map(",
            "cycler",
        ),
        *(
            "raise_exception('x')",
            "strftime_now('%Y')",
            "{% generation %}",
            "{% endgeneration %}",
            "99999999",
        ),
    )
)
# a twentieth of the real ones: inputs that reach them are many, and would take all the time
_SECONDS, _CHARACTERS = RENDER_SECONDS / 20, MAX_RENDERED_CHARACTERS // 20
_TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
_MESSAGES = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]


def one_input(data: bytes) -> None:
    with mock.patch.multiple(render, RENDER_SECONDS=_SECONDS, MAX_RENDERED_CHARACTERS=_CHARACTERS):
        _one_input(data)


def _one_input(data: bytes) -> None:
    begun = time.thread_time()
    try:
        template = ChatTemplate(
            data.decode("utf-8", "replace"),
            special_tokens={"bos_token": "<s>", "eos_token": "</s>"},
            now=lambda: datetime(2026, 1, 1),
        )
        prompt = template.render(_MESSAGES, add_generation_prompt=True, tools=_TOOLS)
        assert len(prompt) <= _CHARACTERS
    except ChatTemplateError as error:
        assert error.finding in {"GP420", "GP421", "GP422", "GP423", "GP435"}
    assert time.thread_time() - begun < 2 * RENDER_SECONDS


def seeds() -> Iterator[bytes]:
    yield (
        b"{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message.content | trim }}"
        b"{% if not loop.last %}\n{% endif %}{% endfor %}"
        b"{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    yield (
        b"{% set ns = namespace(n=0) %}{% for m in messages[::-1] %}{% set ns.n = ns.n + 1 %}{% endfor %}"
        b"{{ ns.n ~ 'x' * 3 }}"
    )
    yield (
        b"{% macro f(x) %}{{ x|tojson(indent=2) }}{% endmacro %}{% if tools %}{{ f(tools) }}{% endif %}"
        b"{{ '%s' % messages|length }}"
    )
    yield (
        b"{% generation %}{{ strftime_now('%Y') }}{% endgeneration %}"
        b"{{ raise_exception('no') if messages|length > 9 }}"
    )
