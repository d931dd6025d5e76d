from __future__ import annotations

import copy
import random
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import ggufpack.chat_template.render as render_module
from ggufpack.chat_template.render import ChatTemplate, ChatTemplateRefusal, plain_data
from ggufpack.errors import ChatTemplateError

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
TEXTS = [
    "plain",
    ' 2 < 3 & "quoted" \n',
    "日本語 👍🏽",
    "{{ y }} {% z %}",
    "</think> split",
    "a\n\nb\n",
    "",
    "<|im_end|>",
]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "It's <b>ü</b>",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "where"}, "n": {"type": "integer"}},
            "required": ["city"],
        },
    },
}


def conversations(seed: int, count: int) -> list[list[dict[str, Any]]]:
    source = random.Random(seed)
    made = []
    for _ in range(count):
        messages: list[dict[str, Any]] = []
        if source.random() < 0.5:
            messages.append({"role": "system", "content": source.choice(TEXTS)})
        for turn in range(source.randint(1, 6)):
            if turn % 2 == 0:
                messages.append({"role": "user", "content": source.choice(TEXTS)})
                continue
            message: dict[str, Any] = {"role": "assistant", "content": source.choice(TEXTS)}
            if source.random() < 0.4:
                message[source.choice(["reasoning_content", "thinking", "reasoning"])] = "Because\n"
            messages.append(message)
            if source.random() < 0.3:
                arguments = {"city": "Zürich <1>", "n": 2}
                call = {"id": "c1", "type": "function"}
                message["tool_calls"] = [{**call, "function": {"name": "weather", "arguments": arguments}}]
                messages.append({"role": "tool", "name": "weather", "tool_call_id": "c1", "content": "20°"})
        made.append(messages)
    return made


def transformers_render(text: str, messages: list[dict[str, Any]], options: dict[str, Any]) -> str | None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    try:
        texts, _ = utils.render_jinja_template([copy.deepcopy(messages)], chat_template=text, **options)
    except Exception:  # noqa: BLE001  whatever it is: what counts is that ours fails too
        return None
    return str(texts[0])


def test_renders_real_templates_as_transformers_does(real_chat_templates: list[Path]) -> None:
    compared = rendered = 0
    for path in real_chat_templates:
        text = path.read_text(encoding="utf-8")
        ours = ChatTemplate(text, special_tokens=TOKENS, origin=path)
        for number, messages in enumerate(conversations(seed=len(text), count=16)):
            prefill = messages[-1]["role"] == "assistant" and number % 2 == 0
            options: dict[str, Any] = {
                "tools": [TOOL] if number % 3 == 0 else None,
                "continue_final_message": prefill,
                "add_generation_prompt": not prefill and number % 4 != 3,
            }
            extra: dict[str, Any] = {"enable_thinking": bool(number % 2)} if number % 5 == 0 else {}

            expected = transformers_render(text, messages, {**options, **TOKENS, **extra})
            try:
                actual = ours.render(messages, **options, **extra)
            except ChatTemplateError:
                actual = None
            assert actual == expected, f"{path.name}, conversation {number}"
            compared += 1
            rendered += expected is not None
    assert compared == 16 * len(real_chat_templates)
    assert rendered > 0.8 * compared


def test_messages_and_tools_are_not_changed() -> None:
    text = "{% for m in messages %}{{ m.update({'content': 'x'}) }}{% endfor %}"
    messages = [{"role": "user", "content": "hello", "reasoning": "r"}]
    before = copy.deepcopy(messages)
    with pytest.raises(ChatTemplateError):  # the sandbox allows no change even of the copy
        ChatTemplate(text).render(messages, add_generation_prompt=False)
    ChatTemplate("{{ messages[0].content }}").render(
        [{"role": "user", "content": "c"}, messages[0]], add_generation_prompt=False
    )
    assert messages == before


def test_a_syntax_error_names_the_file_and_the_line(tmp_path: Path) -> None:
    origin = tmp_path / "chat_template.jinja"
    with pytest.raises(ChatTemplateError) as caught:
        ChatTemplate("line one\nline two\n{% if x %}\n{% endfor %}", origin=origin)
    assert f"{origin}, line 4" in str(caught.value)
    assert (caught.value.finding, caught.value.path) == ("GP420", origin)


def test_an_unknown_filter_is_a_syntax_error_with_its_line() -> None:
    with pytest.raises(ChatTemplateError, match=r"line 2.*reverse_words"):
        ChatTemplate("\n{{ x | reverse_words }}")


def test_a_failure_while_rendering_names_the_line() -> None:
    template = ChatTemplate("{{ bos_token }}\n\n{{ messages[0].content + 1 }}")
    with pytest.raises(ChatTemplateError, match="line 3") as caught:
        template.render([{"role": "user", "content": "x"}], add_generation_prompt=True)
    assert caught.value.finding == "GP421"
    assert not isinstance(caught.value, ChatTemplateRefusal)


def test_a_refusal_is_told_from_a_failure() -> None:
    template = ChatTemplate("\n{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ChatTemplateRefusal, match=r"line 2.*roles must alternate") as caught:
        template.render([], add_generation_prompt=True)
    assert (caught.value.finding, caught.value.exit_code) == ("GP422", 5)


def test_output_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render_module, "MAX_RENDERED_CHARACTERS", 1000)
    template = ChatTemplate("{% for i in range(n) %}0123456789{% endfor %}")
    assert len(template.render([], add_generation_prompt=False, n=100)) == 1000
    with pytest.raises(ChatTemplateError) as caught:
        template.render([], add_generation_prompt=False, n=101)
    assert caught.value.finding == "GP423"


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ dict.__class__.__base__ }}",
        "{{ namespace(__class__=1) }}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
        "{{ messages.append(1) }}",
        "{{ raise_exception.__globals__ }}",
        "{{ cycler.__init__.__globals__ }}",
    ],
)
def test_the_sandbox_holds(attack: str) -> None:
    template = ChatTemplate(attack)
    try:
        text = template.render([], add_generation_prompt=False)
    except ChatTemplateError:
        return
    assert text == ""  # an unsafe attribute is undefined: it prints nothing


def test_objects_are_replaced_by_their_type_name() -> None:
    assert plain_data({"a": [object(), (1, True, None, 1.5)]}) == {"a": ["<object>", (1, True, None, 1.5)]}


def test_the_clock_is_the_callers() -> None:
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", now=lambda: datetime(2020, 2, 29))
    assert template.render([], add_generation_prompt=False) == "29 Feb 2020"


def test_none_tokens_are_undefined_and_variables_override() -> None:
    template = ChatTemplate(
        "{{ bos_token is defined }} {{ eos_token }}", special_tokens={"bos_token": None, "eos_token": "E"}
    )
    other: dict[str, Any] = {"eos_token": "F"}
    assert template.render([], add_generation_prompt=False) == "False E"
    assert template.render([], add_generation_prompt=False, **other) == "False F"


def test_names_set_in_a_generation_block_stay_there() -> None:
    template = ChatTemplate("{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}")
    assert template.render([], add_generation_prompt=False) == "21"


def test_prefill_with_a_template_that_trims() -> None:
    template = ChatTemplate("{% for m in messages %}<{{ m.content | trim }}>{% endfor %}")
    messages = [{"role": "assistant", "content": " so, "}]
    assert template.render(messages, add_generation_prompt=False, continue_final_message=True) == "<so,"
