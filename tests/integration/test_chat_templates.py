"""Real chat templates on a real Ollama: what the server itself renders, beside the Jinja."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

import ggufpack
from ggufpack.chat_template.conversation import Conversation, Message, ToolCall
from ggufpack.chat_template.heldout import TOOLS
from ggufpack.chat_template.native import native_refused
from ggufpack.chat_template.parity import canonical
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.traits import Traits, probe_traits
from ggufpack.registry import OllamaServer
from tests.support.checkpoints import link_checkpoint
from tests.support.ollama_server import RunningOllama

NAMES = (
    "Qwen-Qwen2.5-7B-Instruct",
    "Qwen-Qwen3-0.6B",
    "HuggingFaceTB-SmolLM3-3B",
    "meta-llama-Llama-3.1-8B-Instruct",
    "google-gemma-2-2b-it",
    "microsoft-Phi-3.5-mini-instruct",
    "mistralai-Mistral-Nemo-Instruct-2407",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
    "GLM-4.6",
    "ibm-granite-granite-4.0",
    "llama-cpp-rwkv-world",
)
CALL = ToolCall("call00001", "get_weather", {"city": "Bern", "days": 2})
PLAIN = (
    Conversation("question", (Message("user", 'What is 2 < 3 & "so"? 日本語 👍🏽'),)),
    Conversation(
        "turns",
        (Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "Bye {{y}}\n\n# <|im_end|>")),
    ),
)
CALLS = Conversation(
    "calls",
    (
        Message("user", "Weather?"),
        Message("assistant", "", calls=(CALL,)),
        Message("tool", "sunny", tool_name="get_weather", tool_call_id="call00001"),
    ),
    tools=TOOLS[:1],
)
THOUGHT = Conversation(
    "thought",
    (
        Message("user", "1 + 1?"),
        Message("assistant", "2", thinking="One and one."),
        Message("user", "2 + 2?"),
    ),
)


class Registered:
    """A template in a tiny model on the server."""

    def __init__(self, server: RunningOllama, name: str, template: ChatTemplate, strategy: str) -> None:
        self.server = server
        self.name = name
        self.template = template
        self.traits: Traits = probe_traits(template)
        self.strategy = strategy

    def rendered(self, conversation: Conversation, think: bool | None = None) -> str:
        """What the server sends to the model."""
        body: dict[str, Any] = {
            "model": self.name,
            "messages": conversation.for_ollama(),
            "stream": False,
            "_debug_render_only": True,
            "truncate": False,  # the tiny model has a tiny context
        }
        if conversation.tools:
            body["tools"] = list(conversation.tools)
        if think is not None:
            body["think"] = think
        answer = httpx.post(f"{self.server.host}/api/chat", json=body, timeout=60, trust_env=False)
        assert answer.status_code == 200, answer.text
        text: str = answer.json()["_debug_info"]["rendered_template"]
        return text.removeprefix("<s>")

    def trained(self, conversation: Conversation) -> str:
        return self.traits.prompt(self.template, conversation).removeprefix("<s>")

    def capabilities(self) -> set[str]:
        body = {"model": self.name}
        answer = httpx.post(f"{self.server.host}/api/show", json=body, timeout=60, trust_env=False)
        return set(answer.json()["capabilities"])


@pytest.fixture(scope="module", params=NAMES)
def registered(
    request: pytest.FixtureRequest,
    ollama_server: RunningOllama,
    llama_cpp_source: Path,
    tiny_model: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Registered]:
    folder = tmp_path_factory.mktemp("templates")
    checkpoint = link_checkpoint(tiny_model("llama-spm"), folder / "model")
    text = (llama_cpp_source / "models/templates" / f"{request.param}.jinja").read_text(encoding="utf-8")
    for path in (checkpoint / "chat_template.jinja",):
        path.unlink(missing_ok=True)
        path.write_text(text, encoding="utf-8")
    name = f"template-{NAMES.index(request.param)}"
    done = ggufpack.build(
        checkpoint,
        name=name,
        quantization="F16",
        output=folder / "out",
        host=ollama_server.host,
        verify="none",
        parameters={"num_ctx": 4096},
    )
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    yield Registered(
        ollama_server,
        f"{name}:f16",
        ChatTemplate(text, special_tokens=tokens),
        done.template_strategy,
    )
    client = OllamaServer(ollama_server.host)
    for model in done.registered:
        client.delete(model)
    client.close()


def test_the_server_renders_what_was_trained(registered: Registered) -> None:
    traits = registered.traits
    lost = {one.shape for one in native_refused(registered.template, traits)}
    if registered.strategy == "native" and "date" in lost:
        assert registered.rendered(PLAIN[0]) != registered.trained(PLAIN[0])
        return
    # said outright, because a server never leaves it unset
    think = bool(traits.unset) if "enable_thinking" in traits.switches else None
    if think and "thinking" not in registered.capabilities():
        think = None
    for conversation in PLAIN:
        expected = registered.trained(replace(conversation, think=think))
        assert registered.rendered(conversation, think) == expected, registered.strategy
    if traits.calls and "tools" in registered.capabilities():
        expected = registered.trained(replace(CALLS, think=think))
        assert canonical(registered.rendered(CALLS, think)) == canonical(expected), registered.strategy


def test_native_loses_what_is_said(registered: Registered) -> None:
    """The facts behind finding GP436."""
    if registered.strategy != "native" or "thinking" not in registered.capabilities():
        assert registered.strategy in ("native", "go", "go")
        return
    actual = registered.rendered(THOUGHT)
    assert "One and one." not in actual
    if "enable_thinking" in registered.traits.switches:
        on = Conversation("on", PLAIN[0].messages, think=True)
        assert registered.rendered(PLAIN[0]) == registered.trained(on), "unset is true on a server"
