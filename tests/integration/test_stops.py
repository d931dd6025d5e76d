"""Stops on real engines: what ends an answer, and what is only said to."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import ollama
import pytest

from ggufpack.engine.embedded import EmbeddedEngine
from ggufpack.engine.ollama import OllamaEngine
from ggufpack.engine.protocol import Engine
from ggufpack.registry.server import OllamaServer
from ggufpack.verification.stops import check_stops
from tests.support.ollama_server import RunningOllama

pytestmark = [pytest.mark.engine, pytest.mark.server, pytest.mark.network]

END, TEXT_END = (2, "<|im_end|>"), (0, "<|endoftext|>")
START = (1, "<|im_start|>")
# plain, with what JSON escapes, of many tokens, outside ASCII, in front of a space
STRINGS = ("<|im_end|>", "</s>", "\nUSER:", 'say "x"', "\n\n### Instruction:\n", "☃é", " USER: ")
Stopping = Callable[[Sequence[str]], Engine]


@pytest.fixture(scope="module")
def gguf(smollm2: Path, oracle_gguf: Callable[[Path, str], Path]) -> Path:
    return oracle_gguf(smollm2, "Q8_0")


@pytest.fixture(scope="module")
def on_ollama(ollama_server: RunningOllama, gguf: Path) -> Iterator[Stopping]:
    client = ollama.Client(ollama_server.host)
    digest = client.create_blob(gguf)
    ours = OllamaServer(ollama_server.host)
    names: list[str] = []

    def make(stops: Sequence[str]) -> Engine:
        names.append(f"stops-{len(names)}")
        ours.create(names[-1], {"m.gguf": digest}, {"parameters": {"stop": list(stops)}})
        return OllamaEngine(ours, names[-1])

    yield make
    for name in names:
        client.delete(name)
    ours.close()


@pytest.fixture(scope="module")
def embedded(gguf: Path) -> Iterator[Stopping]:
    with EmbeddedEngine(gguf, n_ctx=512) as running:

        def make(stops: Sequence[str]) -> Engine:
            running._stops = tuple(stops)
            return running

        yield make


@pytest.fixture(params=["on_ollama", "embedded"])
def stopping(request: pytest.FixtureRequest) -> Stopping:
    made: Stopping = request.getfixturevalue(request.param)
    return made


def ended(engine: Engine, stops: Sequence[str], tokens: Sequence[tuple[int, str]] = ()) -> list[object]:
    checks = check_stops(engine, stops, tokens)
    assert all(check.ended or check.detail for check in checks)
    return [check.ended for check in checks]


def test_stops_of_every_kind_end_an_answer(stopping: Stopping) -> None:
    assert ended(stopping(STRINGS), STRINGS, [END, TEXT_END]) == [True] * 9


def test_a_stop_that_the_package_lacks_shows_in_the_answer(stopping: Stopping) -> None:
    checks = check_stops(stopping(["something else"]), STRINGS, [])
    assert [check.ended for check in checks] == [False] * len(STRINGS)
    shown = [literal_eval((check.detail or "").partition(": ")[2]) for check in checks]
    assert all(check.stop in text for check, text in zip(checks, shown, strict=True)), shown


def test_a_token_that_the_gguf_does_not_end_at_is_found(stopping: Stopping) -> None:
    # as a stop string it is of no use: a control token has no text
    (string, token) = check_stops(stopping([START[1]]), [START[1]], [START])
    assert (string.ended, token.ended) == (True, False)
    assert token.detail == "8 of them did not end it"
