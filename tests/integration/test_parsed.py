"""Thinking and tool calls on a real server: found by the template's tags, or left in the text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import ggufpack
from ggufpack.chat_template.prompt import Prompt, prepare_prompt
from ggufpack.checkpoint import open_checkpoint
from ggufpack.engine.ollama import OllamaEngine
from ggufpack.registry.server import OllamaServer
from ggufpack.verification.parsed import Tags, check_parsed, find_tags
from tests.support.chain import chain_checkpoint
from tests.support.ollama_server import RunningOllama

pytestmark = [pytest.mark.server, pytest.mark.network]


@pytest.fixture(scope="module")
def checkpoint(llama_cpp_source: Path) -> Path:
    return chain_checkpoint()


@pytest.fixture(scope="module")
def server(ollama_server: RunningOllama) -> Iterator[OllamaServer]:
    ours = OllamaServer(ollama_server.host)
    yield ours
    ours.close()


@pytest.fixture(scope="module")
def prompt(checkpoint: Path) -> Prompt:
    return prepare_prompt(open_checkpoint(checkpoint), "auto", None)


@pytest.fixture(scope="module")
def registered(
    server: OllamaServer, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    output = tmp_path_factory.mktemp("package")
    done = ggufpack.build(
        checkpoint, name="chain", quantization="F16", output=output, host=server.host, verify="none"
    )
    yield "chain:f16"
    for name in done.registered:
        server.delete(name)


def parsed(server: OllamaServer, name: str, prompt: Prompt) -> dict[str, tuple[bool | None, str]]:
    found = check_parsed(OllamaEngine(server, name), prompt, server.show(name).capabilities)
    return {check.field: (check.parsed, check.detail or "") for check in found}


def test_the_tags_are_read_off_the_template(prompt: Prompt) -> None:
    assert prompt.template is not None
    assert prompt.plan.readings is not None
    tags = find_tags(prompt.template, prompt.plan.readings.traits)
    assert tags == Tags(("<think>", "</think>"), "<tool_call>", json_calls=True)


def test_a_server_that_knows_the_tags_tells_them_apart(
    server: OllamaServer, registered: str, prompt: Prompt
) -> None:
    assert parsed(server, registered, prompt) == {"thinking": (True, ""), "tool_calls": (True, "")}


def test_a_template_with_other_tags_leaves_them_in_the_text(
    server: OllamaServer, registered: str, prompt: Prompt
) -> None:
    template = prompt.plan.go_template
    assert template is not None
    hidden = template.replace("think>", "reason>").replace("tool_call>", "invoke>")
    digest = server.show(registered).sha256
    assert digest is not None
    server.create("chain-hidden", {"m.gguf": digest}, {"template": hidden})
    try:
        found = parsed(server, "chain-hidden", prompt)
    finally:
        server.delete("chain-hidden")
    assert {field: result for field, (result, _) in found.items()} == {"thinking": False, "tool_calls": False}
    assert "shows '<think>'" in found["thinking"][1]
    assert "get_weather" in found["tool_calls"][1]


def test_what_a_server_does_not_name_is_not_asked_for(
    server: OllamaServer, registered: str, prompt: Prompt
) -> None:
    digest = server.show(registered).sha256
    assert digest is not None
    engine = OllamaEngine(server, registered)
    found = check_parsed(engine, prompt, ("completion",))
    assert [(check.field, check.parsed) for check in found] == [("thinking", None), ("tool_calls", None)]
    assert all("does not name it" in (check.detail or "") for check in found)
