"""Storage by URL that hangs, lies or floods, over a driver of fsspec's that speaks HTTP without any timeout.

The stand-in is a WebHDFS server as fsspec's driver asks it: LISTSTATUS, GETFILESTATUS and OPEN.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import fsspec
import pytest

from ggufpack.batch import storage, transfer, waiting
from ggufpack.errors import CheckpointFileError, CheckpointLayoutError, GgufpackError
from tests.unit.registry.loopback import Answer, Fake, fake_ollama, reply
from tests.unit.test_hostile_registry import EVIL, cut, head_then_nothing, huge_header, reset
from tests.unit.test_hostile_server import flood, head_without_end, raw, redirect

FILES = {"config.json": b"{}", "model.safetensors": b"x" * 1000}
SECONDS = 6.0

pytest.importorskip("requests")  # of the driver


def listed(**sizes: object) -> Answer:
    found = [
        {"pathSuffix": name.replace("_json", ".json"), "type": "FILE", "length": size}
        for name, size in sizes.items()
    ]
    return reply(200, {"FileStatuses": {"FileStatus": found}})


def honest(handler: BaseHTTPRequestHandler) -> None:
    parts = urlsplit(handler.path)
    asked = {key: value[0] for key, value in parse_qs(parts.query).items()}
    name = parts.path.rpartition("/")[2]
    if asked["op"] == "LISTSTATUS":
        files = [{"pathSuffix": key, "type": "FILE", "length": len(value)} for key, value in FILES.items()]
        reply(200, {"FileStatuses": {"FileStatus": files}})(handler)
    elif asked["op"] == "GETFILESTATUS":
        kind = {"type": "FILE", "length": len(FILES[name])} if name in FILES else {"type": "DIRECTORY"}
        reply(200, {"FileStatus": {"length": 0, **kind}})(handler)
    else:
        start = int(asked["offset"])
        raw(FILES[name][start : start + int(asked["length"])])(handler)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    monkeypatch.setattr(waiting, "MOST_SECONDS", 0.5)
    monkeypatch.setattr(waiting, "_LOOK_SECONDS", 0.05)
    with fake_ollama() as running:
        running.answers["GET "] = honest
        yield running


def url_of(store: Fake) -> str:
    return f"webhdfs://{store.host.removeprefix('http://')}/run/checkpoint-5"


def only(operation: str, answer: Answer) -> Answer:
    def send(handler: BaseHTTPRequestHandler) -> None:
        (answer if f"op={operation}" in handler.path else honest)(handler)

    return send


LIST: dict[str, Answer] = {
    "silence": lambda handler: time.sleep(2),
    "a head that never ends": head_without_end,
    "a head, then silence": head_then_nothing,
    "a header of 10 MB": huge_header,
    "a byte at a time": flood(b" ", 0.05),
    "a reset": reset,
    "a body cut short": cut(b"{", 100),
    "a redirect to itself": redirect("/webhdfs/v1/run/checkpoint-5?op=LISTSTATUS", 307),
    "a redirect to a file": redirect("file:///etc/passwd", 302),
    "null": reply(200, "null"),
    "deep nesting": reply(200, "[" * 100_000),
    "an error with escapes": reply(
        403, {"RemoteException": {"message": EVIL, "exception": "SecurityException"}}
    ),
    "a size of text": listed(config_json="x"),
    "a size of a list": listed(config_json=[1]),
    "a size below zero": listed(config_json=-1),
    "a size of 2^63": listed(config_json=1 << 63),
    "no size": reply(200, {"FileStatuses": {"FileStatus": [{"pathSuffix": "a", "type": "FILE"}]}}),
    "a name that leads out": listed(**{"../../x": 1}),
    "a name that is absolute": listed(**{"/etc/x": 1}),
    "a name with a zero byte": listed(**{"a\0b": 1}),
    "nothing": listed(),
}
OPEN: dict[str, Answer] = {
    "silence": lambda handler: time.sleep(2),
    "a head, then silence": head_then_nothing,
    "a byte at a time": flood(b"x", 0.05),
    "a reset": reset,
    "a body cut short": cut(b"x", 100),
    "nothing": raw(b""),
    "500": reply(500, "boom"),
    "a redirect to a file": redirect("file:///etc/passwd", 307),
    "a redirect to itself": redirect("http://127.0.0.1:9/x", 307),
}


@pytest.mark.parametrize("wrong", LIST)
def test_a_listing(store: Fake, tmp_path: Path, wrong: str) -> None:
    store.answers["GET "] = only("LISTSTATUS", LIST[wrong])
    started = time.monotonic()
    with pytest.raises(GgufpackError) as caught:
        transfer.fetch(url_of(store), tmp_path)
    assert caught.value.exit_code in (2, 3)
    assert "\n" not in caught.value.problem
    assert time.monotonic() - started < SECONDS
    assert list(tmp_path.rglob("*.json")) == []
    store.answers["GET "] = honest
    fetched = transfer.fetch(url_of(store), tmp_path)
    assert {path.name: path.read_bytes() for path in fetched.iterdir()} == FILES


@pytest.mark.parametrize("wrong", OPEN)
def test_a_file(store: Fake, tmp_path: Path, wrong: str) -> None:
    store.answers["GET "] = only("OPEN", OPEN[wrong])
    started = time.monotonic()
    with pytest.raises(GgufpackError) as caught:
        transfer.fetch(url_of(store), tmp_path)
    assert caught.value.exit_code in (2, 3)
    assert time.monotonic() - started < SECONDS
    store.answers["GET "] = honest
    fetched = transfer.fetch(url_of(store), tmp_path)
    assert {path.name: path.read_bytes() for path in fetched.iterdir()} == FILES


@pytest.mark.parametrize("size", [1, 300, 1001, 5000])
def test_another_number_of_bytes_than_was_asked_for(store: Fake, tmp_path: Path, size: int) -> None:
    """The driver asks for the rest, and takes no more than it asked for."""
    store.answers["GET "] = only("OPEN", raw(b"x" * size))
    fetched = transfer.fetch(url_of(store), tmp_path)
    assert (fetched / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert (fetched / "config.json").stat().st_size == 2


@pytest.mark.parametrize("call", [storage.exists, storage.size_of, storage.signature, storage.folders])
def test_every_question_ends(store: Fake, call: Any) -> None:
    store.answers["GET "] = lambda handler: time.sleep(2)
    with pytest.raises(GgufpackError, match="nothing came for"):
        call(f"{url_of(store)}/*")


# --- what no loopback server can be made to do soon ----------------------------------------


class Endless(fsspec.AbstractFileSystem):  # type: ignore[misc] # fsspec has no types
    """Lists a file of ten bytes, and gives it without an end."""

    protocol = "endless"
    cachable = False
    kind = "file"

    def find(self, path: str, **_options: Any) -> dict[str, Any]:
        return {f"{path}/config.json": {"size": 10, "type": "file"}}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_options: Any) -> bytes:
        return b"x" * 1000

    def get_file(self, _rpath: str, lpath: str, callback: Any = None, **_options: Any) -> None:
        if self.kind == "folder":
            Path(lpath).mkdir()
            return
        with Path(lpath).open("wb") as file:
            while True:
                file.write(b"x" * 7)
                callback.relative_update(7)


def test_a_file_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("endless", Endless, clobber=True)
    with pytest.raises(CheckpointFileError, match="more than the 10 bytes listed"):
        transfer.fetch("endless://x/checkpoint", tmp_path)
    assert (tmp_path / "checkpoint" / "config.json").stat().st_size < 100
    (tmp_path / "checkpoint" / "config.json").unlink()
    monkeypatch.setattr(Endless, "kind", "folder")
    with pytest.raises(CheckpointFileError, match="something else than a file"):
        transfer.fetch("endless://x/checkpoint", tmp_path)


def test_a_range_that_is_not_kept() -> None:
    fsspec.register_implementation("endless", Endless, clobber=True)
    with pytest.raises(CheckpointFileError, match="sent 1000 bytes, and 8 were asked for"):
        storage.read("endless://x/checkpoint/model.safetensors", 0, 8)


def test_an_empty_folder_is_no_checkpoint(store: Fake, tmp_path: Path) -> None:
    store.answers["GET "] = only("LISTSTATUS", listed())
    with pytest.raises(CheckpointLayoutError):
        transfer.fetch(url_of(store), tmp_path)


def test_the_storages_names_are_json_in_no_sentence(store: Fake) -> None:
    """A name with escapes is shown by its numbers."""
    store.answers["GET "] = only("LISTSTATUS", listed(**{f"../{EVIL}": 1}))
    with pytest.raises(CheckpointFileError) as caught:
        storage.listing(url_of(store), 2)
    assert "\x1b" not in caught.value.problem
    assert json.dumps(caught.value.to_json())
