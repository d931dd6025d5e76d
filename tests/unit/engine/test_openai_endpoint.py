"""The client of OpenAI-compatible servers on loopback: vLLM's recorded contract, and bad servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import openai.types.chat as official
import pytest

from ggufpack.engine.openai_answers import Call, error_text, parse_answer, parse_stream
from ggufpack.engine.openai_endpoint import OpenAIEndpoint, base_url
from ggufpack.engine.openai_requests import ServerKind, chat_request
from ggufpack.errors import EndpointRefusedError, ServerResponseError, ServerUnreachableError, UsageError
from tests.unit.engine import vllm_contract as vllm
from tests.unit.registry.loopback import Answer, Fake, fake_ollama, reply

HI = [{"role": "user", "content": "Hi"}]
CHAT = "POST /v1/chat/completions"
SECRET = "sk-very-secret"  # noqa: S105 - nobody's


@pytest.fixture
def server() -> Iterator[Fake]:
    with fake_ollama() as fake:
        fake.answers["GET /v1/models"] = reply(200, vllm.MODELS)
        fake.answers[CHAT] = reply(200, vllm.ANSWER)
        yield fake


def events(*chunks: object, done: bool = True) -> Answer:
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks] + (["data: [DONE]\n\n"] if done else [])
    return reply(200, "".join(lines), "text/event-stream")


# --- vLLM, recorded ---------------------------------------------------------------------


def test_the_recorded_contract_is_what_the_official_client_takes() -> None:
    for answer in (vllm.ANSWER, vllm.CALL):
        official.ChatCompletion.model_validate(answer)
    for chunk in (*vllm.STREAM, *vllm.CALL_STREAM):
        official.ChatCompletionChunk.model_validate(chunk)


def test_vllm_is_known_and_asked_for_token_ids(server: Fake) -> None:
    with OpenAIEndpoint(server.host, vllm.MODEL) as endpoint:
        assert endpoint.kind == "vllm"
        assert endpoint.name == f"vLLM at {server.host}/v1"
        shown = endpoint.show_prompt(HI, think=False)
    assert shown is not None
    assert shown.prompt_ids == (1, 5, 6, 7)
    (_, (_, request)) = server.requests
    assert request["return_token_ids"] is True
    # the checkpoint's generation_config.json sets what a request leaves out
    assert (request["temperature"], request["repetition_penalty"], request["top_k"]) == (0.0, 1.0, -1)
    assert request["chat_template_kwargs"] == {"enable_thinking": False}


def test_a_vllm_answer() -> None:
    found = parse_answer(vllm.ANSWER)
    assert (found.text, found.thinking, found.finish_reason, found.calls) == (
        "Hi!",
        "A greeting.",
        "stop",
        (),
    )
    assert (found.prompt_tokens, found.generated_tokens) == (4, 2)
    assert [token.token for token in found.tokens] == [b"Hi", b"!"]
    assert found.tokens[1].top == ((b"!", -0.2), (b".", -9999.0))
    assert parse_answer(vllm.CALL).calls == (Call("get_weather", '{"city": "Bern"}'),)


def test_a_vllm_stream(server: Fake) -> None:
    server.answers[CHAT] = events(*vllm.STREAM)
    with OpenAIEndpoint(server.host, vllm.MODEL) as endpoint:
        streamed = endpoint.stream(HI, max_tokens=5)
    whole = parse_answer(vllm.ANSWER)
    for field in ("text", "thinking", "finish_reason", "prompt_tokens", "generated_tokens"):
        assert getattr(streamed, field) == getattr(whole, field)
    assert [token.token for token in streamed.tokens] == [b"Hi", b"!"]
    assert server.requests[-1][1]["stream_options"] == {"include_usage": True}
    assert parse_stream(vllm.CALL_STREAM).calls == parse_answer(vllm.CALL).calls


def test_a_vllm_without_a_tool_parser_refuses(server: Fake) -> None:
    server.answers[CHAT] = reply(400, vllm.NO_TOOLS)
    with (
        OpenAIEndpoint(server.host, vllm.MODEL) as endpoint,
        pytest.raises(EndpointRefusedError, match="--tool-call-parser"),
    ):
        endpoint.chat(HI, max_tokens=5, tools=[{"type": "function"}])
    assert error_text(vllm.OLD_ERROR) == "The model `x` does not exist."


# --- requests ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ollama", "other"])
def test_a_server_that_is_not_known_gets_openai_s_fields_only(kind: ServerKind) -> None:
    # OpenAI refuses a field that it does not know
    request = chat_request(kind, "m", HI, max_tokens=1, think=None, top_logprobs=20)
    assert set(request) <= {
        *official.completion_create_params.CompletionCreateParamsNonStreaming.__annotations__
    } | {*official.completion_create_params.CompletionCreateParamsBase.__annotations__}


def test_thinking_is_switched_as_the_server_wants_it() -> None:
    def switches(kind: ServerKind, think: bool) -> dict[str, Any]:
        request = chat_request(kind, "m", HI, max_tokens=1, think=think)
        return {key: request[key] for key in ("reasoning_effort", "chat_template_kwargs") if key in request}

    assert switches("ollama", False) == {"reasoning_effort": "none"}
    assert switches("ollama", True) == {}
    assert switches("llama.cpp", True) == {"chat_template_kwargs": {"enable_thinking": True}}
    assert switches("other", True) == {}


# --- addresses and keys -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://h:8000", "http://h:8000/v1"),
        ("http://h:8000/", "http://h:8000/v1"),
        ("https://h/openai/v1/", "https://h/openai/v1"),
    ],
)
def test_an_address_is_taken_as_openai_s_clients_do(text: str, url: str) -> None:
    assert base_url(text) == url


@pytest.mark.parametrize("text", ["h:8000", "ftp://h/v1", "http://", "http://h/v1?key=1", "http://h:x/v1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--endpoint"):
        base_url(text)


def test_a_password_in_the_address_is_refused_and_not_shown() -> None:
    with pytest.raises(UsageError, match="OPENAI_API_KEY") as caught:
        base_url(f"http://me:{SECRET}@h/v1")
    assert SECRET not in str(caught.value)


def test_a_key_is_sent_and_never_told(server: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    def refuse(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers.get("Authorization"))
        reply(401, {"error": {"message": f"Incorrect API key provided: {SECRET}"}})(handler)

    server.answers[CHAT] = refuse
    monkeypatch.setenv("MY_KEY", SECRET)
    with (
        OpenAIEndpoint(server.host, "m", key_variable="MY_KEY") as endpoint,
        pytest.raises(ServerResponseError, match="MY_KEY") as caught,
    ):
        endpoint.chat(HI, max_tokens=1)
    assert seen == [f"Bearer {SECRET}"]
    assert SECRET not in f"{caught.value} {endpoint!r} {json.dumps(caught.value.to_json())}"


def test_without_a_key_none_is_sent(server: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    seen: list[str | None] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers.get("Authorization"))
        reply(200, vllm.ANSWER)(handler)

    server.answers[CHAT] = answer
    with OpenAIEndpoint(server.host, "m") as endpoint:
        endpoint.chat(HI, max_tokens=1)
    assert seen == [None]


# --- servers that misbehave -------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (reply(200, {"choices": []}), "something else than a chat completion"),
        (reply(200, "<html>"), "something else than a chat completion"),
        (reply(200, [1]), "something else than a chat completion"),
        (reply(500, "oops"), "HTTP status 500"),
        (reply(302, ""), "HTTP status 302"),
    ],
)
def test_a_strange_answer(answer: Answer, problem: str, server: Fake) -> None:
    server.answers[CHAT] = answer
    with OpenAIEndpoint(server.host, "m") as endpoint, pytest.raises(ServerResponseError, match=problem):
        endpoint.chat(HI, max_tokens=1)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (events(*vllm.STREAM, done=False), "without \\[DONE\\]"),
        (events(vllm.STREAM[0], {"error": {"message": "out of memory"}}), "out of memory"),
        (events(7), "something else"),
        (reply(200, "data: {\n\n", "text/event-stream"), "something else"),
    ],
)
def test_a_stream_that_breaks_off(answer: Answer, problem: str, server: Fake) -> None:
    server.answers[CHAT] = answer
    with OpenAIEndpoint(server.host, "m") as endpoint, pytest.raises(ServerResponseError, match=problem):
        endpoint.stream(HI, max_tokens=1)


def test_nobody_there() -> None:
    with (
        OpenAIEndpoint("http://127.0.0.1:9", "m") as endpoint,
        pytest.raises(ServerUnreachableError, match=r"127\.0\.0\.1:9"),
    ):
        endpoint.chat(HI, max_tokens=1)


def test_a_server_without_a_list_of_models_is_asked(server: Fake) -> None:
    server.answers["GET /v1/models"] = reply(404, {"detail": "Not Found"})
    server.answers[CHAT] = reply(200, {**vllm.ANSWER, "system_fingerprint": "fp_ollama"})
    with OpenAIEndpoint(server.host, "m") as endpoint:
        assert endpoint.kind == "ollama"
