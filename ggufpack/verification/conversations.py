"""The conversations that every package is compared on.

Fixed, so that two reports can be compared. They are what people and programs send, plus what breaks
templates: spaces at the edges (``trim``), text that looks like markup or special tokens (escaping),
characters outside ASCII (normalisation), and an order of roles that some templates refuse.

Neighbours never have one role: Ollama joins those before any template sees them (template/template.go,
``collate``), so no package could pass; finding GP428 says it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ggufpack.engine.protocol import Message


@dataclass(frozen=True)
class Conversation:
    """Messages under a stable name.

    ``count_tokens``: short and plain enough to compare lengths too. ``rare``: of characters that whole
    families of tokenizers read in another way in llama.cpp (it does not compose them, as Qwen's NFC
    normaliser does), so that another length is told and does not fail.
    """

    name: str
    messages: tuple[Message, ...]
    count_tokens: bool = False
    rare: bool = False


def _chat(*contents: str, system: str | None = None) -> tuple[Message, ...]:
    """User and assistant in turns, the user first."""
    head: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant")
    return (*head, *(Message(role=roles[i % 2], content=text) for i, text in enumerate(contents)))


_CODE = 'def f(x: int) -> str:\n    """Doc."""\n\n    return f"{x!r}\\n"\n'
_JSON = '{"name": "get_weather", "arguments": {"city": "Zürich", "days": [1, 2], "unit": null}}'
_MARKDOWN = "# Title\n\n- a\n  - b\n\n```sh\necho \"$HOME\" | sed 's/a/b/'\n```\n\n| a | b |\n|---|---|\n"
_LONG = "The quick brown fox jumps over the lazy dog. " * 120

CONVERSATIONS: tuple[Conversation, ...] = (
    Conversation("one question", _chat("What is the capital of France?"), count_tokens=True),
    Conversation("system and question", _chat("Hi", system="You are a pirate."), count_tokens=True),
    Conversation("two turns", _chat("Hi", "Hello! How can I help?", "Tell me a joke."), count_tokens=True),
    Conversation("three turns with system", _chat("1+1?", "2", "2+2?", "4", "4+4?", system="Be brief.")),
    Conversation(
        "six turns",
        _chat(*(f"message number {n}" for n in range(11))),
    ),
    Conversation("one letter", _chat("a")),
    Conversation("empty user", _chat("")),
    Conversation("only spaces", _chat("   ")),
    Conversation("empty system", _chat("Hi", system="")),
    Conversation("empty answer before", _chat("Hi", "", "Are you there?")),
    Conversation("spaces at the edges", _chat("  two before, two after  ", system=" one, one ")),
    Conversation(
        "newlines at the edges", _chat("\n\nline\n\nline\n", "\nanswer\n\n", "\tand a tab\t", system="\nS\n")
    ),
    Conversation("windows newlines", _chat("first\r\nsecond\r\n")),
    Conversation("accents", _chat("Où est l'école ? Straße, façade, naïve, Ångström", system="Réponds.")),
    Conversation(
        "combining characters",
        _chat("e\u0301 is not \u00e9, and \ufb01 is not fi"),
        count_tokens=True,
        rare=True,
    ),
    Conversation("chinese and japanese", _chat("你好，请介绍一下自己。", "こんにちは。", "谢谢")),
    Conversation("right to left", _chat("مرحبا بالعالم", "שלום", "שלום עולם")),
    Conversation("emoji", _chat("👍🏽 👩‍👩‍👧 🇨🇭 ☺️ ok?"), count_tokens=True),
    Conversation("invisible characters", _chat("no\u00a0break zero\u200bwidth joiner\u200d end")),
    Conversation(
        "quotes and backslashes", _chat('She said "it\'s" and \'\'\'no\'\'\' \\n C:\\temp `x` """three"""')
    ),
    Conversation("markup", _chat("<b>bold</b> & <i class='x'>1 < 2 > 0</i> &amp; &lt;", "<p>ok</p>", "</s>")),
    Conversation("braces of template languages", _chat("{{ .Prompt }} {% if x %} {# no #} ${y} %s {0}")),
    Conversation("json", _chat(_JSON, '{"ok": true}', "Now as YAML.")),
    Conversation("code", _chat(_CODE, "```python\npass\n```", "Why?")),
    Conversation("markdown", _chat(_MARKDOWN)),
    Conversation(
        "looks like special tokens",
        _chat("What is <|im_end|>, [/INST], <end_of_turn>, <|eot_id|> and </s>?", "<|im_start|>", "<think>"),
    ),
    Conversation("looks like a role", _chat("user\nassistant\nsystem\n### Instruction:\nDo.\nASSISTANT:")),
    Conversation("digits", _chat("3.14159  2024-01-31 1,000,000 0x1F  12 34"), count_tokens=True),
    Conversation("long question", _chat(_LONG)),
    Conversation("long system", _chat("Summarise.", system=_LONG)),
    # a template may refuse this; if it does not, it has to be the same
    Conversation(
        "system in the middle",
        (
            *_chat("Hi", "Hello."),
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Go."},
        ),
    ),
)

SMOKE_MESSAGES: tuple[Message, ...] = _chat("Say hello in one short sentence.")
