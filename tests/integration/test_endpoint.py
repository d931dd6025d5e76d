"""``verify --endpoint`` on Ollama's /v1 and the embedded engine; OpenAI's client is the oracle."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ollama
import openai
import pytest
from click.testing import CliRunner

import ggufpack
from ggufpack.chat_template.heldout import TOOLS
from ggufpack.cli.main import main
from ggufpack.engine.openai_answers import Call
from ggufpack.engine.openai_endpoint import OpenAIEndpoint
from ggufpack.engine.openai_requests import chat_request, stream_request
from ggufpack.registry.server import OllamaServer
from ggufpack.verification.conversations import CONVERSATIONS, SMOKE_MESSAGES
from ggufpack.verification.parsed import WEATHER
from tests.support.chain import chain_checkpoint
from tests.support.embedded_port import EngineOnPort
from tests.support.go_chatml import go_chatml
from tests.support.ollama_server import RunningOllama
from tests.support.sabotage import SABOTAGES

pytestmark = [pytest.mark.server, pytest.mark.network]

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
HI = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def serve(
    ollama_server: RunningOllama, smollm2: Path, oracle_gguf: Callable[[Path, str], Path]
) -> Iterator[Callable[..., str]]:
    """``serve("Q8_0", template)``: the name on the server."""
    client = ollama.Client(ollama_server.host)
    server = OllamaServer(ollama_server.host)
    names: list[str] = []

    def make(
        quantization: str = "Q8_0", template: str | None = None, stops: Sequence[str] = ("<|im_end|>",)
    ) -> str:
        digest = client.create_blob(oracle_gguf(smollm2, quantization))
        names.append(f"endpoint-{len(names)}:latest")
        request = {"template": template or go_chatml(SYSTEM), "parameters": {"stop": list(stops)}}
        server.create(names[-1], {"m.gguf": digest}, request)
        return names[-1]

    yield make
    for name in names:
        server.delete(name)
    server.close()


@pytest.fixture(scope="module")
def good(serve: Callable[..., str]) -> str:
    return serve()


@pytest.fixture(scope="module")
def embedded(smollm2: Path, oracle_gguf: Callable[[Path, str], Path]) -> Iterator[EngineOnPort]:
    with EngineOnPort(oracle_gguf(smollm2, "Q8_0")) as engine:
        yield engine


@pytest.fixture(params=["ollama", "llama.cpp"])
def served(request: pytest.FixtureRequest) -> tuple[str, str, str]:
    """Kind, address and name."""
    if request.param == "ollama":
        host = request.getfixturevalue("ollama_server").host
        return "ollama", f"{host}/v1", request.getfixturevalue("good")
    return "llama.cpp", request.getfixturevalue("embedded").url, "smollm2"


def cli(*words: str) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(main, ["verify", *words, "--json", "--quiet"], catch_exceptions=False)
    return done.exit_code, json.loads(done.stdout)


def ids(found: dict[str, Any], severity: str) -> set[str]:
    return {one["id"] for one in found["findings"] if one["severity"] == severity}


# --- the official client is the oracle -------------------------------------------------


def test_requests_and_answers_are_those_of_the_official_client(served: tuple[str, str, str]) -> None:
    kind, url, name = served
    client = openai.OpenAI(base_url=url, api_key="none")
    with OpenAIEndpoint(url, name) as endpoint:
        assert endpoint.kind == kind
        request = chat_request(endpoint.kind, name, SMOKE_MESSAGES, max_tokens=24, top_logprobs=5)
        own = {"repeat_penalty", "top_k", "min_p", "cache_prompt"}
        standard = {key: value for key, value in request.items() if key not in own}
        extra = {key: value for key, value in request.items() if key in own}
        theirs = client.chat.completions.create(**standard, extra_body=extra)
        ours = endpoint.chat(SMOKE_MESSAGES, max_tokens=24, top_logprobs=5)
        chunks = list(client.chat.completions.create(**standard, **stream_request(), extra_body=extra))
        streamed = endpoint.stream(SMOKE_MESSAGES, max_tokens=24, top_logprobs=5)
    choice, usage = theirs.choices[0], theirs.usage
    assert usage is not None
    assert ours.text == choice.message.content
    assert ours.text
    assert ours.finish_reason == choice.finish_reason
    assert (ours.prompt_tokens, ours.generated_tokens) == (usage.prompt_tokens, usage.completion_tokens)
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert [token.token for token in ours.tokens] == [
        bytes(row.bytes or []) for row in choice.logprobs.content
    ]
    assert all(len(token.top) == 5 for token in ours.tokens)
    assert b"".join(token.token for token in ours.tokens).decode().startswith(ours.text)
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert streamed.text == "".join(texts) == ours.text
    assert streamed.finish_reason == ours.finish_reason
    assert chunks[-1].usage is not None
    assert streamed.prompt_tokens == chunks[-1].usage.prompt_tokens == ours.prompt_tokens
    # llama.cpp lists the end token in the whole answer only
    assert [one.token for one in streamed.tokens] == [one.token for one in ours.tokens if one.token]


# --- verify --endpoint ------------------------------------------------------------------


def test_a_sound_model_passes(served: tuple[str, str, str], smollm2: Path) -> None:
    kind, url, name = served
    code, found = cli(str(smollm2), "--endpoint", url, "--model", name)
    (done,) = found["verifications"]
    assert code == 0, found["findings"]
    assert done["passed"]
    assert all(case["equal"] for case in done["prompts"])
    assert any(case["expected_tokens"] == case["actual_tokens"] for case in done["prompts"])
    assert done["smoke"]["done_reason"] == "stop"
    assert [check["equal"] for check in done["streams"]] == [True]
    (agreement,) = done["agreements"]
    assert agreement["against"] == "the trained model"
    assert agreement["cases"] >= 6
    assert agreement["demanded"] > 10
    assert agreement["places"] >= agreement["agreed"] > agreement["demanded"]
    ends = {(check["stop"], check["kind"]): check["ended"] for check in done["stops"]}
    if kind == "ollama":
        assert len(done["prompts"]) == len(CONVERSATIONS)
        assert ends == {("<|im_end|>", "string"): True, ("<|im_end|>", "token"): None}
        assert ids(found, "unchecked") == {"GP616"}
    else:
        assert {case["actual"] for case in done["prompts"]} == {None}
        assert ends == {("<|im_end|>", "token"): True}
        assert ids(found, "unchecked") == {"GP644"}


def test_a_wrong_template_is_found_and_the_case_named(
    serve: Callable[..., str], ollama_server: RunningOllama, smollm2: Path
) -> None:
    # the default system message that the model was trained with is missing
    name = serve(template=go_chatml(None))
    code, found = cli(str(smollm2), "--endpoint", ollama_server.host, "--model", name, "--level", "prompts")
    assert code == 7
    assert found["error"]["exit_code"] == 7
    assert "'one question'" in found["error"]["problem"]
    wrong = {case["name"] for case in found["verifications"][0]["prompts"] if not case["equal"]}
    assert "one question" in wrong
    assert "system and question" not in wrong


def test_a_wrong_template_is_found_by_lengths_alone(
    smollm2: Path, oracle_gguf: Callable[[Path, str], Path]
) -> None:
    jinja = (smollm2 / "chat_template.jinja").read_text()
    assert SYSTEM in jinja
    with EngineOnPort(oracle_gguf(smollm2, "Q8_0"), jinja.replace(SYSTEM, "Be nice")) as engine:
        code, found = cli(str(smollm2), "--endpoint", engine.url, "--model", "x", "--level", "prompts")
    assert code == 7
    assert "'one question'" in found["error"]["problem"]
    assert "GP603" in ids(found, "error")


def test_another_model_is_found_by_its_answers(
    ollama_server: RunningOllama,
    smollm2: Path,
    good: str,
    oracle_gguf: Callable[[Path, str], Path],
    tmp_path: Path,
) -> None:
    # prompts are as trained, two norms of a layer are not
    broken = tmp_path / "broken.gguf"
    SABOTAGES["norms swapped"](oracle_gguf(smollm2, "Q8_0"), broken)
    with EngineOnPort(broken) as engine:
        words = ("--endpoint", engine.url, "--model", "x", "--host", ollama_server.host)
        code, found = cli(good, str(smollm2), *words)
    assert code == 7
    (done,) = found["verifications"]
    assert all(case["equal"] for case in done["prompts"])
    source, other = done["agreements"]
    assert source["against"] == "the trained model"
    assert other["against"].startswith(f"{good} on Ollama at ")
    assert "conversation '" in source["detail"]
    assert "GP642" in ids(found, "error")


def test_two_quantisations_agree_where_rounding_is_no_excuse(
    serve: Callable[..., str], ollama_server: RunningOllama, smollm2: Path, good: str
) -> None:
    url = ollama_server.host
    name = serve("Q4_K_M")
    code, found = cli(good, str(smollm2), "--endpoint", url, "--model", name, "--host", url)
    assert code == 0, found["findings"]
    source, other = found["verifications"][0]["agreements"]
    assert source["cases"] >= 6
    assert other["cases"] == 8
    assert other["demanded"] > 0


# --- thinking and tool calls ------------------------------------------------------------


@pytest.fixture(scope="module")
def built_chain(
    ollama_server: RunningOllama, llama_cpp_source: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ggufpack.BuildResult]:
    """A registered model that always thinks, calls a tool and stops."""
    done = ggufpack.build(
        chain_checkpoint(),
        name="endpoint-chain",
        quantization="F16",
        output=tmp_path_factory.mktemp("package"),
        host=ollama_server.host,
        verify="none",
    )
    yield done
    server = OllamaServer(ollama_server.host)
    for name in done.registered:
        server.delete(name)
    server.close()


@pytest.fixture
def chain(built_chain: ggufpack.BuildResult) -> str:
    return "endpoint-chain:f16"


@pytest.fixture
def chain_gguf(built_chain: ggufpack.BuildResult) -> Path:
    return built_chain.package.files[0].path


def test_thinking_and_calls_come_in_their_fields_and_stream(chain: str, ollama_server: RunningOllama) -> None:
    words = (str(chain_checkpoint()), "--endpoint", ollama_server.host, "--model", chain, "--level", "smoke")
    _, found = cli(*words)
    (done,) = found["verifications"]
    assert {check["field"]: check["parsed"] for check in done["parsed"]} == {
        "thinking": True,
        "tool_calls": True,
    }
    assert {check["case"]: check["equal"] for check in done["streams"]} == {
        "one answer": True,
        "a tool call": True,
    }
    client = openai.OpenAI(base_url=f"{ollama_server.host}/v1", api_key="none")
    options: dict[str, Any] = {"messages": [WEATHER], "tools": TOOLS[:1]}
    theirs = client.chat.completions.create(model=chain, **options)
    with OpenAIEndpoint(ollama_server.host, chain) as endpoint:
        ours = endpoint.chat([WEATHER], max_tokens=64, tools=TOOLS[:1])
    (call,) = [
        Call(one.function.name, one.function.arguments)
        for one in theirs.choices[0].message.tool_calls or ()
        if one.type == "function"
    ]
    assert ours.calls == (call,)
    assert (ours.finish_reason, theirs.choices[0].finish_reason) == ("tool_calls", "tool_calls")


@pytest.mark.parametrize("reasoning", [True, False])
def test_thinking_that_a_server_leaves_in_the_text_is_found(
    reasoning: bool, chain: str, chain_gguf: Path
) -> None:
    with EngineOnPort(chain_gguf, reasoning=reasoning) as engine:
        words = ("--endpoint", engine.url, "--model", chain, "--level", "smoke")
        _, found = cli(str(chain_checkpoint()), *words)
    parsed = {check["field"]: check["parsed"] for check in found["verifications"][0]["parsed"]}
    assert parsed == {"thinking": reasoning, "tool_calls": True}
    assert ("GP617" in ids(found, "error")) is not reasoning
