"""Each named template against a prompt written out by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from ggufpack.chat_template import named
from ggufpack.chat_template.heldout import heldout_cases
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.errors import ChatTemplateError, UsageError

BOS, EOS = "<BOS>", "<EOS>"
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bye"},
]

WITH_SYSTEM = {
    "alpaca": "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello.<EOS>\n\n### Instruction:\nBye\n\n"
    "### Response:\n",
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
    "deepseek": "<BOS>Be brief.<｜User｜>Hi<｜Assistant｜>Hello.<EOS><｜User｜>Bye<｜Assistant｜>",
    "gemma": "<BOS><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n"
    "<start_of_turn>model\nHello.<end_of_turn>\n"
    "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n",
    "llama2": "<BOS>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello. <EOS><BOS>[INST] Bye [/INST]",
    "llama3": "<BOS><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<BOS>[INST] Be brief.\n\nHi [/INST] Hello.<EOS>[INST] Bye [/INST]",
    "phi3": "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nHello.<|end|>\n"
    "<|user|>\nBye<|end|>\n<|assistant|>\n",
    "qwen3": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
    "vicuna": "Be brief. USER: Hi ASSISTANT: Hello.<EOS>USER: Bye ASSISTANT:",
    "zephyr": "<|system|>\nBe brief.<EOS>\n<|user|>\nHi<EOS>\n<|assistant|>\nHello.<EOS>\n"
    "<|user|>\nBye<EOS>\n<|assistant|>\n",
}

# the same chat without its system message, where more than that message is missing
WITHOUT_SYSTEM = {
    "alpaca": "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\nHi\n\n### Response:\nHello.<EOS>\n\n### Instruction:\nBye\n\n"
    "### Response:\n",
    "gemma": "<BOS><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHello.<end_of_turn>\n"
    "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n",
    "llama2": "<BOS>[INST] Hi [/INST] Hello. <EOS><BOS>[INST] Bye [/INST]",
    "mistral": "<BOS>[INST] Hi [/INST] Hello.<EOS>[INST] Bye [/INST]",
    "vicuna": "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. USER: Hi ASSISTANT: Hello.<EOS>"
    "USER: Bye ASSISTANT:",
}


def compiled(name: str) -> ChatTemplate:
    template = named.load(name)
    tokens = {"bos_token": BOS, "eos_token": EOS}
    return ChatTemplate(template.text, special_tokens=tokens, origin=template.path)


def test_every_file_is_a_named_template_and_has_a_golden_prompt() -> None:
    files = {path.stem for path in named.load("chatml").path.parent.glob("*.jinja")}
    assert files == set(named.names()) == set(WITH_SYSTEM)


@pytest.mark.parametrize("name", named.names())
def test_golden(name: str) -> None:
    template = compiled(name)
    messages = copy.deepcopy(CHAT)
    assert template.render(messages, add_generation_prompt=True) == WITH_SYSTEM[name]
    if name in WITHOUT_SYSTEM:
        assert template.render(CHAT[1:], add_generation_prompt=True) == WITHOUT_SYSTEM[name]
    assert messages == CHAT


@pytest.mark.parametrize("name", named.names())
def test_the_turn_ends_with_the_documented_token(name: str) -> None:
    ended = compiled(name).render(CHAT[1:3], add_generation_prompt=False)
    assert ended.split("Hello.")[1].strip() == (named.load(name).turn_end or EOS)


@pytest.mark.parametrize("name", named.names())
def test_the_file_says_what_the_format_is(name: str) -> None:
    comment = named.load(name).text.split("#}")[0]
    assert comment.startswith("{#- ")
    assert "Source: " in comment
    assert (named.load(name).turn_end or "eos_token") in comment


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'chatlm'.*alpaca, chatml, deepseek"):
        named.load("chatlm")


@pytest.mark.parametrize("name", ["alpaca", "deepseek", "gemma", "llama2", "mistral", "vicuna"])
def test_a_late_system_message_is_refused_where_the_format_has_none(name: str) -> None:
    with pytest.raises(ChatTemplateError):
        compiled(name).render([*CHAT, {"role": "system", "content": "x"}], add_generation_prompt=True)


def test_qwen3_keeps_reasoning_after_the_last_user_only() -> None:
    chat = [
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "one", "reasoning_content": "old"},
        {"role": "user", "content": "2"},
        {"role": "assistant", "content": "two", "reasoning_content": "new"},
    ]
    assert compiled("qwen3").render(chat, add_generation_prompt=False) == (
        "<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\none<|im_end|>\n"
        "<|im_start|>user\n2<|im_end|>\n<|im_start|>assistant\n<think>\nnew\n</think>\n\ntwo<|im_end|>\n"
    )


@pytest.mark.parametrize(
    ("name", "file", "variables"),
    [
        ("qwen3", "Qwen-Qwen3-0.6B", {}),
        ("qwen3", "Qwen-Qwen3-0.6B", {"enable_thinking": False}),
        ("gemma", "google-gemma-2-2b-it", {}),
        ("phi3", "microsoft-Phi-3.5-mini-instruct", {}),
    ],
)
def test_equal_to_the_real_template(
    name: str, file: str, variables: dict[str, Any], real_chat_templates: list[Path]
) -> None:
    path = next(path for path in real_chat_templates if path.stem == file)
    tokens = {"bos_token": BOS, "eos_token": EOS}
    real = ChatTemplate(path.read_text(encoding="utf-8"), special_tokens=tokens, origin=path)
    compared = 0
    plain = [
        case.conversation for case in heldout_cases() if case.capability in ("chat", "system", "prefill")
    ]
    for conversation in plain:
        messages = conversation.for_jinja()
        later = any(message["role"] == "system" for message in messages[1:])
        if later or not messages[0]["content"]:
            continue  # Gemma 2 prints any role it does not know, Phi 3.5 drops an empty system message
        try:
            expected = real.render(messages, add_generation_prompt=True, **variables)
        except ChatTemplateError:
            continue
        actual = compiled(name).render(messages, add_generation_prompt=True, **variables)
        assert actual == expected, conversation.name
        compared += 1
    assert compared > 40
