"""What Ollama reads out of a TEMPLATE without running it."""

from __future__ import annotations

import pytest

from ggufpack.chat_template import named
from ggufpack.chat_template.answers import CALL, calling_answer
from ggufpack.chat_template.capabilities import chat_template_capabilities
from ggufpack.chat_template.go.inspect import capabilities, go_is_used, tool_call_tag
from ggufpack.chat_template.go.parse import parse
from ggufpack.chat_template.go.tool_calls import reads_call
from ggufpack.chat_template.learned import LearnedEngine
from ggufpack.chat_template.readings import read_template
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.traits import probe_traits

CHATML = named.load("chatml").text
TAGGED = parse("{{ range .Messages }}{{ if .ToolCalls }}<tool_call>{{ end }}{{ end }}")
BARE = parse("{{ range .Messages }}{{ .Content }}{{ end }}")


def called(printed: str, tools: str = "{{ tools | tojson if tools }}") -> ChatTemplate:
    """ChatML whose assistant prints calls as ``printed``, by the variable ``f``."""
    text = CHATML.replace(
        "{%- for message in messages %}",
        tools + "{%- for message in messages %}",
    ).replace(
        "+ message['content'] +",
        "+ (message['content'] or '') }}{% for c in message.tool_calls or [] %}{% set f = c.function %}"
        + printed
        + "{% endfor %}{{ '' +",
    )
    assert printed in text
    return ChatTemplate(text, special_tokens={"eos_token": "</s>"})


@pytest.mark.parametrize(
    ("answer", "reads"),
    [
        ('<tool_call>\n{"name": "get_weather", "arguments": {"city": "Bern"}}\n</tool_call>', True),
        ('Well. <tool_call>{"name": "get_weather", "parameters": {"city": "Bern"}}', True),
        ('<tool_call>[{"name": "get_weather", "arguments": "{\\"city\\": \\"Bern\\"}"}]', True),
        ('<tool_call>get_weather{"city": "Bern"}', True),
        ('<tool_call>{"get_weather": {"city": "Bern"}}', True),
        ("<tool_call><function=get_weather><parameter=city>Bern</parameter>", False),
        ('{"name": "get_weather", "arguments": {"city": "Bern"}}', False),
        ('<tool_call>{"tool_name": "get_weather", "parameters": {"city": "Bern"}}', False),
        ('<tool_call>{"name": "get_weather", "args": {"city": "Bern"}}', False),
        ("<tool_call>{broken get_weather", False),
    ],
)
def test_which_calls_ollama_reads_back(answer: str, reads: bool) -> None:
    assert reads_call(TAGGED, answer, "get_weather", {"city": "Bern"}) is reads


def test_without_a_tag_only_an_answer_that_is_a_call_is_read() -> None:
    call = '{"name": "get_weather", "parameters": {"city": "Bern"}}'
    assert tool_call_tag(BARE) == "{"
    assert reads_call(BARE, call, "get_weather", {"city": "Bern"})
    assert not reads_call(BARE, f"[CALLS]{call}", "get_weather", {"city": "Bern"})


def test_an_answer_is_what_follows_the_prompt() -> None:
    template = called("<tool_call>{{ f | tojson }}")
    answer = calling_answer(template, probe_traits(template))
    assert answer is not None
    assert answer.startswith("<tool_call>{")
    assert calling_answer(ChatTemplate(CHATML), probe_traits(ChatTemplate(CHATML))) is None


def test_a_thought_that_the_prompt_opens_shares_a_bracket_with_the_call() -> None:
    text = called("<tool_call>{{ f | tojson }}").text.replace("assistant\\n' }}", "assistant\\n<think>' }}")
    assert "<think>" in text
    template = ChatTemplate(text, special_tokens={"eos_token": "</s>"})
    assert (calling_answer(template, probe_traits(template)) or "").startswith("<tool_call>{")


def test_the_tag_of_calls_is_named_where_the_template_itself_hides_it() -> None:
    """``[CALLS][`` stands in front of a loop, so the first text of ``if .ToolCalls`` is something else."""
    template = called("{{ '[CALLS][' if loop.first else ', ' }}{{ f | tojson }}{{ ']' if loop.last }}")
    found = read_template(template)
    assert found.go.text is not None
    assert tool_call_tag(parse(found.go.text)) == "[CALLS]"
    assert found.go_reads_calls


def test_calls_that_come_back_as_text_are_a_reason_for_native() -> None:
    tagged = (
        "<call name={{ f.name }}>{% for k, v in f.arguments.items() %}{{ k }}={{ v }};{% endfor %}</call>"
    )
    found = read_template(called(tagged))
    assert found.go.text is not None
    assert found.go_reads_calls is False
    assert not found.prefers_go


@pytest.mark.parametrize("words", ["tools", "<think> </think>", "tool_calls tool_response"])
def test_words_in_a_comment_count_as_capabilities(words: str) -> None:
    """Ollama looks for words; a TEMPLATE that does all that the Jinja does says what it says."""
    jinja = ChatTemplate("{# " + words + " #}" + CHATML)
    traits = probe_traits(jinja)
    wanted = frozenset({"system", "prefill"})
    text = LearnedEngine().learn(jinja, traits, wanted)
    if "tool_calls" in words:  # calls that nobody saw printed are not claimed
        assert not go_is_used(text, jinja.text)
    else:
        assert go_is_used(text, jinja.text)
        assert set(capabilities(parse(text))) == set(chat_template_capabilities(jinja.text))


def test_what_was_given_up_is_not_claimed() -> None:
    template = called("<tool_call>{{ f | tojson }}")
    traits = probe_traits(template)
    text = LearnedEngine().learn(template, traits, frozenset({"system", "prefill"}))
    assert "tools" not in capabilities(parse(text))
    assert not go_is_used(text, template.text)
    assert CALL.name not in text
