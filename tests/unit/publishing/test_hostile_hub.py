"""A Hub that lies, hangs, redirects or floods: one sentence, soon, and never the token in it.

The transfers are huggingface_hub's, over its real HTTP client; the limits are made small here, and are in
publishing/hub_client.py.
"""

from __future__ import annotations

import hashlib
import json
import resource
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import pytest
from click.testing import CliRunner
from huggingface_hub.utils import _http

from ggufpack.cli.main import main
from ggufpack.errors import HubError
from ggufpack.publishing import hub as hub_module
from ggufpack.publishing import hub_client
from ggufpack.publishing.contents import RepoFile
from ggufpack.publishing.hub import Uploaded, upload
from ggufpack.registry.limits import Limits
from ggufpack.spec import Event, Note
from tests.support.hub_server import TOKEN, HubState, running_hub
from tests.support.packages import make_package
from tests.unit.registry.loopback import Answer, Fake, fake_ollama, reply
from tests.unit.test_hostile_registry import (
    EVIL,
    cut,
    encoded,
    head_then_nothing,
    huge_header,
    reset,
)
from tests.unit.test_hostile_server import big_head, bomb, flood, head_without_end, raw, redirect, silent

REPO = "anna/fox-GGUF"
SECONDS = 8.0
KIB = 200 * 1024
PHASES = {
    "create": "POST /api/repos/create",
    "info": f"GET /api/models/{REPO}",
    "preupload": "/preupload/",
    "batch": "/objects/batch",
    "send": "PUT /lfs/",
    "verify": "/lfs/verify",
    "card": "/api/validate-yaml",
    "commit": "/commit/",
    "look": "/revision/",
}
Upload = Callable[[], Uploaded]


def failing(status: int, text: str, **headers: str) -> Answer:
    def send(handler: BaseHTTPRequestHandler) -> None:
        body = json.dumps({"error": text}).encode()
        handler.send_response(status)
        for name, value in {"X-Error-Message": text, **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return send


SHAPES = {
    "url": [3],
    "id": {"a": 1},
    "sha": 7,
    "private": "x",
    "siblings": [3, {"rfilename": None}],
    "files": [{"path": 3}],
    "objects": [{"oid": 1, "size": "x"}],
    "warnings": 3,
    "commitUrl": 3,
    "commitOid": ["x"],
}
WRONG: dict[str, Answer] = {
    "silence": silent,
    "a head that never ends": head_without_end,
    "a head, then silence": head_then_nothing,
    "megabytes of headers": big_head,
    "a header of 10 MB": huge_header,
    "a byte at a time": flood(b" ", 0.05),
    "a body without an end": flood(b" " * 65536),
    "a bomb": bomb,
    "br": encoded("br"),
    "a reset": reset,
    "a body cut short": cut(b"{", 100),
    "a redirect to itself": redirect("/api/repos/create", 302),
    "a redirect to a file": redirect("file:///etc/passwd"),
    "a redirect to no address": redirect("http://[::1", 302),
    "an array": reply(200, "[1]"),
    "null": reply(200, "null"),
    "nothing": reply(200, ""),
    "a page": reply(200, "<html>Sign in</html>", "text/html"),
    "deep nesting": reply(200, '{"a":' * 100_000),
    "not UTF-8": raw(b'{"url": "\xff"}'),
    "an empty object": reply(200, {}),
    "fields of wrong types": reply(200, SHAPES),
    "400 with escapes and the token": failing(400, f"{EVIL.encode().hex()} {TOKEN} no"),
    "401 with the token": failing(401, f"Bearer {TOKEN} is bad"),
    "500 with a list": reply(500, "[1]"),
    "500 and a megabyte": reply(500, {"error": f"{EVIL}{TOKEN}" * 30_000}),
    "503 for ever, later": failing(503, TOKEN, Retry_After="999999999"),
    "429 for ever, later": failing(429, "slow", RateLimit='"api";r=0;t=999999999'),
}


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that huggingface_hub wanted to wait; it tries twice, not six times."""
    waited: list[float] = []
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=waited.append))
    monkeypatch.setitem(_http.http_backoff.__kwdefaults__ or {}, "max_retries", 1)
    return waited


def in_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    for name in ("_QUESTION", "_STORED"):
        monkeypatch.setattr(hub_client, name, Limits(silent=seconds, size=1 << 20, whole=seconds))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> Iterator[HubState]:
    in_time(monkeypatch, 5.0)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with running_hub() as state:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", state.endpoint)
        yield state


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def again(hub: HubState, tmp_path: Path, events: list[Event]) -> Upload:
    gguf = tmp_path / "fox-Q8_0.gguf"
    gguf.write_bytes(b"GGUF" * 100)
    digest = hashlib.sha256(gguf.read_bytes()).hexdigest()
    card = b"---\nlicense: mit\n---\n"
    files = [RepoFile(gguf.name, gguf, digest), RepoFile("README.md", card)]

    def run() -> Uploaded:
        return upload(REPO, files, "m", on_event=events.append)

    return run


def is_whole(hub: HubState) -> bool:
    repository = hub.repositories.get(REPO)
    files = repository.files if repository else {}
    return files.get("fox-Q8_0.gguf") == b"GGUF" * 100 and "README.md" in files


def said(events: list[Event]) -> str:
    return "\n".join(event.message for event in events if isinstance(event, Note))


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_answer_in_each_phase(
    hub: HubState,
    again: Upload,
    events: list[Event],
    waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
    wrong: str,
) -> None:
    """In every third phase of an upload, begun at another one each time: all nine with all took minutes.

    What is not an error is an upload that is really there.
    """
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    in_time(monkeypatch, 0.25)
    first = list(WRONG).index(wrong) % 3
    for phase, part in list(PHASES.items())[first::3]:
        hub.repositories.clear()
        hub.objects.clear()
        hub.answers = {part: WRONG[wrong]}
        started = time.monotonic()
        try:
            again()
        except HubError as error:
            assert error.exit_code == 6
            assert error.action
            assert len(str(error)) < 700, phase
            assert TOKEN not in str(error), phase
            assert "\n" not in error.problem
        else:
            # of these the status is the whole answer
            assert phase in ("send", "verify", "card", "look") or is_whole(hub), phase
            assert is_whole(hub), phase
        assert time.monotonic() - started < SECONDS, phase
    assert TOKEN not in said(events)
    assert all(wait <= hub_client._MOST_WAIT + 1 for wait in waits)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < KIB
    in_time(monkeypatch, 5.0)
    hub.answers = {}
    again()
    assert is_whole(hub)


# --- lies -------------------------------------------------------------------------------


def committed(oid: object, state: HubState, do: Callable[[dict[str, bytes]], object]) -> Answer:
    """Says that it committed; what it did is ``do``."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        repository = state.repositories[REPO]
        for content in state.objects.values():
            repository.files["fox-Q8_0.gguf"] = content
            repository.lfs.add("fox-Q8_0.gguf")
        repository.files["README.md"] = b"---\nlicense: mit\n---\n"
        do(repository.files)
        repository.messages.append("m")
        found = repository.sha if oid is None else oid
        reply(200, {"commitUrl": f"{state.endpoint}/{REPO}/commit/x", "commitOid": found})(handler)

    return send


def nothing(_files: dict[str, bytes]) -> None:
    pass


LIES: dict[str, tuple[object, Callable[[dict[str, bytes]], object], str]] = {
    "another commit": ("0" * 40, nothing, "shows another commit"),
    "a commit that is a path": ("../../../x", nothing, "names no commit"),
    "a commit with escapes": (EVIL, nothing, "names no commit"),
    "no commit": ({}, nothing, "names no commit"),
    "no GGUF": (None, lambda files: files.pop("fox-Q8_0.gguf"), "has no fox-Q8_0.gguf"),
    "another GGUF": (None, lambda files: files.update({"fox-Q8_0.gguf": b"x"}), "has another fox-Q8_0.gguf"),
    "another card": (None, lambda files: files.update({"README.md": b"x"}), "has another README.md"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_commit_that_is_not_what_it_says(hub: HubState, again: Upload, lie: str) -> None:
    oid, do, words = LIES[lie]
    hub.answers = {"/commit/": committed(oid, hub, do)}
    with pytest.raises(HubError, match=words):
        again()
    hub.answers = {"/commit/": committed(None, hub, nothing)}
    again()


def test_a_template_that_was_not_deleted(hub: HubState, again: Upload) -> None:
    again()
    hub.repositories[REPO].files["template"] = b"evil"
    hub.answers = {"/commit/": committed(None, hub, nothing)}
    with pytest.raises(HubError, match="still has template"):
        again()


@pytest.mark.parametrize(
    "mode", [{"uploadMode": "regular", "shouldIgnore": False}, {"uploadMode": "lfs", "shouldIgnore": True}]
)
def test_a_large_file_is_not_put_into_the_commit(
    hub: HubState, again: Upload, monkeypatch: pytest.MonkeyPatch, mode: dict[str, object]
) -> None:
    """huggingface_hub would read it into memory whole, or leave it out without a word."""
    monkeypatch.setattr(hub_module, "_MOST_REGULAR", 100)
    files = [{"path": name, **mode} for name in ("fox-Q8_0.gguf", "README.md")]
    hub.answers = {"/preupload/": reply(200, {"files": files})}
    with pytest.raises(HubError, match="as a large file"):
        again()
    assert hub.repositories[REPO].messages == ["initial commit"]


# --- the token --------------------------------------------------------------------------


@pytest.fixture
def other() -> Iterator[Fake]:
    with fake_ollama() as running:
        yield running


def keeping(seen: list[dict[str, str]], answer: Answer) -> Answer:
    def send(handler: BaseHTTPRequestHandler) -> None:
        seen.append({key.lower(): value for key, value in handler.headers.items()})
        answer(handler)

    return send


@pytest.mark.parametrize("phase", ["create", "info", "preupload", "batch", "commit"])
def test_a_redirect_takes_no_token_along(hub: HubState, other: Fake, again: Upload, phase: str) -> None:
    seen: list[dict[str, str]] = []
    other.answers = {method: keeping(seen, reply(404, {})) for method in ("GET ", "POST ")}
    hub.answers = {PHASES[phase]: redirect(f"{other.host}/x", 307)}
    with pytest.raises(HubError):
        again()
    assert seen
    assert all("authorization" not in headers and TOKEN not in str(headers) for headers in seen)


def test_a_storage_elsewhere_gets_no_token(hub: HubState, again: Upload) -> None:
    seen: list[dict[str, str]] = []
    digest = hashlib.sha256(b"GGUF" * 100).hexdigest()
    server = _Put(seen)
    actions = {"upload": {"href": f"{server.host}/put"}}
    batch = {"transfer": "basic", "objects": [{"oid": digest, "size": 400, "actions": actions}]}
    hub.answers = {"/objects/batch": reply(200, batch)}
    with server, pytest.raises(HubError):
        again()  # the stand-in does not have it, and says so at the commit
    assert seen
    assert "authorization" not in seen[0]


class _Put:
    """Takes a PUT, and keeps its headers."""

    def __init__(self, seen: list[dict[str, str]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                seen.append({key.lower(): value for key, value in self.headers.items()})
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> _Put:
        self._thread.start()
        return self

    def __exit__(self, *_args: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.mark.parametrize("href", ["file:///etc/passwd", "gopher://127.0.0.1/x", "x", "http://[::1", 3, None])
def test_a_storage_that_is_no_address(hub: HubState, again: Upload, href: object) -> None:
    digest = hashlib.sha256(b"GGUF" * 100).hexdigest()
    item = {"oid": digest, "size": 400, "actions": {"upload": {"href": href}}}
    hub.answers = {"/objects/batch": reply(200, {"transfer": "basic", "objects": [item]})}
    with pytest.raises(HubError):
        again()


# --- what is shown ----------------------------------------------------------------------


def test_no_text_of_the_hub_steers_the_terminal(hub: HubState, tmp_path: Path) -> None:
    """Headers that huggingface_hub prints, warnings about the card, an error, a name of a file."""
    _http._WARNED_TOPICS.clear()
    make_package(tmp_path / "p", ("Q8_0",))
    words = ["publish", str(tmp_path / "p"), "--to", f"hf:{REPO}"]
    warning = reply(400, {"warnings": [{"message": f"{EVIL}{TOKEN}"}], "errors": [{"message": EVIL + TOKEN}]})
    named = reply(200, {"id": REPO, "private": True, "siblings": [{"rfilename": f"{EVIL}.gguf"}]})
    header = failing(403, f"say {TOKEN}", X_HF_Warning=f"t; \x1b[2Jread this {TOKEN}")
    for part, answer, code in (("card", warning, 6), ("info", named, 2), ("batch", header, 6)):
        hub.answers = {PHASES[part]: answer}
        done = CliRunner().invoke(main, words)
        assert done.exit_code == code, done.output
        assert "\x1b" not in done.output
        assert TOKEN not in done.output
        assert "Traceback" not in done.output
    assert "read this …" in done.stderr
