"""Templates from ``hostile.py``: a sentence, in bounded time and memory, and no way to Python."""

from __future__ import annotations

import resource
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from ggufpack.chat_template.render import MAX_SAID, ChatTemplate, ChatTemplateRefusal
from ggufpack.errors import ChatTemplateError

from .hostile import BOMBS, ESCAPES, SOURCES

SECONDS = 6.0  # of processor time; a render has five
SOURCE_SECONDS = 3.0  # a quiet core takes one
KIB = 600 * 1024  # that the process may grow by, over all cases of a table
MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "x"}]
# what a way out would print: types, functions of Python, /etc/passwd, the answer of `id`
TREASURES = ("<class", "<built-in", "<module", "<code", "<frame", "subprocess", "root:", "uid=")


def outcome(text: str) -> str:
    """What it renders, or the finding; fails when that took too long."""
    started = time.thread_time()
    try:
        said = ChatTemplate(text).render(MESSAGES, add_generation_prompt=True)
    except ChatTemplateError as error:
        assert len(str(error)) < 2 * MAX_SAID, "the sentence is too long"
        said = error.finding or ""
    assert time.thread_time() - started < SECONDS
    return said


@pytest.mark.parametrize("name", ESCAPES)
def test_no_way_to_python(name: str) -> None:
    before = [dict(message) for message in MESSAGES]
    said = outcome(ESCAPES[name])
    assert not [treasure for treasure in TREASURES if treasure in said]
    assert before == MESSAGES


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert outcome(BOMBS[name]) in ("GP421", "GP423", "GP435")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < KIB


@pytest.mark.parametrize("name", SOURCES)
def test_sources(name: str) -> None:
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.thread_time()
    assert outcome(SOURCES[name]) == "GP420"
    assert time.thread_time() - started < SOURCE_SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < KIB


@pytest.mark.parametrize("name", ["{__import__('os').system('id')}", "{0.__class__}", "a\nb"])
def test_a_folder_name_is_no_code(name: str) -> None:
    """CVE-2024-56201: the name of the file was put into the compiled code's messages."""
    with pytest.raises(ChatTemplateError) as caught:
        ChatTemplate("{{ a | no_filter }}{% include 'x' %}", origin=Path(name) / "chat_template.jinja")
    assert "no_filter" in str(caught.value)
    assert not [treasure for treasure in TREASURES if treasure in str(caught.value)]


@pytest.mark.parametrize(
    "inside", ["'a' * 2 * 10 ** 9", "('a' * 10 ** 9) | upper", "7 ** 7 ** 8", "''.__class__"]
)
def test_what_a_template_reads_is_found_within_the_limits(inside: str) -> None:
    """Jinja finds it by compiling, which computes constants."""
    started = time.thread_time()
    assert ChatTemplate(f"{{% if a %}}{{{{ {inside} }}}}{{% endif %}}").undeclared == {"a"}
    assert time.thread_time() - started < SOURCE_SECONDS


def test_a_template_nested_to_the_limit_is_refused_deeper_in_the_stack() -> None:
    def deep(levels: int, template: ChatTemplate) -> object:
        return (
            deep(levels - 1, template) if levels else (template.with_clock(datetime.now), template.undeclared)
        )

    def compiled(depth: int) -> ChatTemplate | None:
        try:
            return ChatTemplate("{{ " + "(" * depth + "a" + ")" * depth + " }}")
        except ChatTemplateError:
            return None

    deepest = next(made for depth in range(100, 0, -1) if (made := compiled(depth)))
    with pytest.raises(ChatTemplateError, match="nested too deeply"):
        deep(100, deepest)


@pytest.mark.parametrize("said", ["'a' * 4000000", "[1, {}]", "none", "1"])
def test_what_a_template_raises_stays_a_sentence(said: str) -> None:
    with pytest.raises(ChatTemplateRefusal) as caught:
        ChatTemplate(f"{{{{ raise_exception({said}) }}}}").render(MESSAGES, add_generation_prompt=True)
    assert len(str(caught.value)) < 2 * MAX_SAID


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{% set a, b = (1, [2]) %}{{ a }}{{ b }}{{ (1, messages) | length }}", "1[2]2"),
        ("{{ {'a': messages}['a'][0].role }}{{ ['x'] + [messages[0].content] }}", "user['x', 'x']"),
        ("{{ messages | map(attribute='role') | join(',') }}{{ 7 // 2 }}{{ 7 - 2 }}{{ 7 / 2 }}", "user353.5"),
        ("{{ [1, 2] | sum(start=3) }}{{ ('%s-%s' % ('a', [1])) }}{{ 'a' in ['a', 'b'] }}", "6a-[1]True"),
        ("{{ 'xax'.strip('x') }}{{ 'a-b-c'.rsplit('-', 1) }}{{ '  b ' | trim }}", "a['a-b', 'c']b"),
        ("{{ strftime_now('%Y')[:1] }}{{ 'ä'.encode('utf-8') | length }}{{ 2.55 | round(1) }}", "222.5"),
    ],
)
def test_honest_templates_print_the_same(text: str, expected: str) -> None:
    assert ChatTemplate(text).render(MESSAGES, add_generation_prompt=False) == expected
