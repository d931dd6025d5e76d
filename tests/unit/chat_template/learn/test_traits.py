from __future__ import annotations

import pytest

from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.traits import Traits, probe_traits
from tests.unit.chat_template.learn.support import TOKENS

LOOP = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
GENERATE = "{% if add_generation_prompt %}<assistant>{% endif %}"


def probed(text: str) -> Traits:
    return probe_traits(ChatTemplate(text, special_tokens=TOKENS))


@pytest.mark.parametrize(
    ("text", "system", "middle", "several"),
    [
        (LOOP, "kept", "kept", "kept"),
        ("{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}",
         "dropped", "dropped", "dropped"),
        ("{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
         "<{{ m.role }}>{{ m.content }}{% endfor %}", "raises", "raises", "raises"),
        ("{% for m in messages if m.role == 'system' %}{{ m.content }};{% endfor %}"
         "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}",
         "kept", "gathered", "gathered"),
        ("{% for m in messages %}{% if m.role != 'system' or loop.first %}<{{ m.role }}>{{ m.content }}"
         "{% endif %}{% endfor %}", "kept", "dropped", "first-only"),
        ("{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}"
         "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}",
         "moved", "dropped", "first-only"),
    ],
)  # fmt: skip
def test_where_system_messages_go(text: str, system: str, middle: str, several: str) -> None:
    found = probed(text)
    assert (found.system, found.system_middle, found.system_several) == (system, middle, several)


def test_default_system_text_stands_where_the_given_one_would() -> None:
    found = probed(
        "<sys>{% if messages[0].role == 'system' %}{{ messages[0].content }}"
        "{% else %}Be kind.{% endif %}</sys>"
        "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    )
    assert found.default_system == "Be kind."


def test_a_template_that_needs_tools() -> None:
    found = probed("{% for t in tools %}{{ t.function.name }}{% endfor %}" + LOOP)
    assert (found.chat, found.tools) == ("with-tools", True)  # transformers gives None for no tools
    assert probed("{% for t in tools or [] %}{{ t.function.name }}{% endfor %}" + LOOP).chat == "plain"


def test_tools_in_the_text_alone_are_no_tools() -> None:
    assert not probed("{# tools #}{% if tools %}I have tools.{% endif %}" + LOOP).tools


@pytest.mark.parametrize(
    ("name", "inverted"), [("enable_thinking", False), ("deep_thought", False), ("disable_reasoning", True)]
)
def test_the_switch_is_found_by_what_it_changes(name: str, inverted: bool) -> None:
    on = "not " * inverted + name
    found = probed(
        LOOP + f"{{% if add_generation_prompt %}}<a>{{% if {on} %}}<think>{{% endif %}}{{% endif %}}"
    )
    assert found.switches == (name,)
    assert (found.inverted == (name,)) is inverted
    assert found.unset is inverted
    assert found.variables(True) == {name: not inverted}


def test_a_variable_that_is_printed_or_changes_the_head_is_no_switch() -> None:
    assert probed("{{ thinking_style }}" + LOOP).switches == ()
    assert probed("{% if short_preamble %}Hi{% endif %}" + LOOP).switches == ()


def test_calls_ids_and_parallel_calls() -> None:
    each = (
        "{% for c in m.tool_calls or [] %}"
        "[{{ c.id }}{{ c.function.name }}{{ c.function.arguments | tojson }}]{% endfor %}"
    )
    body = "{% for m in messages %}<{{ m.role }}>{{ m.content }}" + each + "{% endfor %}"
    found = probed(body)
    assert (found.calls, found.results, found.ids, found.parallel) == (True, True, True, "all")
    first = probed(body.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]").replace("{{ c.id }}", ""))
    assert (first.ids, first.parallel) == (False, "first")
    assert not probed(LOOP).calls


def test_arguments_that_must_be_text() -> None:
    found = probed(
        "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
        "{{ c.function.name + c.function.arguments }}{% endfor %}{% endfor %}"
    )
    assert found.string_arguments
    assert found.calls


@pytest.mark.parametrize(
    ("expression", "trimmed"),
    [
        ("m.content", "none"),
        ("m.content | trim", "both"),
        ("m.content.lstrip()", "left"),
        ("m.content.rstrip()", "right"),
        ("m.content.strip('\\n')", "both-newlines"),
    ],
)
def test_how_edges_are_trimmed(expression: str, trimmed: str) -> None:
    found = dict(probed("{% for m in messages %}<{{ m.role }}>{{ " + expression + " }}|{% endfor %}").trims)
    assert found["user"] == trimmed


def test_dates_bos_and_refusals() -> None:
    found = probed(
        "{{ bos_token }}{{ strftime_now('%d %b %Y') }}{% if messages[0].role == 'assistant' %}"
        "{{ raise_exception('no') }}{% endif %}" + LOOP + GENERATE
    )
    assert found.dates == ("Y", "b", "d")
    assert found.bos == "<BOS>"
    assert (found.assistant_first, found.user_after_user) == (False, True)


def test_nothing_renders() -> None:
    assert probed("{{ raise_exception('never') }}").chat == "never"
