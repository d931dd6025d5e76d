"""The search, with an engine whose faults are known; held-out conversations; the parity table."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from itertools import pairwise

import pytest

from ggufpack.chat_template import named
from ggufpack.chat_template.conversation import Conversation
from ggufpack.chat_template.go_strategy import REFUSED_BY_JINJA, GoTemplate, Refusal, covers, learn_template
from ggufpack.chat_template.heldout import CAPABILITIES, Case, heldout_cases
from ggufpack.chat_template.parity import canonical, judge, make_reference, table
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.traits import Traits, probe_traits
from tests.support.go_chatml import go_chatml, render_go_chatml

CHATML = named.load("chatml").text
TOOLS_IN_FRONT = "{% if tools %}{{ tools | tojson }}{% endif %}"


class Chatml:
    """Gives the hand-written ChatML, whatever is asked for, and spoils what ``spoil`` says."""

    def __init__(self, spoil: Callable[[Conversation], bool] = lambda _chat: False, fails: int = 0) -> None:
        self.spoil = spoil
        self.fails = fails
        self.asked: list[frozenset[str]] = []

    def learn(self, template: ChatTemplate, traits: Traits, capabilities: frozenset[str]) -> str:
        self.asked.append(capabilities)
        if len(self.asked) <= self.fails:
            raise ValueError("no conversation")
        return go_chatml(None)

    def render(self, text: str, conversation: Conversation, today: date) -> str:
        chat = [{"role": m.role, "content": m.content} for m in conversation.messages]
        return render_go_chatml(chat, None) + ("!" if self.spoil(conversation) else "")

    def is_used(self, go_text: str, jinja_text: str) -> bool:
        return "ignored" not in jinja_text


def search(text: str, engine: Chatml) -> GoTemplate:
    template = ChatTemplate(text, special_tokens={"bos_token": "<s>", "eos_token": "</s>"})
    found = learn_template(template, probe_traits(template), engine)
    assert set(found.parity) == set(CAPABILITIES)
    for row in found.parity.values():
        assert row.cases == row.exact + row.semantic + row.refused + row.wrong
        assert row.wrong == 0, "nothing wrong is ever shipped"
    return found


def shapes(found: GoTemplate) -> set[str]:
    return {one.shape for one in found.refused}


def test_chatml_is_complete() -> None:
    found = search(CHATML, Chatml())
    assert (found.text, found.complete, found.refused) == (go_chatml(None), True, ())
    assert {"chat", "system", "prefill"} <= set(found.capabilities)
    assert "tools" not in found.capabilities
    assert found.parity["chat"].exact > 40
    assert found.parity["system"].exact > 15


def test_a_capability_that_comes_out_wrong_is_given_up_and_the_rest_is_learned_again() -> None:
    engine = Chatml()
    found = search(TOOLS_IN_FRONT + CHATML, engine)
    assert [("tools" in asked) for asked in engine.asked] == [True, False]
    assert {"tools:definition"} <= shapes(found)
    assert not found.complete
    assert "tools" not in found.capabilities
    assert found.parity["tools"].exact == 0
    assert found.parity["tools"].refused == found.parity["tools"].cases > 0
    reason = next(one.reason for one in found.refused if one.shape == "tools:definition")
    assert "differs at character 0" in reason


def test_spaces_at_the_edges_are_a_shape_of_their_own() -> None:
    found = search(CHATML.replace("message['content']", "message['content'] | trim"), Chatml())
    assert shapes(found) == {"edge-spaces"}
    assert found.text is not None
    assert not found.complete


def test_a_system_message_in_the_middle_alone_is_refused() -> None:
    def late(chat: Conversation) -> bool:
        return any(message.role == "system" for message in chat.messages[1:])

    found = search(CHATML, Chatml(late))
    assert shapes(found) == {"system:middle", "system:several"}
    assert "system" in found.capabilities


def test_a_role_path_covers_what_begins_with_it() -> None:
    found = search(CHATML, Chatml(lambda chat: chat.roles.startswith("user/assistant/user/assistant/user")))
    assert "user/assistant/user/assistant/user" in shapes(found)
    assert not any(shape.startswith("user/assistant/user/assistant/user/") for shape in shapes(found))


def test_wrong_plain_chat_ships_nothing() -> None:
    engine = Chatml(lambda _chat: True)
    found = search(CHATML, engine)
    assert (found.text, found.capabilities) == (None, ())
    assert "chat" in shapes(found)
    assert engine.asked[-1] == frozenset()
    assert all(row.refused == row.cases for row in found.parity.values())


def test_a_printed_date_is_noticed_whatever_day_it_is() -> None:
    text = "{{ strftime_now('%Y-%m-%d') }}" + CHATML
    found = search(text, Chatml())
    assert found.text is None
    assert "date" in shapes(found)


def test_learning_that_fails_is_tried_with_less() -> None:
    engine = Chatml(fails=1)
    found = search(CHATML, engine)
    assert len(engine.asked) == 2
    assert len(engine.asked[1]) < len(engine.asked[0])
    assert found.text is not None
    never = search(CHATML, Chatml(fails=99))
    assert never.text is None
    assert "nothing could be learned" in next(one.reason for one in never.refused if one.shape == "chat")


def test_what_the_jinja_refuses_is_said_and_no_loss() -> None:
    text = "{% if messages[0].role == 'assistant' %}{{ raise_exception('no') }}{% endif %}" + CHATML
    found = search(text, Chatml())
    assert found.refused == (Refusal("assistant/*", REFUSED_BY_JINJA),)
    assert found.complete


@pytest.mark.parametrize(
    ("shape", "case", "expected"),
    [
        ("edge-spaces", "edge-spaces", True),
        ("user/assistant", "user/assistant/user", True),
        ("user/assistant", "user", False),
        ("system", "user", False),
        ("assistant/*", "assistant/user", True),
        ("system/user", "system", False),
    ],
)
def test_covers(shape: str, case: str, expected: bool) -> None:
    chat = heldout_cases()[0].conversation
    roles = case.split("/") if "/" in case else ["user"]
    messages = tuple(type(chat.messages[0])(role) for role in roles)  # type: ignore[arg-type]
    made = Case("chat", case, Conversation("x", messages), frozenset())
    assert covers(shape, made) is expected


def test_an_unset_switch_is_what_the_server_makes_of_it() -> None:
    """A thinking-capable model thinks when nothing is said; this template does not."""
    text = CHATML + "{% if enable_thinking is defined and enable_thinking %}<think>{% endif %}"
    template = ChatTemplate(text)
    traits = probe_traits(template)
    assert (traits.switches, traits.unset) == (("enable_thinking",), False)
    cases = [case for case in heldout_cases() if case.capability in ("thinking", "chat")]
    reference = make_reference(template, traits, cases, thinks=True)

    def go(chat: Conversation, today: date) -> str:
        return Chatml().render("", chat, today) + ("<think>" if chat.think else "")

    judged = judge(reference, go, frozenset({"thinking"}))
    assert {one.case.shape for one in judged if one.verdict == "wrong"} == {"thinking:unset"}
    assert all(one.case.conversation.think is False for one in judged if one.case.capability == "chat")


# --- held-out conversations -------------------------------------------------------


def test_cases_are_the_same_for_a_seed_and_carry_what_templates_stumble_over() -> None:
    cases = heldout_cases()
    assert cases == heldout_cases()
    assert cases != heldout_cases(seed=1)
    assert {case.capability for case in cases} == set(CAPABILITIES)
    names = [case.conversation.name for case in cases]
    assert len(names) == len(set(names))
    texts = "".join(m.content for case in cases for m in case.conversation.messages)
    for part in ("{{y}}", "<|im_end|>", "👍🏽", "日本語", "\n\n", '"', "'", "&", "<b>", "\\", "مرحبا"):
        assert part in texts
    arguments = [
        a for c in cases for m in c.conversation.messages for k in m.calls for a in k.arguments.values()
    ]
    assert {type(value) for value in arguments} >= {str, int, float, bool, list, dict, type(None)}
    assert max(len(case.conversation.messages) for case in cases) > 12
    shapes = {case.shape for case in cases}
    assert {
        "system:middle", "system:several", "tools:definition", "tools:parallel", "tools:result",
        "tools:history", "thinking:history", "thinking:true", "thinking:false", "thinking:unset",
        "prefill", "edge-spaces",
    } <= shapes  # fmt: skip


def test_no_case_has_neighbours_of_one_role() -> None:
    for case in heldout_cases():
        roles = [message.role for message in case.conversation.messages]
        assert not [a for a, b in pairwise(roles) if a == b != "tool"], roles


def test_every_key_of_a_schema_is_one_that_ollama_keeps() -> None:
    kept = {"type", "items", "description", "enum", "properties", "required"}

    def check(schema: dict[str, object]) -> None:
        assert set(schema) <= kept
        properties = schema.get("properties", {})
        assert isinstance(properties, dict)
        assert list(properties) == sorted(properties)
        for one in properties.values():
            check(one)

    for case in heldout_cases():
        for tool in case.conversation.tools:
            assert list(tool["function"]) == ["name", "description", "parameters"]
            check(tool["function"]["parameters"])


# --- the table --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ('x {"b": 1, "a": [1, 2.0]} y', 'x {"a":[1,2],"b":1} y', True),
        ('{"a": "\\u003cb\\u003e"}', '{"a":"<b>"}', True),
        ('{"a": 1}', '{"a": 2}', False),
        ('{"a": 1} ', '{"a": 1}', False),
        ('{{"a": {"c": 1, "b": 2}}}', '{{"a":{"b":2,"c":1}}}', True),
        ("{{ y }} [", "{{ y }} [", True),
        ("[1, 2]", "[2, 1]", False),
        ("{" * 5000, "{" * 5000, True),
    ],
)
def test_canonical(left: str, right: str, same: bool) -> None:
    assert (canonical(left) == canonical(right)) is same


def test_a_text_that_fails_is_wrong() -> None:
    def fails(_chat: Conversation, _today: date) -> str:
        raise ValueError("no")

    template = ChatTemplate(CHATML)
    reference = make_reference(template, probe_traits(template), heldout_cases()[:3], thinks=False)
    judged = judge(reference, fails, frozenset())
    assert {one.verdict for one in judged} == {"wrong"}
    assert table(reference, judged, lambda _case: False)["chat"].wrong == 3
