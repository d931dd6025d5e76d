"""What an answer says about thinking and calls. A real server: tests/integration/test_parsed.py."""

from __future__ import annotations

from typing import Any

import pytest

from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.traits import probe_traits
from ggufpack.proofs import ParsedCheck, Verification
from ggufpack.registry.chat import ChatAnswer
from ggufpack.spec import Severity
from ggufpack.verification.findings import findings_of
from ggufpack.verification.parsed import Tags, find_tags, judge_calls, judge_thinking

QWEN = Tags(("<think>", "</think>"), "<tool_call>", json_calls=True)
XML = Tags((), "<tool_call>")
BARE = Tags((), "", json_calls=True)
CALL = '{"name": "get_weather", "arguments": {"city": "Bern"}}'


def answer(text: str, thinking: str = "", calls: list[Any] | None = None) -> ChatAnswer:
    return ChatAnswer(text, thinking, "stop", 1, 1, {"message": {"content": text, "tool_calls": calls}})


@pytest.mark.parametrize(
    ("text", "thinking", "parsed"),
    [
        ("42", "17 and 25", True),
        ("<think>17 and 25</think>42", "", False),
        ("17 and 25</think>42", "", False),  # the template opened it in the prompt
        ("</think>42", "17 and 25", False),
        ("42", "", None),
        ("42", " \n", None),
    ],
)
def test_thinking(text: str, thinking: str, parsed: bool | None) -> None:
    check = judge_thinking(answer(text, thinking), QWEN)
    assert (check.field, check.parsed, check.detail is None) == ("thinking", parsed, parsed is True)


@pytest.mark.parametrize(
    ("tags", "text", "parsed"),
    [
        (QWEN, f"<tool_call>\n{CALL}\n</tool_call>", False),
        (QWEN, f"I look.\n<tool_call>\n{CALL}", False),
        (QWEN, '<tool_call>\n{"name": "get_weather", "argu', None),  # half a call: the model's fault
        (QWEN, "<tool_call>\nget_weather(Bern)", None),
        (QWEN, CALL, None),  # without the tag that it was trained with
        (QWEN, "It is sunny.", None),
        (XML, "<tool_call>\n<function=get_weather>\n</function>\n</tool_call>", False),
        (BARE, CALL, False),
        (BARE, f"You may write {CALL}", None),
        (BARE, '{"name": "other"}', None),
    ],
)
def test_calls(tags: Tags, text: str, parsed: bool | None) -> None:
    check = judge_calls(answer(text), tags)
    assert (check.field, check.parsed) == ("tool_calls", parsed)
    assert check.detail
    assert judge_calls(answer(text, calls=[{}]), tags) == ParsedCheck("tool_calls", True)


def test_findings() -> None:
    checks = (
        ParsedCheck("thinking", False, "it shows '<think>'"),
        ParsedCheck("tool_calls", None, "none"),
        ParsedCheck("tool_calls", True),
    )
    done = Verification("m:q8_0", "Ollama 1", "smoke", parsed=checks)
    found = [finding for finding in findings_of(done) if finding.id in ("GP617", "GP618")]
    assert [(finding.id, finding.severity) for finding in found] == [
        ("GP617", Severity.ERROR),
        ("GP618", Severity.UNCHECKED),
    ]
    assert "leaves thinking in the answer's text" in found[0].message
    assert "tool calls" in found[1].message


@pytest.mark.parametrize(
    ("jinja", "call", "json_calls"),
    [
        ("<tool_call>\n{{ c | tojson }}\n</tool_call>", "<tool_call>", True),
        ("[TOOL_CALLS][{{ c | tojson }}]", "[TOOL_CALLS]", True),
        ("{{ c | tojson }}", "", True),
        ("<think>\n\n</think>\n\n{{ c | tojson }}", "", True),
        ("<call>\n<function={{ c.name }}>{{ c.arguments | tojson }}</call>", "<call>", False),
    ],
)
def test_the_tag_of_a_call_is_rendered(jinja: str, call: str, json_calls: bool) -> None:
    template = ChatTemplate(
        "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}[{{ m.role }}]\n"
        "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
        "{{ m.content }}{% for call in m.tool_calls or [] %}{% set c = call.function %}"
        + jinja
        + "{% endfor %}|end|\n"
        "{% endfor %}{% if add_generation_prompt %}[assistant]\n{% endif %}",
        special_tokens={},
    )
    tags = find_tags(template, probe_traits(template))
    assert tags == Tags(("<think>", "</think>"), call, json_calls)
