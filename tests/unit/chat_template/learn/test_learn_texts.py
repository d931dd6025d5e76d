"""Learning what is printed of messages without text, and of conversations that begin unusually."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ggufpack.chat_template.conversation import Message
from ggufpack.chat_template.learn.tables import Branch, Row, grow
from tests.unit.chat_template.learn.support import Subject, assistant, call, result, system, tool, user

_TURN = "{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}"
_BLANKS = ("", " ", "\n ")


def _loop(body: str, head: str = "") -> str:
    prompt = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    return head + "{% for m in messages %}" + body + "{% endfor %}" + prompt


def _same(subject: Subject, *messages: Message) -> None:
    ours, theirs = subject.both(*messages)
    assert ours == theirs


def test_no_question_about_a_text_that_is_printed_as_it_is() -> None:
    text = Subject(_loop(_TURN)).text
    assert "if .Content" not in text
    assert "$text" not in text
    assert "if $system" not in text


@pytest.mark.parametrize(
    "turn",
    [
        "<|{{ m.role }}|>{% if m.content %}\n{{ m.content }}{% endif %}<|end|>",
        "<|{{ m.role }}|>{% if m.content.strip() %}\n{{ m.content.strip() }}{% endif %}<|end|>",
        "{% if m.content %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endif %}",
        "<|{{ m.role }}|>{{ m.content or 'nothing' }}<|end|>",
    ],
)
def test_a_message_without_text(turn: str) -> None:
    subject = Subject(_loop(turn))
    _same(subject, user("Hi"), assistant("Hello"), user("Bye"))
    for blank in _BLANKS:
        _same(subject, user(blank))
        _same(subject, user("Hi"), assistant(blank), user("Bye"))
        _same(subject, user("Hi"), assistant("Hello"), user(blank))


@pytest.mark.parametrize(
    "head",
    [
        "{% if messages[0].role == 'system' %}<sys>{{ messages[0].content }}</sys>{% endif %}",
        "{% if messages[0].role == 'system' and messages[0].content %}<sys>{{ messages[0].content }}</sys>"
        "{% endif %}",
        "{% if messages[0].role == 'system' and messages[0].content.strip() %}"
        "<sys>{{ messages[0].content.strip() }}</sys>{% else %}<sys>Be kind.</sys>{% endif %}",
        "{% if messages[0].role == 'system' %}<sys>{{ messages[0].content or 'Be brief.' }}</sys>"
        "{% else %}<sys>Be kind.</sys>{% endif %}",
    ],
)
def test_a_leading_system_message_without_text(head: str) -> None:
    subject = Subject(_loop("{% if m.role != 'system' %}" + _TURN + "{% endif %}", head))
    _same(subject, user("Hi"))
    _same(subject, system("Rule."), user("Hi"))
    for blank in _BLANKS:
        _same(subject, system(blank), user("Hi"))
        _same(subject, system(blank), user("Hi"), assistant("Hello"), user("Bye"))


@pytest.mark.parametrize(
    "text",
    [
        _loop(_TURN, "<sys>Be kind.</sys>"),
        # tokens that share their beginnings
        "<|sys|>{% for m in messages %}<|end|><|{{ m.role }}|>{{ m.content }}{% if loop.last %}<|last|>"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
        # what stands before a user differs by what precedes
        "<sys>Be kind.</sys>{% for m in messages %}{% if m.role == 'user' %}"
        "{% if not loop.first %}<|end|>{% endif %}<|user|>{{ m.content }}{% else %}<|bot|>{{ m.content }}"
        "{% endif %}{% endfor %}<|bot|>",
    ],
)
def test_an_assistant_who_speaks_first(text: str) -> None:
    subject = Subject(text)
    _same(subject, user("Hi"), assistant("Hello"), user("Bye"))
    _same(subject, assistant("Welcome"), user("Hi"))
    _same(subject, assistant("Welcome"), user("Hi"), assistant("Hello"), user("Bye"))


def test_a_later_system_message_with_and_without_tools() -> None:
    subject = Subject(
        "{% if messages | selectattr('role', 'equalto', 'system') | list | length == 0 %}<sys>Be kind.</sys>"
        "{% endif %}{{ tools | tojson if tools }}{% for m in messages %}"
        "{% if m.role == 'system' %}<sys>{{ m.content }}"
        "{% if tools %}{{ tools | tojson }}{% endif %}</sys>{% else %}" + _TURN + "{% endif %}{% endfor %}"
    )
    turns = (user("Hi"), assistant("Hello"), system("Rule."), user("Bye"))
    for tools in ((), (tool("go"),)):
        ours, theirs = subject.both(*turns, tools=tools)
        assert ours == theirs
        ours, theirs = subject.both(*turns[:2], turns[3], tools=tools)
        assert ours == theirs


def test_what_a_result_anywhere_changes() -> None:
    subject = Subject(
        "{% set ns = namespace(tool=false) %}{% for m in messages %}{% if m.role == 'tool' %}"
        "{% set ns.tool = true %}{% endif %}{% endfor %}{{ tools | tojson if tools }}"
        "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' and ns.tool %}<think></think>"
        "{% endif %}{{ m.content }}{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}"
        "{% endfor %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    turns = (user("Hi"), assistant("Hello"), user("Bye"))
    go = call("go")
    _same(subject, *turns)
    _same(subject, *turns, assistant("", go), result("gone", go))


def test_few_questions_tell_what_follows_a_result() -> None:
    """Rounds of calls in an earlier turn are seldom seen; what is asked of the last turn must not matter."""
    rows = [
        Row(
            {"last": k % 5 == 0, "next=tool": k % 3 == 0, "after_user": k % 7 < 3, "next_calls": k % 2 == 0},
            (),
        )
        for k in range(60)
    ]
    rows = [
        replace(row, label=("<end>",) * (not row.features["next=tool"] and not row.features["next_calls"]))
        for row in rows
        if not (row.features["next_calls"] and not row.features["after_user"])
    ]
    tree, is_open = grow(rows, 9)
    assert not is_open
    assert isinstance(tree, Branch)
    asked = {tree.feature, *(one.feature for one in (tree.yes, tree.no) if isinstance(one, Branch))}
    assert asked == {"next=tool", "next_calls"}


def test_a_message_that_repeats_the_last_one_is_taken_for_it() -> None:
    """Mistral compares messages, not places: tools come at each user's message of the same text."""
    subject = Subject(
        "{% set users = messages | selectattr('role', 'equalto', 'user') | list %}{% for m in messages %}"
        "{% if m.role == 'user' and tools and m == users[-1] %}[{{ tools | tojson }}]{% endif %}"
        "<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    assert subject.traits.by_value
    offered = (tool("now", "The time", []),)
    for last in ("a", "c"):
        ours, theirs = subject.both(user("a"), assistant("b"), user(last), tools=offered)
        assert ours == theirs
