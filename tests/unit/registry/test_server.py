"""Against a loopback server that misbehaves; the real one is in integration/test_registry.py."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from ggufpack.errors import (
    ServerDiskFullError,
    ServerResponseError,
    ServerUnreachableError,
    ServerVersionError,
)
from ggufpack.registry import OllamaServer, stage_model
from ggufpack.registry.findings import NATIVE_UNSUPPORTED
from tests.support.ollama_server import free_port
from tests.unit.registry.loopback import Fake, fake_ollama, reply, stream

SHA256 = "0" * 64
# what Ollama 0.33.0 answered when its store was on a full tmpfs (integration/test_registry.py makes it again)
DISK_FULL = "write /models/blobs/sha256-3243684259: no space left on device"


@pytest.fixture
def fake() -> Iterator[Fake]:
    with fake_ollama() as running:
        yield running


@pytest.mark.parametrize(
    ("text", "version"),
    [("0.33.0", (0, 33, 0)), ("0.33.0-rc2", (0, 33, 0)), ("0.0.0", None), ("dev", None), ("0.30", None)],
)
def test_an_unknown_version_is_none(fake: Fake, text: str, version: tuple[int, int, int] | None) -> None:
    fake.answers["GET /api/version"] = reply(200, {"version": text})
    assert OllamaServer(fake.host).version == version


@pytest.mark.parametrize("answer", ["<html>", "[]", '{"name": "another program"}', '{"version": 3}'])
def test_something_that_is_not_ollama(fake: Fake, answer: str) -> None:
    fake.answers["GET /api/version"] = reply(200, answer)
    with pytest.raises(ServerResponseError):
        OllamaServer(fake.host).check()


def test_nobody_there() -> None:
    server = OllamaServer(f"127.0.0.1:{free_port()}")
    for call in (
        server.check,
        server.names,
        lambda: server.create("m", {}, {}),
        lambda: server.copy("m", "n"),
        lambda: server.has_blob(SHA256),
    ):
        with pytest.raises(ServerUnreachableError, match="ollama serve"):
            call()


def test_the_host_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "10.0.0.1")
    assert OllamaServer().host == "http://10.0.0.1:11434"
    assert OllamaServer("https://example.com").host == "https://example.com"
    with pytest.raises(ServerUnreachableError, match="not the address"):
        OllamaServer("host:port")


def test_an_error_inside_a_stream(fake: Fake) -> None:
    fake.answers["POST /api/create"] = stream({"status": "parsing GGUF"}, {"error": "invalid file magic"})
    seen: list[object] = []
    with pytest.raises(ServerResponseError, match="create m: invalid file magic"):
        OllamaServer(fake.host).create("m", {"m.gguf": SHA256}, {}, seen.append)
    assert seen == [{"status": "parsing GGUF"}]


@pytest.mark.parametrize("cut_off", [True, False])
def test_a_stream_without_success_is_not_success(fake: Fake, cut_off: bool) -> None:
    fake.answers["POST /api/create"] = stream({"status": "writing manifest"}, cut_off=cut_off)
    with pytest.raises(ServerResponseError):
        OllamaServer(fake.host).create("m", {}, {})


def test_create_says_everything(fake: Fake) -> None:
    fake.answers["POST /api/create"] = stream({"status": "success"})
    server = OllamaServer(fake.host)
    server.create("m", {"m.gguf": SHA256}, {"template": "T", "info": {"capabilities": ["tools"]}})
    (_, body) = fake.requests[-1]
    assert body == {
        "model": "m",
        "files": {"m.gguf": f"sha256:{SHA256}"},
        "template": "T",
        "info": {"capabilities": ["tools"]},
        "parameters": {"stop": []},
        "stream": True,
    }
    with pytest.raises(ValueError, match="quantize"):
        server.create("m", {}, {"quantize": "q4_0"})


def test_an_interrupted_create_waits_for_the_server(fake: Fake) -> None:
    finished: list[bool] = []

    def slow(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for part in ({"status": "parsing GGUF"}, {"status": "success"}):
            handler.wfile.write(json.dumps(part).encode() + b"\n")
            handler.wfile.flush()
            time.sleep(0.3)
        finished.append(True)

    def interrupt(_status: object) -> None:
        raise KeyboardInterrupt

    fake.answers["POST /api/create"] = slow
    with pytest.raises(KeyboardInterrupt):
        OllamaServer(fake.host).create("m", {}, {}, interrupt)
    assert finished, "the server was left while it worked"


def test_a_full_disk_in_an_upload_and_in_a_create(fake: Fake, tmp_path: Path) -> None:
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"x")

    def refuse(handler: BaseHTTPRequestHandler) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        reply(500, {"error": DISK_FULL})(handler)

    fake.answers["POST /api/blobs/"] = refuse
    fake.answers["POST /api/create"] = stream({"error": DISK_FULL})
    server = OllamaServer(fake.host)
    with pytest.raises(ServerDiskFullError, match=r"upload m\.gguf.*no space left") as caught:
        server.upload_blob(gguf, SHA256)
    assert "OLLAMA_MODELS" in (caught.value.action or "")
    with pytest.raises(ServerDiskFullError):
        server.create("m", {}, {})


def test_a_file_that_shrinks_while_it_is_sent(fake: Fake, tmp_path: Path) -> None:
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"x" * (3 << 20))

    def swallow(handler: BaseHTTPRequestHandler) -> None:
        while handler.rfile.read1(1 << 16):
            pass

    fake.answers["POST /api/blobs/"] = swallow

    def shrink(_done: int) -> None:
        gguf.write_bytes(b"")

    with pytest.raises(ServerResponseError, match=r"m\.gguf became shorter"):
        OllamaServer(fake.host).upload_blob(gguf, SHA256, shrink)


def test_a_file_that_grows_while_it_is_sent(fake: Fake, tmp_path: Path) -> None:
    """No more than was announced is sent, so that the server's answer about the digest arrives."""
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"x" * (3 << 19))

    def refuse(handler: BaseHTTPRequestHandler) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        reply(400, {"error": "digest mismatch"})(handler)

    def grow(_done: int) -> None:
        with gguf.open("ab") as file:
            file.write(b"y" * (1 << 20))

    fake.answers["POST /api/blobs/"] = refuse
    with pytest.raises(ServerResponseError, match="digest mismatch"):
        OllamaServer(fake.host).upload_blob(gguf, SHA256, grow)


def test_a_server_that_does_not_show_prompts(fake: Fake) -> None:
    fake.answers["GET /api/version"] = reply(200, {"version": "0.5.0"})
    fake.answers["POST /api/chat"] = reply(200, {"message": {"content": "Hello"}, "done": True})
    with pytest.raises(ServerVersionError, match=r"0\.5\.0"):
        OllamaServer(fake.host).render_chat("m", [{"role": "user", "content": "hi"}])
    assert fake.requests[-2][1]["options"] == {"num_predict": 1}


def test_native_on_a_server_that_cannot(fake: Fake, tmp_path: Path) -> None:
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"x")
    fake.answers["GET /api/version"] = reply(200, {"version": "0.29.1"})
    server = OllamaServer(fake.host)
    with pytest.raises(ServerVersionError) as caught, stage_model(server, gguf, SHA256, {}, native=True):
        pass
    assert caught.value.finding == NATIVE_UNSUPPORTED
    assert [key for key, _ in fake.requests] == ["GET /api/version"], "nothing may be uploaded"
    # a TEMPLATE does not need the newer server: the fake refuses only the upload
    with pytest.raises(ServerResponseError, match=r"upload m\.gguf"), stage_model(server, gguf, SHA256, {}):
        pass


def test_a_missing_model(fake: Fake) -> None:
    server = OllamaServer(fake.host)
    assert not server.exists("m")
    with pytest.raises(ServerResponseError, match="no such model"):
        server.show("m")
    fake.answers["POST /api/show"] = reply(500, {"error": "blob is damaged"})
    with pytest.raises(ServerResponseError, match="blob is damaged"):
        server.exists("m")
