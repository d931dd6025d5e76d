"""The server's probabilities against the embedded engine's: of one file, and of two."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import ollama
import pytest

from ggufpack.engine import embedded
from ggufpack.engine.embedded import EmbeddedEngine
from ggufpack.engine.ollama import OllamaEngine
from ggufpack.engine.protocol import Message
from ggufpack.registry.server import OllamaServer
from ggufpack.verification.logprobs import LIMIT, PLAIN, check_logprobs
from tests.support.go_chatml import go_chatml
from tests.support.ollama_server import RunningOllama

pytestmark = [pytest.mark.engine, pytest.mark.server, pytest.mark.network]

TYPES = ("Q8_0", "Q4_K_M")
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


@pytest.fixture(scope="module")
def registered(
    ollama_server: RunningOllama, smollm2: Path, oracle_gguf: Callable[[Path, str], Path]
) -> Iterator[OllamaServer]:
    client = ollama.Client(ollama_server.host)
    server = OllamaServer(ollama_server.host)
    for name in TYPES:
        digest = client.create_blob(oracle_gguf(smollm2, name))
        request = {"template": go_chatml(SYSTEM), "parameters": {"stop": ["<|im_end|>"]}}
        server.create(f"logprobs-{name}".lower(), {"m.gguf": digest}, request)
    yield server
    for name in TYPES:
        server.delete(f"logprobs-{name}".lower())
    server.close()


@pytest.mark.parametrize("quantization", TYPES)
def test_one_file_is_within_the_limit_and_another_is_not(
    quantization: str, registered: OllamaServer, smollm2: Path, oracle_gguf: Callable[[Path, str], Path]
) -> None:
    with EmbeddedEngine(oracle_gguf(smollm2, quantization), n_ctx=2048) as engine:

        def expected(messages: Sequence[Message]) -> dict[bytes, float]:
            request: dict[str, object] = {"prompt": engine.render(messages), "n_predict": 1, "n_probs": 49152}
            answer = embedded._post(
                engine._socket, "/completion", {**request, "temperature": 0.0, "cache_prompt": False}
            )
            found: dict[bytes, float] = defaultdict(float)
            for row in answer["completion_probabilities"][0]["top_logprobs"]:
                found[bytes(row["bytes"])] += math.exp(row["logprob"])
            return found

        done = {
            name: check_logprobs(OllamaEngine(registered, f"logprobs-{name}".lower()), expected)
            for name in TYPES
        }
    for name, check in done.items():
        assert check is not None
        assert check.cases == len(PLAIN) == 8
        assert check.equal is (name == quantization), done
        assert (check.detail is None) is check.equal
        assert 0 < check.largest < 1
        assert check.limit == LIMIT
