from __future__ import annotations

from pathlib import Path

import pytest

from ggufpack.chat_template import named
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.stops import derive_stops, end_tokens

CHATML = {"<|im_start|>", "<|im_end|>", "<|endoftext|>"}
LLAMA3 = {"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"}
GPT_OSS = {"<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>", "<|constrain|>"}
COHERE = {
    f"<|{name}|>"
    for name in (
        "START_OF_TURN_TOKEN",
        "END_OF_TURN_TOKEN",
        "START_RESPONSE",
        "END_RESPONSE",
        "START_THINKING",
        "END_THINKING",
        "USER_TOKEN",
        "CHATBOT_TOKEN",
        "SYSTEM_TOKEN",
    )
}
# special tokens as the models' tokenizers have them, their eos texts, and the stops that follow
REAL = {
    "Qwen-Qwen2.5-7B-Instruct": (CHATML, ["<|im_end|>", "<|endoftext|>"], ["<|im_end|>", "<|endoftext|>"]),
    "Qwen-Qwen3-0.6B": (CHATML | {"<think>", "</think>"}, ["<|im_end|>"], ["<|im_end|>"]),
    "HuggingFaceTB-SmolLM3-3B": (CHATML, ["<|im_end|>"], ["<|im_end|>"]),
    "meta-llama-Llama-3.1-8B-Instruct": (
        LLAMA3,
        ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"],
        ["<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"],
    ),
    "google-gemma-2-2b-it": (
        {"<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"},
        ["<eos>"],
        ["<end_of_turn>", "<eos>"],
    ),
    "microsoft-Phi-3.5-mini-instruct": (
        {"<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|endoftext|>"},
        ["<|endoftext|>"],
        ["<|end|>", "<|endoftext|>"],
    ),
    "mistralai-Mistral-Nemo-Instruct-2407": ({"[INST]", "[/INST]", "<s>", "</s>"}, ["</s>"], ["</s>"]),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": (
        {"<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"},
        ["<｜end▁of▁sentence｜>"],
        ["<｜end▁of▁sentence｜>"],
    ),
    "openai-gpt-oss-120b": (GPT_OSS, ["<|return|>", "<|call|>"], ["<|return|>", "<|call|>"]),
    "GLM-4.6": (
        {"<|user|>", "<|assistant|>", "<|observation|>", "<|system|>", "<think>", "</think>"},
        ["<|endoftext|>", "<|user|>", "<|observation|>"],
        ["<|user|>", "<|observation|>", "<|endoftext|>"],
    ),
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": (
        COHERE,
        ["<|END_OF_TURN_TOKEN|>"],
        ["<|END_OF_TURN_TOKEN|>"],
    ),
    "MiniMax-M2": ({"]~b]", "]~!b[", "[e~[", "<think>", "</think>"}, ["[e~["], ["[e~["]),
    "ibm-granite-granite-4.0": (
        {"<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"},
        ["<|end_of_text|>"],
        ["<|end_of_text|>"],
    ),
    "llama-cpp-rwkv-world": (set(), [], ["\n\nUser:"]),
}


@pytest.mark.parametrize("name", REAL)
def test_real_templates(name: str, real_chat_templates: list[Path]) -> None:
    path = next(path for path in real_chat_templates if path.stem == name)
    specials, eos, expected = REAL[name]
    tokens = {"bos_token": "<s>" if "<s>" in specials else "<bos>"}
    if eos:
        tokens["eos_token"] = eos[0]
    template = ChatTemplate(path.read_text(encoding="utf-8"), special_tokens=tokens, origin=path)
    assert derive_stops(template, specials, eos) == tuple(expected)


@pytest.mark.parametrize("name", named.names())
def test_named_templates_stop_at_their_documented_token(name: str) -> None:
    loaded = named.load(name)
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    template = ChatTemplate(loaded.text, special_tokens=tokens)
    specials = {"<s>", "</s>"} | ({loaded.turn_end} if loaded.turn_end else set())
    end = (loaded.turn_end,) if loaded.turn_end else ()
    assert derive_stops(template, specials, ["</s>"]) == (*end, "</s>")


@pytest.mark.parametrize(("name", "stop"), [("alpaca", "\n\n### Instruction:"), ("vicuna", "USER:")])
def test_plain_text_is_a_stop_where_there_is_no_token(name: str, stop: str) -> None:
    template = ChatTemplate(named.load(name).text, special_tokens={"eos_token": ""})
    assert derive_stops(template, {"<pad>"}, []) == (stop,)
    assert derive_stops(template, {"<pad>"}, ["</s>"]) == (stop, "</s>")


def test_the_tokenizer_says_what_is_special() -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.content }}<|looks|>@end@{% endfor %}")
    assert derive_stops(template, {"@end@"}, []) == ("@end@",)


def test_the_longest_special_token_wins() -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.content }}<end>x{% endfor %}")
    assert derive_stops(template, {"<end>", "<end>x"}, []) == ("<end>x",)


def test_both_places_count() -> None:
    source = (
        "{% for m in messages %}{{ m.role + m.content }}"
        "{{ '<u>' if m.role == 'user' else '<a>' if loop.last else '<b>' }}"
        "{% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
    )
    assert derive_stops(ChatTemplate(source), {"<a>", "<b>", "<u>"}, ["<c>", "<a>"]) == ("<b>", "<a>", "<c>")


def test_only_eos_when_the_template_refuses() -> None:
    assert derive_stops(ChatTemplate("{{ raise_exception('no') }}"), {"<a>"}, ["<e>", "<e>"]) == ("<e>",)


TURNS = (
    "{% for m in messages %}{{ '<' ~ m.role ~ '>' ~ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.arguments | tojson }}</call>{% endfor %}"
    "{% if m.tool_calls %}END{% endif %}{{ '<e>' if not m.tool_calls }}{% endfor %}"
    "{{ '<assistant>' if add_generation_prompt }}"
)
TURN_TOKENS = {"<user>", "<assistant>", "<tool>", "<call>", "</call>", "<e>", "<m>", "<end_calls>"}


@pytest.mark.parametrize(
    ("end", "stops"),
    [
        ("<m>", ("<e>", "<m>")),
        ("", ("<e>", "<tool>")),  # the next role's opening ends the turn
        ("<e>", ("<e>",)),
        ("<end_calls><e>", ("<e>",)),  # what closes the list is not where the turn ends
    ],
)
def test_after_tool_calls(end: str, stops: tuple[str, ...]) -> None:
    template = ChatTemplate(TURNS.replace("END", end))
    assert derive_stops(template, TURN_TOKENS, []) == stops


def test_a_call_that_must_be_alone_has_an_end_too() -> None:
    alone = "{% if (m.tool_calls or []) | length > 1 %}{{ raise_exception('one') }}{% endif %}"
    template = ChatTemplate(TURNS.replace("END", f"<m>{alone}"))
    assert derive_stops(template, TURN_TOKENS, []) == ("<e>", "<m>")


def test_no_stop_inside_a_call() -> None:
    text = TURNS.replace("<call>", "<e><call>").replace("END", "<m>")
    assert "<e>" not in derive_stops(ChatTemplate(text), TURN_TOKENS, ["<m>"])


@pytest.mark.parametrize(
    ("stops", "eos", "expected"),
    [
        (["<e>"], "<e>", (None, None)),
        (["<u>", "<e>"], "<e>", ("<u>", None)),
        (["<u>", "<o>", "<e>"], "<e>", ("<u>", "<o>")),
        (["<|im_end|>", "<u>", "<e>"], "<e>", ("<u>", "<|im_end|>")),  # the known one ends without a key
        (["<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"], "<|end_of_text|>", ("<|eot_id|>", "<|eom_id|>")),
        (["<|eom_id|>", "</s>"], "</s>", (None, "<|eom_id|>")),
        ([], None, (None, None)),
    ],
)
def test_end_tokens(stops: list[str], eos: str | None, expected: tuple[str | None, str | None]) -> None:
    assert end_tokens(stops, eos) == expected
