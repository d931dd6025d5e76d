"""An Ollama server that lies, hangs, redirects or floods: an error of ggufpack's, soon and in little memory.

The limits are made small here; what they are in use is in registry/server.py.
"""

from __future__ import annotations

import gzip
import json
import resource
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from ggufpack.engine import openai_endpoint
from ggufpack.engine.ollama import OllamaEngine
from ggufpack.engine.openai_endpoint import OpenAIEndpoint
from ggufpack.engine.protocol import Message
from ggufpack.errors import GgufpackError, RegistryError, ServerResponseError
from ggufpack.registry import OllamaServer, stage_model
from ggufpack.registry import server as server_module
from ggufpack.registry.chat import ChatAnswer
from ggufpack.registry.limits import MIB, Limits
from ggufpack.registry.names import parse
from ggufpack.registry.shown import ShownModel
from ggufpack.registry.transfer import transfer
from ggufpack.spec import Event, Note
from tests.unit.registry.loopback import Answer, Fake, fake_ollama, reply, stream

HI: list[Message] = [{"role": "user", "content": "Hi"}]
SHA256 = "0" * 64
SECONDS = 5.0
KIB = 300 * 1024
ZEROS = gzip.compress(bytes(64 * MIB), 1)
SMALL = Limits(silent=0.4, size=MIB // 4, whole=0.4)
SMALL_STREAM = Limits(silent=0.4, size=MIB, whole=None)

Call = Callable[[OllamaServer, Path], object]
CALLS: dict[str, Call] = {
    "version": lambda server, _: server.check(),
    "list": lambda server, _: server.names(),
    "digest": lambda server, _: server.manifest_digest("m"),
    "show": lambda server, _: server.show("m"),
    "describe": lambda server, _: server.description("m"),
    "upload": lambda server, file: server.upload_blob(file, SHA256),
    "create": lambda server, _: server.create("m", {}, {}),
    "copy": lambda server, _: server.copy("m", "n"),
    "delete": lambda server, _: server.delete("m"),
    "push": lambda server, _: transfer(server, "push", parse("r.lan/a/m")),
    "pull": lambda server, _: transfer(server, "pull", parse("r.lan/a/m")),
    "chat": lambda server, _: server.chat("m", HI, {}),
    "render": lambda server, _: server.render_chat("m", HI),
    "complete": lambda server, _: server.complete("m", "Hi", {}),
    "embed": lambda server, _: server.embed("m", "Hi"),
    "logprobs": lambda server, _: OllamaEngine(server, "m").next_tokens(HI),
}


def head(handler: BaseHTTPRequestHandler, **headers: str) -> None:
    handler.send_response(200)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()


def flood(piece: bytes, pause: float = 0.0, **headers: str) -> Answer:
    """Sends ``piece`` until the client goes."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        head(handler, **headers)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            handler.wfile.write(piece)
            time.sleep(pause)

    return send


def raw(body: bytes) -> Answer:
    def send(handler: BaseHTTPRequestHandler) -> None:
        head(handler)
        handler.wfile.write(body)

    return send


def silent(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.settimeout(20)
    handler.rfile.read(1 << 30) if handler.command != "GET" else time.sleep(3)


def head_without_end(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(200):
        handler.wfile.write(b"x")
        time.sleep(0.1)


def redirect(target: str, status: int = 307) -> Answer:
    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return send


def bomb(handler: BaseHTTPRequestHandler) -> None:
    head(handler, Content_Encoding="gzip", Content_Length=str(len(ZEROS)))
    handler.wfile.write(ZEROS)


def big_head(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(10_000):
        handler.wfile.write(b"X-%d: %s\r\n" % (number, b"x" * 1000))


WRONG: dict[str, Answer] = {
    "nothing at all": silent,
    "a head that never ends": head_without_end,
    "a megabyte of headers and more": big_head,
    "a byte at a time": flood(b" ", 0.05),
    "spaces for ever": flood(b" " * 65536),
    "one endless line": flood(b"x" * 65536),
    "lines for ever": flood(b'{"status": "working"}\n' * 1000),
    "the same line, slowly": flood(b'{"status": "working"}\n', 0.05),
    "a compressed bomb": bomb,
    "another host": redirect("http://169.254.169.254/latest/meta-data"),
    "a file": redirect("file:///etc/passwd", 302),
    "itself": redirect("/api/version", 301),
    "escapes in a redirect": redirect("http://x/\x1b]0;evil\x07"),
    "HTML": reply(200, "<html><body>Sign in</body></html>", "text/html"),
    "an encoding that unpacks": flood(b"x" * 1000, 0.01, Content_Type="text/plain; charset=zip"),
    "a wrong encoding": reply(200, "{}", "application/json; charset=punycode"),
    "an array": reply(200, "[1]"),
    "a number": reply(200, "1" * 5000),
    "deep nesting": reply(200, "[" * 100_000),
    "deep nesting in objects": reply(200, '{"a":' * 100_000),
    "not UTF-8": raw(b'{"version": "\xff\xfe"'),
    "null": reply(200, "null"),
    "error, an array": reply(500, "[1, 2]"),
    "error, deep": reply(500, "[" * 100_000),
    "error, a megabyte": reply(500, {"error": "x" * MIB}),
    "error, an object": reply(400, {"error": {"a": ["b"]}}),
    "error in a stream": stream({"error": {"a": 1}}),
    "half a line": raw(b'{"status": "succ'),
    "fields of wrong types": reply(
        200,
        {
            "version": 3,
            "models": [3],
            "modelfile": 3,
            "model_info": {"a": 1},
            "tensors": [3],
            "message": "x",
            "response": [1],
            "embeddings": [["x"]],
            "_debug_info": "x",
            "status": {"a": 1},
            "total": "many",
        },
    ),
    "fields of wrong types, deeper": reply(
        200,
        {
            "version": None,
            "models": [{"model": None}, {"name": 1}],
            "parameters": 3,
            "model_info": [],
            "tensors": [{"name": "a", "shape": ["b"]}],
            "message": {"content": [1]},
            "logprobs": [{"top_logprobs": [{"token": 1}]}],
            "embeddings": [[None]],
            "_debug_info": {"rendered_template": 3},
            "total": 1e999,
            "completed": -5,
        },
    ),
}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    small = {kind: SMALL if limits.whole else SMALL_STREAM for kind, limits in server_module._LIMITS.items()}
    monkeypatch.setattr(server_module, "_LIMITS", small)
    monkeypatch.setattr(server_module, "_OTHER_LIMITS", SMALL)
    with fake_ollama() as running:
        yield running


@pytest.mark.parametrize("wrong", WRONG)
def test_every_call_ends(fake: Fake, tmp_path: Path, wrong: str) -> None:
    """All calls at once, each against a server that answers everything in this way."""
    file = tmp_path / "m.gguf"
    file.write_bytes(b"x" * 1000)
    for method in ("GET ", "POST ", "DELETE ", "HEAD "):
        fake.answers[method] = WRONG[wrong]
    if wrong != "nothing at all":
        fake.answers["HEAD "] = reply(404, "")  # a blob that is there would not be sent
    errors: dict[str, BaseException | object] = {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def run(name: str, call: Call) -> None:
        server = OllamaServer(fake.host)
        try:
            errors[name] = call(server, file)
        except BaseException as error:  # noqa: BLE001 - looked at below
            errors[name] = error
        server.close()

    threads = [threading.Thread(target=run, args=item, daemon=True) for item in CALLS.items()]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.1, started + 4 * SECONDS - time.monotonic()))
    hanging = set(CALLS) - set(errors)
    assert not hanging
    for name, found in errors.items():
        if isinstance(found, BaseException):
            assert isinstance(found, RegistryError), (name, found)
            assert len(str(found)) < 1500, name
        else:
            # of these the status is the whole answer
            assert name in ("upload", "copy", "delete") or is_empty(found), (name, found)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < KIB


def is_empty(found: object) -> bool:
    """Whether it claims nothing: made of an object that has none of the fields."""
    if isinstance(found, ShownModel):
        return not found.modelfile and found.sha256 is None
    if isinstance(found, ChatAnswer):
        return not found.text and not found.done_reason
    return found in ((), None)


def show(digest: str) -> Answer:
    modelfile = f"FROM /blobs/sha256-{digest}\nTEMPLATE T\n"
    return reply(200, {"modelfile": modelfile, "template": "T", "parameters": ""})


def test_a_lie_about_the_digest(fake: Fake, tmp_path: Path) -> None:
    """The server says that it has the blob, makes a model without an error, and shows another file."""
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"x")
    fake.answers.update(
        {
            "GET /api/version": reply(200, {"version": "0.33.0"}),
            "HEAD /api/blobs/": reply(200, ""),
            "POST /api/create": stream({"status": "success"}),
            "POST /api/show": show("1" * 64),
            "DELETE /api/delete": reply(200, ""),
        }
    )
    server = OllamaServer(fake.host)
    with (
        pytest.raises(ServerResponseError),
        stage_model(server, gguf, SHA256, {"template": "T"}) as staged,
    ):
        assert staged.findings
        raise ServerResponseError("staged with a finding")
    assert fake.requests[-1][0] == "DELETE /api/delete"


def test_what_cannot_be_deleted_is_said(fake: Fake, tmp_path: Path) -> None:
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"x")
    fake.answers.update(
        {
            "GET /api/version": reply(200, {"version": "0.33.0"}),
            "HEAD /api/blobs/": reply(200, ""),
            "POST /api/create": stream({"status": "working"}),
            "POST /api/show": show(SHA256),
            "DELETE /api/delete": reply(500, {"error": "no"}),
        }
    )
    events: list[Event] = []
    with (
        pytest.raises(ServerResponseError, match="without success"),
        stage_model(OllamaServer(fake.host), gguf, SHA256, {}, on_event=events.append),
    ):
        pass
    said = [event.message for event in events if isinstance(event, Note)]
    assert any("stays on the server" in one and "ollama rm ggufpack-tmp-" in one for one in said)


# --- OpenAI endpoints ---------------------------------------------------------

SSE = b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n'
WRONG_ENDPOINT: dict[str, Answer] = {
    **{name: answer for name, answer in WRONG.items() if "wrong types" not in name},
    "events for ever": flood(SSE * 1000),
    "events, slowly": flood(SSE, 0.05),
    "events of wrong types": reply(200, 'data: [1]\n\ndata: {"choices": 3}\n\n', "text/event-stream"),
    "a text that is none": reply(200, {"choices": [{"message": {"content": [1]}}]}),
    "logprobs that are none": reply(
        200, {"choices": [{"message": {"content": "x"}, "logprobs": {"content": [{"logprob": "x"}]}}]}
    ),
    "a call that is none": reply(200, {"choices": [{"message": {"tool_calls": [{"function": 3}]}}]}),
}


@pytest.mark.parametrize("wrong", WRONG_ENDPOINT)
def test_an_endpoint(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    monkeypatch.setattr(openai_endpoint, "LIMITS", SMALL)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with fake_ollama() as fake:
        models = {"data": [{"id": "m", "owned_by": "vllm"}]}
        for listing in (WRONG_ENDPOINT[wrong], reply(200, models)):
            fake.answers.update({"POST ": WRONG_ENDPOINT[wrong], "GET ": listing})
            for call in ("chat", "stream", "show_prompt"):
                started = time.monotonic()
                with OpenAIEndpoint(fake.host, "m") as endpoint, pytest.raises(GgufpackError) as caught:
                    getattr(endpoint, call)(HI, **({} if call == "show_prompt" else {"max_tokens": 5}))
                assert caught.value.exit_code == 6, (wrong, call)
                assert len(str(caught.value)) < 1500
                assert time.monotonic() - started < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < KIB


def test_the_limits_are_those_of_the_request_that_runs(fake: Fake) -> None:
    """Another request between two lines of a stream changes nothing about either's time."""
    lines = [json.dumps({"status": str(number)}).encode() + b"\n" for number in range(6)]

    def slow(handler: BaseHTTPRequestHandler) -> None:
        head(handler)
        for line in [*lines, b'{"status": "success"}\n']:
            handler.wfile.write(line)
            handler.wfile.flush()
            time.sleep(0.15)  # 1 s in all: longer than silent, and each line is new

    fake.answers["POST /api/pull"] = slow
    fake.answers["GET /api/version"] = reply(200, {"version": "0.33.0"})
    other = OllamaServer(fake.host)
    transfer(OllamaServer(fake.host), "pull", parse("r.lan/a/m"), on_event=lambda _event: other.check())
