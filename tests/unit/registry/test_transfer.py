"""What a server says about a push or a pull, as an error; a real exchange is in integration/test_push.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from ggufpack.errors import (
    ModelNotFoundError,
    RegistryError,
    RemoteRegistryError,
    ServerDiskFullError,
    ServerResponseError,
    ServerUnreachableError,
    SignInError,
    TransferBrokenError,
)
from ggufpack.registry import OllamaServer
from ggufpack.registry.manifest import fetch_manifest, parse_manifest
from ggufpack.registry.names import parse
from ggufpack.registry.transfer import transfer
from ggufpack.registry.transfer_errors import Direction, Transfer, is_passing, transfer_error
from ggufpack.spec import Event, Note, Progress
from tests.support.ollama_server import free_port
from tests.unit.registry.loopback import Fake, fake_ollama, reply, stream

Remote = RemoteRegistryError
PUSH = Transfer("push", parse("registry.lan:5000/team/m:one"), "http://127.0.0.1:11434")
PULL = replace(PUSH, direction="pull")
GGUF, CONFIG = "a" * 64, "b" * 64
MANIFEST: dict[str, Any] = {
    "schemaVersion": 2,
    "config": {"digest": f"sha256:{CONFIG}", "size": 5, "mediaType": "application/x"},
    "layers": [{"digest": f"sha256:{GGUF}", "size": 1000, "mediaType": "application/vnd.ollama.image.model"}],
}


# seen: Ollama 0.33.0 with the faults of support/registry_server.py, if not said otherwise
@pytest.mark.parametrize(
    ("message", "what", "kind", "words"),
    [
        ('Head "https://…": http: server gave HTTP response to HTTPS client', PUSH, Remote, "speaks http,"),
        ("…: tls: first record does not look like a TLS handshake", PUSH, Remote, "speaks http,"),
        # images.go: errInsecureProtocol; Go's net/http and nginx, of a server that speaks https
        ("insecure protocol http", PULL, Remote, "speaks http,"),
        ("400: Client sent an HTTP request to an HTTPS server.\n", PUSH, Remote, "speaks https"),
        ("400: The plain HTTP request was sent to HTTPS port", PUSH, Remote, "speaks https"),
        ("tls: failed to verify certificate: x509: unknown authority", PULL, Remote, "certificate"),
        ("http: no Location header in response", PULL, Remote, "Location header"),
        ('realm host "" does not match original host "r:5000"', PUSH, SignInError, "kind of sign-in"),
        ("open /root/.ollama/id_ed25519: no such file or directory", PUSH, SignInError, "has no key"),
        ('401: {"errors":[{"code":"UNAUTHORIZED"}]}', PUSH, SignInError, "does not know the key"),
        ("pull model manifest: 401: nobody", PULL, SignInError, "does not know the key"),
        ("unauthorized: access denied", PUSH, SignInError, 'may not push to the namespace "team"'),
        ("pull model manifest: unauthorized: access denied", PULL, SignInError, "may not pull from"),
        ("403: denied", PUSH, SignInError, "may not push to"),
        ("digest mismatch, file must be downloaded again: want sha256:1", PULL, Remote, "other bytes"),
        ("pull model manifest: file does not exist", PULL, ModelNotFoundError, "has no model"),
        ("file does not exist", PULL, Remote, "lacks a blob"),
        ("file does not exist", PUSH, Remote, "takes no push"),
        ("500: write /x: no space left on device", PUSH, Remote, "disk of the registry"),
        ("write /models/blobs/x: no space left on device", PULL, ServerDiskFullError, "disk of the Ollama"),
        ("dial tcp 127.0.0.1:5000: connect: connection refused", PUSH, Remote, "cannot reach"),
        ("dial tcp: lookup registry.lan: no such host", PULL, Remote, "cannot reach"),
        ("500: boom", PUSH, TransferBrokenError, "broke off"),
        ("pull model manifest: 503: later", PULL, TransferBrokenError, "broke off"),
        ("max retries exceeded: http status 500 Internal: boom", PUSH, TransferBrokenError, "broke off"),
        ('max retries exceeded: Patch "…": write: broken pipe', PUSH, TransferBrokenError, "broke off"),
        ("max retries exceeded: unexpected EOF", PULL, TransferBrokenError, "broke off"),
        ("context deadline exceeded", PULL, TransferBrokenError, "broke off"),
        ("something that nobody has seen", PUSH, ServerResponseError, "something that nobody has seen"),
        ("400: sha256:1234: 5000 is no size", PUSH, ServerResponseError, "5000 is no size"),
    ],
)  # fmt: skip
def test_every_sentence(message: str, what: Transfer, kind: type[RegistryError], words: str) -> None:
    error = transfer_error(message, what)
    assert type(error) is kind
    assert words in error.problem
    assert error.exit_code == 6
    if kind is not ServerResponseError:
        assert error.action


def test_where_the_key_goes() -> None:
    own = transfer_error("401: nobody", PUSH).action or ""
    assert "~/.ollama/id_ed25519.pub" in own
    assert "ollama.com" not in own
    public = replace(PUSH, name=parse("team/m"))
    assert "ollama signin" in (transfer_error("401: nobody", public).action or "")


def test_a_long_answer_is_shortened_at_its_beginning() -> None:
    error = transfer_error("500: " + "x" * 10_000 + " the cause", PUSH)
    assert len(error.problem) < 500
    assert error.problem.endswith("the cause)")


@pytest.mark.parametrize(
    ("message", "passing"),
    [
        ("500: boom", True),
        ("EOF", True),
        ("max retries exceeded: unexpected EOF", False),  # tried for a minute already
        ("404: nothing", False),
        ("401: nobody", False),
    ],
)
def test_what_is_tried_again(message: str, passing: bool) -> None:
    assert is_passing(message) is passing


# --- the stream ----------------------------------------------------------------------


@pytest.fixture
def fake() -> Iterator[Fake]:
    with fake_ollama() as running:
        yield running


DONE = (
    {"status": "retrieving manifest"},
    {"status": "pushing aaaa", "digest": f"sha256:{GGUF}", "total": 1000},
    {"status": "pushing aaaa", "digest": f"sha256:{GGUF}", "total": 1000, "completed": 1200},
    {"status": "success"},
)


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_progress_and_layers(fake: Fake, direction: Direction) -> None:
    fake.answers[f"POST /api/{direction}"] = stream(*DONE)
    events: list[Event] = []
    server = OllamaServer(fake.host)
    layers = transfer(server, direction, PUSH.name, insecure=True, on_event=events.append)
    assert layers == {f"sha256:{GGUF}": 1000}
    counts = [(event.done, event.total) for event in events if isinstance(event, Progress)]
    assert counts == [(0, None), (0, 1000), (1000, 1000), (0, None)]
    ((_, body),) = fake.requests
    assert body == {"model": str(PUSH.name), "insecure": True, "stream": True}


def test_a_model_of_many_tensors_has_no_blobs_to_compare(fake: Fake) -> None:
    fake.answers["POST /api/push"] = stream(
        {"status": "pushing model", "digest": "sha256:model", "total": 9, "completed": 9},
        {"status": "success"},
    )
    assert transfer(OllamaServer(fake.host), "push", PUSH.name) == {}


def test_an_error_inside_the_stream_is_tried_once_more_if_it_may_pass(fake: Fake) -> None:
    fake.answers["POST /api/push"] = stream(DONE[0], {"error": "500: boom"})
    events: list[Event] = []
    with pytest.raises(TransferBrokenError, match="500: boom"):
        transfer(OllamaServer(fake.host), "push", PUSH.name, on_event=events.append)
    assert len(fake.requests) == 2
    assert sum(isinstance(event, Note) for event in events) == 1
    fake.requests.clear()
    fake.answers["POST /api/push"] = stream(DONE[0], {"error": "unauthorized: access denied"})
    with pytest.raises(SignInError):
        transfer(OllamaServer(fake.host), "push", PUSH.name)
    assert len(fake.requests) == 1


def test_what_the_server_has_tried_for_long_is_not_tried_again(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen: a PUT that ends a blob, answered with 500, is repeated for 64 s; its error says only 500."""
    monkeypatch.setattr("ggufpack.registry.transfer._IDLE_SECONDS", 0.0)
    fake.answers["POST /api/push"] = stream(DONE[0], {"error": "500: boom"})
    with pytest.raises(TransferBrokenError):
        transfer(OllamaServer(fake.host), "push", PUSH.name)
    assert len(fake.requests) == 1


def test_an_error_status(fake: Fake) -> None:
    fake.answers["POST /api/pull"] = reply(400, {"error": "invalid model name"})
    with pytest.raises(ServerResponseError, match="invalid model name"):
        transfer(OllamaServer(fake.host), "pull", PUSH.name)


@pytest.mark.parametrize("cut_off", [True, False])
def test_a_stream_that_ends_early(fake: Fake, cut_off: bool) -> None:
    fake.answers["POST /api/push"] = stream(*DONE[:-1], cut_off=cut_off)
    with pytest.raises(ServerResponseError):
        transfer(OllamaServer(fake.host), "push", PUSH.name)


def test_no_server() -> None:
    with pytest.raises(ServerUnreachableError):
        transfer(OllamaServer(f"127.0.0.1:{free_port()}"), "push", PUSH.name)


# --- the registry's manifest ----------------------------------------------------------


def test_a_manifest() -> None:
    found = parse_manifest(json.dumps(MANIFEST).encode())
    assert found.gguf == GGUF
    assert found.layers == {f"sha256:{GGUF}": 1000, f"sha256:{CONFIG}": 5}
    assert parse_manifest(json.dumps(MANIFEST).encode() + b" ").digest != found.digest


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (reply(200, "<html>"), "no manifest"),
        (reply(200, []), "no manifest"),
        (reply(200, {}), "no manifest"),
        (reply(200, {**MANIFEST, "layers": 3}), "no manifest"),
        (reply(200, {**MANIFEST, "layers": [{"digest": "sha256:zz", "size": 1}]}), "no manifest"),
        (reply(200, {**MANIFEST, "config": {"digest": f"sha256:{GGUF}", "size": True}}), "no manifest"),
        (reply(200, "[" * 100_000), "no manifest"),
        (reply(200, " " * (5 << 20)), "more than"),
        (reply(401, {}), "HTTP status 401"),
        (reply(404, {}), "HTTP status 404"),
    ],
)
def test_what_is_no_manifest(fake: Fake, answer: Any, words: str) -> None:
    name = parse(f"{fake.host.removeprefix('http://')}/team/m:one")
    fake.answers["GET /v2/team/m/manifests/one"] = answer
    with pytest.raises(Remote, match=words):
        fetch_manifest(name, insecure=True)


def test_a_registry_that_is_not_there_has_no_manifest() -> None:
    with pytest.raises(Remote, match="cannot be read"):
        fetch_manifest(parse(f"127.0.0.1:{free_port()}/team/m"), insecure=True)
