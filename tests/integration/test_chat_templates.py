"""Real chat templates on a real Ollama: what the server itself renders, beside the Jinja."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

import ggufpack
from ggufpack.chat_template.capabilities import chat_template_capabilities
from ggufpack.chat_template.conversation import Conversation, Json, Message
from ggufpack.chat_template.go_strategy import asked_cases, covers
from ggufpack.chat_template.heldout import Case, heldout_cases
from ggufpack.chat_template.native import native_refused
from ggufpack.chat_template.parity import canonical, make_reference
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.traits import Traits, probe_traits
from ggufpack.registry import OllamaServer
from tests.support.checkpoints import link_checkpoint
from tests.support.ollama_server import RunningOllama

# What a build chooses for each, on a server that runs either.
STRATEGIES = {
    "Qwen-Qwen2.5-7B-Instruct": "go",
    "Qwen-Qwen3-0.6B": "go",
    "MiMo-VL": "go",
    "LFM2-8B-A1B": "native",
    "meta-llama-Llama-3.1-8B-Instruct": "go",
    "google-gemma-2-2b-it": "go",
    "microsoft-Phi-3.5-mini-instruct": "go",
    "mistralai-Mistral-Nemo-Instruct-2407": "go",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "go",
    "deepseek-ai-DeepSeek-V3.1": "go",
    "GLM-4.6": "native",  # Ollama does not read its calls when it runs a TEMPLATE
    "ibm-granite-granite-4.0": "go",
    "NVIDIA-Nemotron-Nano-v2": "go",
    "Qwen3-Coder": "native",
    "Bielik-11B-v3.0-Instruct": "go",
    "llama-cpp-rwkv-world": "go",
}
PLAIN = Conversation("plain", (Message("user", "1 + 1?"),))
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

    def __init__(self, server: RunningOllama, name: str, template: ChatTemplate, record: Json) -> None:
        self.server = server
        self.name = name
        self.template = template
        self.traits: Traits = probe_traits(template)
        self.strategy: str = record["result"]["template"]
        self.reading: Json = record["chat_template"][self.strategy]

    def rendered(self, conversation: Conversation, model: str = "") -> str:
        """What the server sends to the model."""
        body: dict[str, Any] = {
            "model": model or self.name,
            "messages": conversation.for_ollama(),
            "stream": False,
            "_debug_render_only": True,
            "truncate": False,  # the tiny model has a tiny context
        }
        if conversation.tools:
            body["tools"] = list(conversation.tools)
        if conversation.think is not None:
            body["think"] = conversation.think
        answer = httpx.post(f"{self.server.host}/api/chat", json=body, timeout=60, trust_env=False)
        assert answer.status_code == 200, answer.text
        text: str = answer.json()["_debug_info"]["rendered_template"]
        return text.removeprefix("<s>")

    def trained(self, conversation: Conversation) -> str:
        return self.traits.prompt(self.template, conversation).removeprefix("<s>")

    def is_refused(self, case: Case) -> bool:
        return any(covers(one["shape"], case) for one in self.reading["refused"])

    def capabilities(self) -> set[str]:
        body = {"model": self.name}
        answer = httpx.post(f"{self.server.host}/api/show", json=body, timeout=60, trust_env=False)
        return set(answer.json()["capabilities"])


@pytest.fixture(scope="module", params=STRATEGIES)
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
    name = f"template-{list(STRATEGIES).index(request.param)}"
    done = ggufpack.build(
        checkpoint,
        name=name,
        quantization="F16",
        output=folder / "out",
        host=ollama_server.host,
        verify="none",
        parameters={"num_ctx": 16384},
    )
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    yield Registered(
        ollama_server,
        f"{name}:f16",
        ChatTemplate(text, special_tokens=tokens, origin=Path(request.param)),
        json.loads(done.record.read_text(encoding="utf-8")),
    )
    client = OllamaServer(ollama_server.host)
    for model in done.registered:
        client.delete(model)
    client.close()


def test_the_strategy_is_the_one_that_loses_less(registered: Registered) -> None:
    assert registered.strategy == STRATEGIES[str(registered.template.origin)]


def test_the_server_renders_what_was_trained(registered: Registered) -> None:
    """Every held-out conversation that the record does not refuse, on the server itself."""
    if registered.strategy == "native":
        return
    thinks = "thinking" in registered.reading["capabilities"]
    cases = asked_cases(registered.traits, heldout_cases())
    reference = make_reference(registered.template, registered.traits, cases, thinks=thinks)
    able = {*registered.reading["capabilities"]}
    compared: Counter[str] = Counter()
    for case in reference.cases:
        if case.needs - able - {"calls"} or registered.is_refused(case):
            continue
        expected = registered.trained(case.conversation)
        actual = registered.rendered(case.conversation)
        assert canonical(actual) == canonical(expected), case.conversation.name
        compared[case.capability] += 1
    parity = registered.reading["parity"]
    proven = {name: row["exact"] + row["semantic"] for name, row in parity.items()}
    assert {name: count for name, count in proven.items() if count} == compared


def test_the_server_runs_the_source_that_was_chosen(registered: Registered) -> None:
    """A TEMPLATE with a mark behind it: the mark shows in the prompt when it is run."""
    if registered.strategy == "native":
        return
    name = f"{registered.name.partition(':')[0]}-marked"
    shown = httpx.post(
        f"{registered.server.host}/api/show", json={"model": registered.name}, timeout=60, trust_env=False
    ).json()
    body = {"model": name, "from": registered.name, "template": shown["template"] + "<mark>", "stream": False}
    made = httpx.post(f"{registered.server.host}/api/create", json=body, timeout=60, trust_env=False)
    assert made.status_code == 200, made.text
    try:
        question = Conversation("question", (Message("user", "Who?"),))
        assert "<mark>" in registered.rendered(question, name)
    finally:
        client = OllamaServer(registered.server.host)
        client.delete(f"{name}:latest")
        client.close()


def test_the_server_offers_what_is_reproduced(registered: Registered) -> None:
    if registered.strategy == "go" and registered.traits.tools:
        jinja = chat_template_capabilities(registered.template.text)
        offered = {"tools", "thinking"} & {*registered.reading["capabilities"], *jinja}
        assert {"tools", "thinking"} & registered.capabilities() == offered


def test_native_loses_what_is_said(registered: Registered) -> None:
    """The facts behind finding GP436."""
    if registered.strategy == "native":
        lost = {one.shape for one in native_refused(registered.template, registered.traits)}
        assert lost == {one["shape"] for one in registered.reading["refused"]}
        begun = Conversation("begun", (*PLAIN.messages, Message("assistant", "Well, 2")))
        if registered.traits.unset is False:
            begun = replace(begun, think=False)
        same = registered.rendered(begun) == registered.trained(begun)
        assert same == ("prefill" not in lost)
        if "thinking:history" in lost:
            assert "One and one." not in registered.rendered(THOUGHT)
