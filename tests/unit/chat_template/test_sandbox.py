"""Hostile templates: what they ask for is refused before it is done, and quickly."""

from __future__ import annotations

import time
from typing import Any

import pytest

import ggufpack.chat_template.render as render_module
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.errors import ChatTemplateError

R = "range(100000)"
LARGE = {
    "product": "{{ 'a' * 1000000000 }}",
    "product, turned": "{{ 10 ** 9 * 'a' }}",
    "list": "{{ [0] * 10 ** 9 }}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "power in a test": "{% if 9 ** 999999 > 1 %}x{% endif %}",
    "squares": "{% set n = namespace(x=3) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "doubling": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "doubling by ~": "{% set n = namespace(x='a') %}{% for i in range(60) %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}",
    "nested lists": "{% set n = namespace(x=[]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}"
    "{% endfor %}{{ n.x }}",
    "nested lists as JSON": "{% set n = namespace(x=[]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}"
    "{% endfor %}{{ n.x | tojson }}",
    "center": "{{ 'a' | center(1000000000) }}",
    "center, a method": "{{ 'a'.center(1000000000) }}",
    "zfill": "{{ '1'.zfill(1000000000) }}",
    "indent": "{{ {'a': 1} | tojson(indent=1000000000) }}",
    "format": "{{ '%1000000000d' | format(1) }}",
    "format, %": "{{ '%1000000000d' % 1 }}",
    "format, a star": "{{ '%*d' % (1000000000, 1) }}",
    "format, a method": "{{ '{:1000000000}'.format(1) }}",
    "format, nested": "{{ '{:{}}'.format(1, 1000000000) }}",
    "replace": "{% set a = 'a' * 100000 %}{{ a.replace('a', a) }}",
    "replace, a filter": "{% set a = 'a' * 100000 %}{{ a | replace('a', a) }}",
    "join": "{{ ('a' * 100000).join(['b'] * 100000) }}",
    "join, a filter": "{{ (['b'] * 100000) | join('a' * 100000) }}",
    "lipsum": "{{ lipsum(100000) }}",
    "bytes": "{{ (1).to_bytes(1000000000, 'big') }}",
}
SLOW = {
    "loops": f"{{% for i in {R} %}}{{% for j in {R} %}}{{% endfor %}}{{% endfor %}}",
    "loops in a set block": f"{{% set x %}}{{% for i in {R} %}}{{% for j in {R} %}}{{% endfor %}}"
    "{% endfor %}{% endset %}",
    "filters": f"{{% for i in {R} %}}{{{{ ({R} | list | length) and '' }}}}{{% endfor %}}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "blocks": "{% set n = namespace(d=0) %}{% block a %}{% set n.d = n.d + 1 %}{% if n.d % 30 %}"
    "{{ self.a() }}{{ self.a() }}{% endif %}{% endblock %}",
}
ENDLESS = {
    "printing": f"{{% for i in {R} %}}{{% for j in {R} %}}0123456789{{% endfor %}}{{% endfor %}}",
    "printing in a set block": f"{{% set x %}}{{% for i in {R} %}}0123456789{{{{ 'a' * 1000 }}}}"
    "{% endfor %}{% endset %}",
    "printing in a macro": "{% macro f() %}{% for i in range(90000) %}{{ 'a' * 1000 }}{% endfor %}"
    "{% endmacro %}{{ f() }}",
}


def refused(text: str) -> tuple[str, float]:
    """The finding, and the seconds until it came."""
    started = time.thread_time()
    with pytest.raises(ChatTemplateError) as caught:
        ChatTemplate(text).render([{"role": "user", "content": "x"}], add_generation_prompt=True)
    return caught.value.finding or "", time.thread_time() - started


@pytest.mark.parametrize("name", LARGE)
def test_large_values(name: str) -> None:
    finding, seconds = refused(LARGE[name])
    assert finding == "GP421"
    assert seconds < 2


@pytest.mark.parametrize("name", SLOW)
def test_long_loops(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render_module, "RENDER_SECONDS", 0.3)
    finding, seconds = refused(SLOW[name])
    assert finding in ("GP435", "GP421")
    assert seconds < 2


@pytest.mark.parametrize("name", ENDLESS)
def test_long_output(name: str) -> None:
    finding, seconds = refused(ENDLESS[name])
    assert finding == "GP423"
    assert seconds < 5


@pytest.mark.parametrize(
    "text",
    [
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% block a %}{{ self.a() }}{% endblock %}",
        "{% for x in [[[]]] recursive %}{{ loop([[1]]) }}{% endfor %}",
    ],
)
def test_recursion(text: str) -> None:
    assert refused(text)[0] == "GP421"


def test_the_limits_are_of_one_render(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render_module, "RENDER_SECONDS", 0.2)
    template = ChatTemplate("{% for i in range(2000) %}{{ i }}{% endfor %}")
    for _ in range(200):
        assert len(template.render([], add_generation_prompt=False)) == 6890


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ 'ab' * 3 ~ (1 + 2) ~ [1] }}", "ababab3[1]"),
        ("{{ 2 ** 10 }} {{ 7 % 4 }} {{ '%s=%d' % ('a', 3) }} {{ '%s' | format('b') }}", "1024 3 a=3 b"),
        ("{{ '{}-{:>4}'.format(1, 2) }}{{ 'x'.center(5) }}|{{ ', '.join(['a', 'b']) }}", "1-   2  x  |a, b"),
        ("{% set x %}{% for i in [1, 2] %}{{ i }},{% endfor %}{% endset %}{{ x }}", "1,2,"),
        (
            "{% for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% else %}n{% endfor %}",
            "13",
        ),
        ("{{ messages[0].content.replace('a', 'b') }}{{ nothing }}{{ none }}", "hbNone"),
        ("{{ 73000000 | tojson }}{{ 12345678 | string }}", "7300000012345678"),
        ("{% macro m(a) %}<{{ a }}{{ caller() }}>{% endmacro %}{% call m(1) %}!{% endcall %}", "<1!>"),
    ],
)
def test_honest_templates_print_the_same(text: str, expected: str) -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "ha"}]
    assert ChatTemplate(text).render(messages, add_generation_prompt=False) == expected


def test_of_several_templates_that_for_tools_is_taken_with_tools() -> None:
    family = ChatTemplate("plain", named={"default": "plain", "tool_use": "with tools", "rag": "documents"})
    tool = {"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}
    assert family.render([], add_generation_prompt=False) == "plain"
    assert family.render([], add_generation_prompt=False, tools=[tool]) == "with tools"
    assert family.texts == ("plain", "with tools")
    assert ChatTemplate("one").render([], add_generation_prompt=False, tools=[tool]) == "one"


def test_a_broken_template_of_the_family_is_found_at_once() -> None:
    with pytest.raises(ChatTemplateError) as caught:
        ChatTemplate("plain", named={"tool_use": "{% if %}"})
    assert caught.value.finding == "GP420"
