from __future__ import annotations

from pathlib import Path

import pytest

from ggufpack.chat_template.capabilities import (
    chat_template_capabilities,
    has_thinking_support,
    has_tool_round_trip,
    prefers_chat_template,
)

CALLS = "{{ message.tool_calls }}{% if message.role == 'tool' %}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", ()),
        ("{{ tools }}", ("tools",)),
        ("<tool_call>", ("tools",)),
        ("<think></think>", ("thinking",)),
        ("<think>", ()),
        ("content.split('</think>')", ("thinking",)),
        ("content.split('</think>') reasoning_content", ()),
        ("tools <think> </think>", ("tools", "thinking")),
    ],
)
def test_capabilities(text: str, expected: tuple[str, ...]) -> None:
    assert chat_template_capabilities(text) == expected


@pytest.mark.parametrize(
    ("text", "go", "go_round_trip", "jinja_wins"),
    [
        ("plain", [], False, False),
        ("tools", [], False, True),
        ("tools", ["tools"], False, False),
        (CALLS, ["tools"], False, True),
        (CALLS, ["tools"], True, False),
        ("tools <think></think>", ["tools"], True, False),
        (CALLS + "<think></think>", ["tools"], True, True),
        ("<think></think>", ["tools"], False, False),
        ("plain", ["tools"], False, False),
    ],
)
def test_which_template_ollama_runs(text: str, go: list[str], go_round_trip: bool, jinja_wins: bool) -> None:
    assert prefers_chat_template(text, go, go_round_trip) is jinja_wins


def test_counts_over_the_real_templates(real_chat_templates: list[Path]) -> None:
    texts = [path.read_text(encoding="utf-8") for path in real_chat_templates[:70]]
    assert sum("tools" in chat_template_capabilities(text) for text in texts) > 55
    assert 20 < sum(has_thinking_support(text) for text in texts) < 50
    assert sum(has_tool_round_trip(text) for text in texts) > 20
