"""What can be said without Go; test_against_ollama.py is the proof."""

from __future__ import annotations

import random
from datetime import date

import pytest

from ggufpack.chat_template.conversation import Conversation, Message
from ggufpack.chat_template.go.errors import GoTemplateError
from ggufpack.chat_template.go.evaluate import render
from ggufpack.chat_template.go.inspect import go_is_used
from ggufpack.chat_template.go.parse import parse
from tests.unit.chat_template.go.cases import conversation

HELLO = Conversation("hello", (Message("user", "Hello"),))
ROUND_TRIP = (
    '{{ .Tools }}{{ range .Messages }}{{ if .ToolCalls }}<c>{{ end }}{{ if eq .Role "tool" }}r{{ end }}'
    "{{ end }}"
)
THINKING = "{{ range .Messages }}<think>{{ .Thinking }}</think>{{ end }}"
JINJA_TOOLS = "{% if tools %}{{ message.tool_calls }}{% endif %}{{ message.role == 'tool' }}"


def run(text: str, each: Conversation = HELLO, today: date = date(2026, 3, 1)) -> str:
    return render(parse(text), each, today=today)


def test_today_is_given() -> None:
    assert (
        run("{{ range .Messages }}{{ end }}{{ currentDate }} {{ yesterdayDate }}") == "2026-03-01 2026-02-28"
    )


def test_strings_are_bytes() -> None:
    each = Conversation("é", (Message("user", "é🙂"),))
    assert (
        run(
            "{{ range .Messages }}{{ len .Content }}{{ slice .Content 0 1 }}{{ slice .Content 1 }}{{ end }}",
            each,
        )
        == "6é🙂"
    )
    assert run("{{ range .Messages }}{{ slice .Content 0 1 }}|{{ end }}", each) == "\ufffd|"


def test_an_address_is_refused() -> None:
    with pytest.raises(GoTemplateError, match="address"):
        run("{{ .Messages }}")


def test_endless_recursion_is_refused() -> None:
    with pytest.raises(GoTemplateError, match="deep"):
        run('{{ define "a" }}{{ template "a" . }}{{ end }}{{ range .Messages }}{{ template "a" . }}{{ end }}')


def test_tools_that_ollama_does_not_take() -> None:
    wrong = ({"type": "function", "function": {"name": 5}},)
    with pytest.raises(GoTemplateError, match="name"):
        run("{{ range .Messages }}{{ end }}", Conversation("wrong", HELLO.messages, wrong))


def test_the_conversation_is_not_changed() -> None:
    each = conversation(random.Random(5), "kept")
    before = repr(each)
    run("{{ range .Messages }}{{ .Content }}{{ end }}{{ json .Tools }}", each)
    assert repr(each) == before


@pytest.mark.parametrize(
    ("go", "jinja", "is_used"),
    [
        (ROUND_TRIP, JINJA_TOOLS, True),
        ("{{ .Tools }}{{ range .Messages }}{{ end }}", JINJA_TOOLS, False),  # no round trip
        ("{{ range .Messages }}{{ end }}", JINJA_TOOLS, False),  # fewer capabilities
        ("{{ range .Messages }}{{ end }}", "plain", True),
        (ROUND_TRIP, JINJA_TOOLS + "<think></think>", False),
        (ROUND_TRIP, "tools <think></think>", True),  # more capabilities, but no round trip of its own
        (ROUND_TRIP + THINKING, JINJA_TOOLS + "<think></think>", True),
    ],
)
def test_which_template_ollama_runs(go: str, jinja: str, is_used: bool) -> None:
    assert go_is_used(go, jinja) is is_used
