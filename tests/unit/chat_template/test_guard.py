from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggufpack.chat_template.capabilities import chat_template_capabilities, has_tool_round_trip
from ggufpack.chat_template.guard import add_guard, is_guarded
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.errors import ChatTemplateError
from tests.support.go_template_oracle.oracle import GoOracle

from .test_render import TOKENS, TOOL, conversations

# what Ollama 0.33 (server/images.go) and llama.cpp (common/chat.cpp) look for in a template's text
SNIFFED = [
    "tools",
    "tool_call",
    "<think>",
    "</think>",
    "ipython",
    "tool_response",
    "tool_results",
    "reasoning_content",
    "role",
    "message",
    "content",
    "channel",
    "enable_thinking",
    "DSML",
    "functions",
    ">>>",
    "<|",
]


def outcome(template: ChatTemplate, messages: list[dict[str, Any]], **options: Any) -> str:
    try:
        return template.render(messages, **options)
    except ChatTemplateError as error:
        return str(error.finding)


def test_the_comment_changes_nothing_in_real_templates(real_chat_templates: list[Path]) -> None:
    rendered = 0
    for path in real_chat_templates:
        text = path.read_text(encoding="utf-8")
        plain = ChatTemplate(text, special_tokens=TOKENS)
        guarded = plain.with_text(add_guard(text))
        for number, messages in enumerate(conversations(seed=7, count=8)):
            options = {
                "add_generation_prompt": bool(number % 2),
                "tools": [TOOL] if number % 3 == 0 else None,
            }
            expected = outcome(plain, messages, **options)
            assert outcome(guarded, messages, **options) == expected, path.name
            rendered += not expected.startswith("GP4")
        assert chat_template_capabilities(guarded.text) == chat_template_capabilities(text)
        assert has_tool_round_trip(guarded.text) == has_tool_round_trip(text)
    assert rendered > 5 * len(real_chat_templates)


@given(
    st.lists(
        st.sampled_from(
            [
                "\n",
                " ",
                "\t",
                "\r\n",
                "x",
                "{{ 1 }}",
                "{{- 2 }}",
                "{# c #}",
                "{#- c -#}",
                "{% if 1 %}",
                "{% endif %}",
                "{%- if 1 -%}",
                "{%+ if 1 %}",
            ]
        ),
        max_size=8,
    )
)
def test_the_comment_changes_nothing_at_any_beginning(pieces: list[str]) -> None:
    text = "".join(pieces)
    text += "{% endif %}" * (text.count("if 1") - text.count("endif"))
    try:
        plain = ChatTemplate(text)
    except ChatTemplateError:
        return  # not Jinja
    guarded = plain.with_text(add_guard(text))
    assert guarded.render([], add_generation_prompt=True) == plain.render([], add_generation_prompt=True)


def test_the_comment_holds_no_word_that_is_looked_for() -> None:
    comment = add_guard("")
    assert len(comment) >= 160
    assert comment.count("{") == comment.count("}") == 1
    assert [word for word in SNIFFED if word in comment] == []


def test_it_is_added_once() -> None:
    assert not is_guarded("x")
    assert add_guard(add_guard("x")) == add_guard("x")


@pytest.mark.go
def test_ollama_no_longer_takes_it_for_another(go_oracle: GoOracle, real_chat_templates: list[Path]) -> None:
    # ChatML as Ollama knows it, with one word changed: what a fine-tune's template looks like
    known = (
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
        "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    edited = known.replace("message['content']", "message['content'] | trim")
    real = [path.read_text(encoding="utf-8") for path in real_chat_templates]
    # the known ones have at most 4,614 characters: what is far longer cannot be near
    texts = [known, edited, *(text for text in real if len(text) < 4800)]
    assert len(texts) > 10
    before = [answer["text"] for answer in go_oracle.ask("named", [{"text": text} for text in texts])]
    assert before[:2] == ["chatml", "chatml"]
    after = go_oracle.ask("named", [{"text": add_guard(text)} for text in texts])
    assert {answer["text"] for answer in after} == {""}
