"""The Go TEMPLATE and its Python twin, against Ollama's own template engine."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ggufpack.chat_template.go_chatml import go_chatml, render_go_chatml
from ggufpack.chat_template.probes import probe_conversations
from tests.support.go_template_oracle.oracle import GoOracle

pytestmark = pytest.mark.go

SYSTEMS = [
    None,
    "",
    "You are Qwen.",
    " spaced \n",
    "a {{ .X }} b",
    "{{{{ {{{",
    "}} {{- end -}} {",
    'say "`hi`"',
]
ROLES = st.sampled_from(["system", "user", "assistant", "tool"])
MESSAGES = st.lists(st.fixed_dictionaries({"role": ROLES, "content": st.text(max_size=12)}), max_size=7)


@pytest.mark.parametrize("default_system", SYSTEMS)
def test_probes(default_system: str | None, go_oracle: GoOracle) -> None:
    template = go_chatml(default_system)
    chats = [conversation.messages for conversation in probe_conversations()]
    answers = go_oracle.ask("render", [{"template": template, "messages": chat} for chat in chats])
    for chat, answer in zip(chats, answers, strict=True):
        assert answer["text"] == render_go_chatml(chat, default_system), chat
    assert len(answers) > 100


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(chats=st.lists(MESSAGES, min_size=1, max_size=30), default_system=st.none() | st.text(max_size=20))
def test_any_messages(
    chats: list[list[dict[str, str]]], default_system: str | None, go_oracle: GoOracle
) -> None:
    template = go_chatml(default_system)
    answers = go_oracle.ask("render", [{"template": template, "messages": chat} for chat in chats])
    for chat, answer in zip(chats, answers, strict=True):
        assert "error" not in answer, answer
        assert answer["text"] == render_go_chatml(chat, default_system)


def test_text_by_hand(go_oracle: GoOracle) -> None:
    chat = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    (answer,) = go_oracle.ask("render", [{"template": go_chatml("S"), "messages": chat}])
    assert answer["text"] == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na\n\nb<|im_end|>\n<|im_start|>assistant\n"
    )
