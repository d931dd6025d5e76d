"""``ggufpack clients`` on a real server; what it prints for OpenAI's client is run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import ggufpack
from ggufpack.cli.main import main
from ggufpack.registry.server import OllamaServer
from tests.support.chain import THOUGHT, chain_checkpoint
from tests.support.ollama_server import RunningOllama

pytestmark = [pytest.mark.server, pytest.mark.network]

NAME = "clients:f16"


@pytest.fixture(scope="module")
def host(
    ollama_server: RunningOllama, llama_cpp_source: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A server with a model that thinks and calls a tool."""
    output = tmp_path_factory.mktemp("package")
    done = ggufpack.build(
        chain_checkpoint(),
        name="clients",
        quantization="F16",
        output=output,
        host=ollama_server.host,
        verify="none",
        parameters={"num_ctx": ("1024",)},
    )
    yield ollama_server.host
    server = OllamaServer(ollama_server.host)
    for name in done.registered:
        server.delete(name)
    server.close()


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["clients", *words])


def test_all_are_printed_with_what_the_server_says(host: str) -> None:
    done = run(NAME, "--host", host, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    model = found["model"]
    assert (model["context"], model["tools"], model["thinking"], model["vision"]) == (1024, True, True, False)
    assert set(found["clients"]) == {"cherry-studio", "open-webui", "continue", "litellm", "openai"}
    people = run(NAME, "--host", host)
    for config in found["clients"].values():
        assert config["text"].strip() in people.stdout
        assert config["source"]


def test_the_printed_python_runs(host: str, tmp_path: Path) -> None:
    done = run(NAME, "--host", host, "--client", "openai")
    assert done.exit_code == 0
    # the model says always the same: a thought, then a call; show the thought
    text = done.stdout + "print(repr(answer.choices[0].message.reasoning))\n"
    (tmp_path / "program.py").write_text(text)
    ran = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert THOUGHT.strip() in ran.stdout


def test_a_model_that_is_not_there(host: str) -> None:
    done = run("nobody:x", "--host", host, "--json")
    assert done.exit_code == 6
    assert "nobody:x" in json.loads(done.stdout)["error"]["problem"]
