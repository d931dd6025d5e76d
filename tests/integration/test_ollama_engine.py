"""Verification through a real Ollama server: SmolLM2 registered well, and registered carelessly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import ollama
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ggufpack.engine.ollama import OllamaEngine
from ggufpack.engine.protocol import Message
from ggufpack.proofs import Verification
from ggufpack.registry.server import OllamaServer
from ggufpack.verification import verify
from ggufpack.verification.findings import findings_of
from ggufpack.verification.tokens import special_texts, token_counter
from tests.support.demo_gguf import demo_gguf
from tests.support.go_chatml import go_chatml
from tests.support.ollama_server import RunningOllama

pytestmark = [pytest.mark.server, pytest.mark.network]

DEFAULT_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
PARAMETERS: Mapping[str, object] = {"stop": ["<|im_end|>"], "num_ctx": 4096, "temperature": 1.5}


@pytest.fixture(scope="module")
def digest(ollama_server: RunningOllama, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The demo's GGUF among the server's blobs."""
    return ollama.Client(ollama_server.host).create_blob(demo_gguf(tmp_path_factory.mktemp("gguf")))


def registered(
    server: RunningOllama, digest: str, name: str, template: str | None = None
) -> Iterator[OllamaEngine]:
    client = ollama.Client(server.host)
    client.create(model=name, files={"model.gguf": digest}, parameters=PARAMETERS, template=template)
    ours = OllamaServer(server.host)
    try:
        yield OllamaEngine(ours, name)
    finally:
        ours.close()
        client.delete(name)


@pytest.fixture
def good(ollama_server: RunningOllama, digest: str) -> Iterator[OllamaEngine]:
    yield from registered(ollama_server, digest, "engine-good", template=go_chatml(DEFAULT_SYSTEM))


@pytest.fixture
def careless(ollama_server: RunningOllama, digest: str) -> Iterator[OllamaEngine]:
    yield from registered(ollama_server, digest, "engine-careless")


def check(engine: OllamaEngine, checkpoint: Path) -> Verification:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((checkpoint / "chat_template.jinja").read_text())

    def expected(messages: Sequence[Message]) -> str:
        return template.render(messages=list(messages), add_generation_prompt=True)

    return verify(
        engine,
        "smoke",
        model="smollm2",
        expected=expected,
        count_tokens=token_counter(checkpoint / "tokenizer.json"),
        bos_text="<|im_start|>",
        special_texts=special_texts(checkpoint / "tokenizer.json"),
        stops=["<|im_end|>"],
        end_tokens=[(2, "<|im_end|>")],
    )


def test_a_package_with_the_right_template_passes(good: OllamaEngine, smollm2: Path) -> None:
    done = check(good, smollm2)
    assert findings_of(done) == ()
    assert done.passed
    assert sum(case.actual_tokens is not None for case in done.prompts) >= 5
    assert done.engine.startswith("Ollama ")


def test_a_template_that_ollama_chose_is_caught(careless: OllamaEngine, smollm2: Path) -> None:
    # a ChatML of Ollama's own, without the default system message that the model was trained with
    done = check(careless, smollm2)
    assert not done.passed
    wrong = {case.name: case.detail or "" for case in done.prompts if not case.equal}
    assert "system and question" not in wrong
    assert "expected '⟨here⟩system\\nYou are" in wrong["one question"]
    assert {finding.id for finding in findings_of(done)} == {"GP601"}


def test_generation_is_greedy_and_counts_cached_tokens(
    good: OllamaEngine,
) -> None:
    messages: list[Message] = [{"role": "user", "content": "Name a colour."}]
    first, *others = (good.generate(messages, max_tokens=16, seed=seed) for seed in (0, 1, 2))
    assert {other.text for other in others} == {first.text}, "temperature 1.5 is overruled"
    assert {other.prompt_tokens for other in others} == {first.prompt_tokens}
    assert first.prompt_tokens > 30
    assert good.generate(messages, max_tokens=2).done_reason == "length"
