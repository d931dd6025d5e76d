"""A registry that lies, hangs, redirects or floods, as ``ggufpack push`` and ``pull`` meet it.

ggufpack itself asks a registry for the manifest only; blobs go between it and the Ollama server, which is
played here, and real in tests/integration/test_hostile_registry.py. The limits are made small here; what
they are in use is in registry/manifest.py and registry/server.py.
"""

from __future__ import annotations

import json
import resource
import socket
import struct
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from click.testing import CliRunner

import ggufpack
from ggufpack.cli.main import main
from ggufpack.errors import (
    GgufpackError,
    RemoteManifestError,
    RemoteRegistryError,
    VerificationError,
)
from ggufpack.registry import manifest as manifest_module
from ggufpack.registry import server as server_module
from ggufpack.registry.findings import REGISTRY_NOT_READ
from ggufpack.registry.limits import Limits
from ggufpack.registry.manifest import fetch_manifest
from ggufpack.registry.names import parse
from tests.unit.registry.loopback import Answer, Fake, fake_ollama, reply, stream
from tests.unit.test_hostile_server import (
    SMALL,
    SMALL_STREAM,
    WRONG,
    big_head,
    bomb,
    flood,
    head_without_end,
    raw,
    redirect,
    silent,
)

GGUF, CONFIG = "a" * 64, "c" * 64
SECONDS = 5.0
KIB = 150 * 1024
PATH = "/v2/team/m/manifests/one"
EVIL = "\x1b]0;owned\x07\x1b[2J"


def layer(digest: str = f"sha256:{GGUF}", size: object = 7, **more: object) -> dict[str, object]:
    return {"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": size, **more}


def manifest(*layers: object, config: object = None) -> dict[str, object]:
    return {
        "schemaVersion": 2,
        "config": {"digest": f"sha256:{CONFIG}", "size": 3} if config is None else config,
        "layers": list(layers) or [layer()],
    }


GOOD = json.dumps(manifest())


def reset(handler: BaseHTTPRequestHandler) -> None:
    """The connection is reset, not closed."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()


def cut(body: bytes, promised: int, *, by_reset: bool = False) -> Answer:
    """A body that ends before its Content-Length."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(promised))
        handler.end_headers()
        handler.wfile.write(body)
        if by_reset:
            reset(handler)

    return send


def encoded(name: str) -> Answer:
    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Encoding", name)
        handler.end_headers()
        handler.wfile.write(GOOD.encode())

    return send


def head_then_nothing(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    time.sleep(2)


# what cannot be read from here: a finding says so, and the Ollama server has to judge
UNREAD: dict[str, Answer] = {
    "silence": silent,
    "a head that never ends": head_without_end,
    "megabytes of headers": big_head,
    "one header of 10 MB": raw(b""),  # set below
    "a head, then silence": head_then_nothing,
    "a byte at a time": flood(b"{", 0.05),
    "a bomb": bomb,
    "br": encoded("br"),
    "zstd": encoded("zstd"),
    "a reset at once": reset,
    "a reset in the body": cut(b"{", 100, by_reset=True),
    "a body cut short": cut(GOOD.encode(), len(GOOD) + 100),
    "a redirect to a file": redirect("file:///etc/passwd", 302),
    "a redirect to gopher": redirect("gopher://127.0.0.1:1/_x", 301),
    "a redirect to no address": redirect("http://[::1", 307),
    "a redirect to itself": redirect(PATH, 302),
    "a redirect to nobody": redirect("http://127.0.0.1:9/x", 302),
    "escapes in a redirect": redirect(f"foo://{EVIL}", 302),
    "a page to sign in": reply(200, "<html>Sign in</html>", "text/html"),
    "an error of an object": reply(200, {"errors": [{"code": EVIL}]}),
    "401 with another host": reply(401, ""),  # set below
    "403": reply(403, EVIL),
    "500 and a megabyte": reply(500, "x" * (1 << 20)),
    "503": reply(503, "later"),
}


def huge_header(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(160):
        handler.wfile.write(b"x" * 65536)


def elsewhere(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(401)
    handler.send_header("WWW-Authenticate", 'Bearer realm="file:///etc/passwd",service="x",scope="y"')
    handler.send_header("Content-Length", "0")
    handler.end_headers()


UNREAD["one header of 10 MB"] = huge_header
UNREAD["401 with another host"] = elsewhere

# what is a manifest, and wrong: nobody should pull it
REFUSED: dict[str, Answer] = {
    "a digest with a path": reply(200, manifest(layer("sha256:../../../../etc/passwd"))),
    "a digest that is a path": reply(200, manifest(layer("../../x"))),
    "a digest too short": reply(200, manifest(layer("sha256:abc"))),
    "a digest too long": reply(200, manifest(layer(f"sha256:{GGUF}0"))),
    "a digest and a line": reply(200, manifest(layer(f"sha256:{GGUF}\n"))),
    "a digest in capitals": reply(200, manifest(layer(f"sha256:{'A' * 64}"))),
    "another algorithm": reply(200, manifest(layer(f"md5:{GGUF}"))),
    "no digest": reply(200, manifest({"size": 3})),
    "a size below zero": reply(200, manifest(layer(size=-1))),
    "a size of 2^63": reply(200, manifest(layer(size=1 << 63))),
    "a size of 4000 digits": reply(200, GOOD.replace(": 7", f": {'7' * 4000}")),
    "a size of 5000 digits": reply(200, GOOD.replace(": 7", f": {'7' * 5000}")),
    "a size that is half": reply(200, manifest(layer(size=7.5))),
    "a size that is true": reply(200, manifest(layer(size=True))),
    "two sizes of one blob": reply(200, manifest(layer(size=7), layer(size=8))),
    "a layer that is a list": reply(200, manifest([])),
    "a configuration that is none": reply(200, manifest(config=[1])),
    "escapes in a layer": reply(200, manifest(layer(EVIL))),
    "100,000 layers": reply(200, manifest(*[layer()] * 100_000)),
    "100 MB": flood(b'{"layers": [' + b" " * (1 << 20)),
    "deep nesting": reply(200, '{"layers": ' + "[" * 100_000),
    "deep nesting in objects": reply(200, '{"a": ' * 100_000),
    "layers twice": reply(200, GOOD[:-1] + ', "layers": []}'),
    "layers and Layers": reply(200, GOOD[:-1] + ', "Layers": []}'),
    "a digest twice": reply(200, GOOD.replace('"size": 7', f'"size": 7, "digest": "sha256:{CONFIG}"')),
    "a digest and a DIGEST": reply(200, GOOD.replace('"size": 7', f'"size": 7, "DIGEST": "sha256:{CONFIG}"')),
    "half an object": reply(200, GOOD[:-5]),
    "not UTF-8": raw(b'{"layers": "\xff"}'),
}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    monkeypatch.setattr(manifest_module, "_LIMITS", Limits(silent=5, size=None, whole=5))
    with fake_ollama() as running:
        yield running


@pytest.fixture
def hurried(registry: Fake, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """The registry, for which there is less time."""
    monkeypatch.setattr(manifest_module, "_LIMITS", Limits(silent=0.3, size=None, whole=0.5))
    return registry


@pytest.fixture
def ollama(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    """An Ollama server that pulls and pushes whatever it is told to."""
    small = {kind: SMALL if limits.whole else SMALL_STREAM for kind, limits in server_module._LIMITS.items()}
    monkeypatch.setattr(server_module, "_LIMITS", small)
    with fake_ollama() as fake:
        there: list[str] = []

        def show(handler: BaseHTTPRequestHandler) -> None:
            answer = reply(200, {"modelfile": f"FROM /blobs/sha256-{GGUF}\n"}) if there else reply(404, {})
            answer(handler)

        def pull(handler: BaseHTTPRequestHandler) -> None:
            there.append("pulled")
            stream({"status": "pulling", "digest": f"sha256:{GGUF}", "total": 7}, {"status": "success"})(
                handler
            )

        def delete(handler: BaseHTTPRequestHandler) -> None:
            there.clear()
            reply(200, "")(handler)

        fake.answers.update(
            {
                "GET /api/version": reply(200, {"version": "0.33.0"}),
                "GET /api/tags": reply(200, {"models": []}),
                "POST /api/show": show,
                "POST /api/pull": pull,
                "DELETE /api/delete": delete,
            }
        )
        yield fake


def name_at(registry: Fake) -> str:
    return f"{registry.host.removeprefix('http://')}/team/m:one"


def asked(ollama: Fake) -> list[str]:
    return [key for key, _body in ollama.requests]


@pytest.mark.parametrize("wrong", UNREAD)
def test_what_cannot_be_read_is_said(hurried: Fake, wrong: str) -> None:
    registry = hurried
    registry.answers["GET "] = UNREAD[wrong]
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(RemoteRegistryError) as caught:
        fetch_manifest(parse(name_at(registry)), insecure=True)
    assert type(caught.value) is RemoteRegistryError
    assert caught.value.exit_code == 6
    assert len(str(caught.value)) < 600
    assert time.monotonic() - started < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < KIB
    assert len(registry.requests) <= 1 + manifest_module._REDIRECTS


@pytest.mark.parametrize("wrong", REFUSED)
def test_no_server_is_told_to_pull_a_wrong_manifest(registry: Fake, ollama: Fake, wrong: str) -> None:
    registry.answers["GET "] = REFUSED[wrong]
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(RemoteManifestError, match="no manifest of a model") as caught:
        ggufpack.pull(name_at(registry), host=ollama.host, insecure=True)
    assert caught.value.exit_code == 6
    assert len(str(caught.value)) < 600
    assert time.monotonic() - started < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < KIB
    assert "POST /api/pull" not in asked(ollama)


@pytest.mark.parametrize("wrong", [name for name in WRONG if name not in UNREAD])
def test_whatever_a_registry_answers_is_an_error_of_ours(hurried: Fake, wrong: str) -> None:
    hurried.answers["GET "] = WRONG[wrong]
    started = time.monotonic()
    with pytest.raises(RemoteRegistryError):
        fetch_manifest(parse(name_at(hurried)), insecure=True)
    assert time.monotonic() - started < SECONDS


def test_a_rerun_against_an_honest_registry_completes(registry: Fake, ollama: Fake) -> None:
    registry.answers["GET "] = REFUSED["layers and Layers"]
    with pytest.raises(RemoteManifestError):
        ggufpack.pull(name_at(registry), host=ollama.host, insecure=True)
    registry.answers["GET "] = reply(200, GOOD)
    got = ggufpack.pull(name_at(registry), host=ollama.host, insecure=True)
    assert got.gguf == GGUF
    assert dict(got.layers) == {f"sha256:{GGUF}": 7, f"sha256:{CONFIG}": 3}


def test_what_was_not_read_is_a_finding(registry: Fake, ollama: Fake) -> None:
    registry.answers["GET "] = UNREAD["a page to sign in"]
    got = ggufpack.pull(name_at(registry), host=ollama.host, insecure=True)
    assert [finding.id for finding in got.findings] == [REGISTRY_NOT_READ]
    assert got.manifest is None


def test_another_gguf_than_the_manifest_says(registry: Fake, ollama: Fake) -> None:
    registry.answers["GET "] = reply(200, manifest(layer(f"sha256:{'b' * 64}")))
    with pytest.raises(RemoteRegistryError, match="another GGUF"):
        ggufpack.pull(name_at(registry), host=ollama.host, insecure=True)
    assert asked(ollama)[-1] == "DELETE /api/delete"
    registry.answers["GET "] = reply(503, "")
    with pytest.raises(VerificationError, match="another model than expected"):
        ggufpack.pull(name_at(registry), host=ollama.host, insecure=True, expect="b" * 64)
    assert asked(ollama)[-1] == "DELETE /api/delete"


def test_a_redirect_that_ends_is_followed(registry: Fake) -> None:
    registry.answers[f"GET {PATH}"] = redirect("/elsewhere", 307)
    registry.answers["GET /elsewhere"] = reply(200, GOOD)
    assert fetch_manifest(parse(name_at(registry)), insecure=True).gguf == GGUF


def test_a_redirect_takes_no_cookie_to_another_host(registry: Fake) -> None:
    seen: list[Any] = []

    def leave(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Set-Cookie", "session=secret; Path=/")
        handler.send_header("Location", f"{other.host.replace('127.0.0.1', 'localhost')}/x")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def arrive(handler: BaseHTTPRequestHandler) -> None:
        seen.append({key.lower() for key in handler.headers})
        reply(200, GOOD)(handler)

    with fake_ollama() as other:
        registry.answers["GET "], other.answers["GET "] = leave, arrive
        fetch_manifest(parse(name_at(registry)), insecure=True)
    assert seen
    assert not {"cookie", "authorization"} & seen[0]


@pytest.mark.parametrize("target", ["http://127.0.0.1:9/x", "file:///etc/passwd"])
def test_from_https_a_redirect_leads_to_https_only(target: str) -> None:
    import httpx

    from ggufpack.registry.limits import limit

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(302, headers={"Location": target}, request=request)

    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        limit(client, lambda _path: SMALL, redirects=3)
        with pytest.raises(httpx.RemoteProtocolError, match="only https is followed"):
            client.get("https://registry.example/v2/")


# --- what the server says of a transfer -----------------------------------------------


SAID: dict[str, Answer] = {
    "an error": stream({"error": f"pull model manifest: 500: {EVIL}"}),
    "an error status": reply(500, {"error": EVIL}),
    "a status": stream({"status": EVIL}),
    "other bytes": stream({"error": f"digest mismatch, file must be downloaded again: {EVIL}"}),
    "a redirect": redirect(f"http://x/{EVIL}"),
}


@pytest.mark.parametrize("said", SAID)
def test_no_text_steers_the_terminal(registry: Fake, ollama: Fake, said: str) -> None:
    registry.answers["GET "] = reply(401, EVIL)
    ollama.answers["POST /api/pull"] = SAID[said]
    done = CliRunner().invoke(main, ["pull", name_at(registry), "--host", ollama.host, "--insecure"])
    assert done.exit_code == 6, done.output
    assert "\x1b" not in done.output
    assert "\x07" not in done.output
    assert "Traceback" not in done.output


def test_a_push_after_which_the_registry_serves_a_wrong_manifest(registry: Fake, ollama: Fake) -> None:
    shown = reply(200, {"modelfile": f"FROM /blobs/sha256-{GGUF}\n"})
    digest = "d" * 64
    ollama.answers["POST /api/show"] = shown
    ollama.answers["GET /api/tags"] = reply(
        200, {"models": [{"model": name, "digest": digest} for name in ("m:latest", name_at(registry))]}
    )
    ollama.answers["POST /api/push"] = stream({"status": "success"})
    registry.answers["GET "] = REFUSED["a digest with a path"]
    with pytest.raises(GgufpackError) as caught:
        ggufpack.push("m", to=name_at(registry), host=ollama.host, insecure=True)
    assert isinstance(caught.value, RemoteManifestError)
