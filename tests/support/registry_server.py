"""A loopback registry that takes an Ollama server's pushes and serves its pulls, with faults on demand.

What Ollama 0.33.0 asks for (server/upload.go, download.go, images.go, auth.go):

    push   HEAD /v2/NS/MODEL/blobs/DIGEST           200 or 404
           POST /v2/NS/MODEL/blobs/uploads/         202, Location
           PATCH Location (Content-Range)           202, Location
           PUT Location?digest=…&etag=…             201
           PUT /v2/NS/MODEL/manifests/TAG           201
    pull   GET /v2/NS/MODEL/manifests/TAG           200
           HEAD /v2/NS/MODEL/blobs/DIGEST           200, Content-Length
           GET /v2/NS/MODEL/blobs/DIGEST            307, Location on another host name
           GET Location (Range)                     206
    token  GET realm?service=…&scope=…&ts=…&nonce=… 200, {"token": …}; Authorization: PUBLICKEY:SIGNATURE

Signatures are not verified: the tests ask who is let in, not whether Ollama can sign.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from urllib.parse import parse_qs, urlsplit

TOKEN = "let-me-in"  # noqa: S105 - the loopback registry's own
_CHUNK = 1 << 16
_BLOB = re.compile(r"/v2/(.+)/blobs/sha256:([0-9a-f]{64})\Z")
_UPLOADS = re.compile(r"/v2/(.+)/blobs/uploads/\Z")
_UPLOAD = re.compile(r"/upload/([0-9a-f]+)\Z")
_MANIFEST = re.compile(r"/v2/(.+)/manifests/([^/]+)\Z")
_DATA = re.compile(r"/data/([0-9a-f]{64})\Z")


@dataclass
class Fault:
    """What happens instead of the answer to ``"METHOD kind"`` (kinds: blob, uploads, upload, manifest, data).

    Attributes:
        times: to so many requests; then all is well again.
        status, body, headers: an error answer.
        cut: the connection is closed after so many bytes of the blob.
        delay: seconds before every chunk.
        damage: the first byte of the blob is another one.
    """

    times: int = 1_000_000
    status: int | None = None
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    delay: float = 0.0
    damage: bool = False


@dataclass
class Registry:
    """A running registry. ``requests`` has every ``"METHOD kind"`` in the order of arrival.

    Attributes:
        host: ``127.0.0.1:PORT``: the first part of a model's name.
        folder: the blobs, by their digest in hex.
        keys: public keys (base64) that get a token, once ``locked``.
        locked: whether a token is asked for.
        readers: whether the token's owner may pull from and push to any namespace.
        bytes_in, bytes_out: of blobs.
    """

    host: str
    folder: Path
    manifests: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    locked: bool = False
    keys: set[str] = field(default_factory=set)
    readers: bool = True
    bytes_in: int = 0
    bytes_out: int = 0
    lock: Lock = field(default_factory=Lock)

    def blobs(self) -> set[str]:
        """Digests in hex of what was uploaded and finished."""
        return {path.name for path in self.folder.glob("*") if path.suffix == ""}

    def take_fault(self, key: str) -> Fault | None:
        """The fault for this request, counted down."""
        with self.lock:
            self.requests.append(key)
            fault = self.faults.get(key)
            if fault is None or fault.times <= 0:
                return None
            fault.times -= 1
            return fault


@contextmanager
def running_registry(folder: Path) -> Iterator[Registry]:
    """A registry on a free loopback port that keeps its blobs in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    registry = Registry(f"127.0.0.1:{server.server_port}", folder)
    server.registry = registry  # type: ignore[attr-defined]
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def registry(self) -> Registry:
        found: Registry = self.server.registry  # type: ignore[attr-defined]
        return found

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Nothing."""

    def handle_any(self) -> None:
        with suppress(ConnectionError):  # the server was interrupted, and has hung up
            self._dispatch()

    def _dispatch(self) -> None:
        path = urlsplit(self.path).path
        if path == "/token":
            self._token()
            return
        for kind, pattern in (
            ("uploads", _UPLOADS),
            ("upload", _UPLOAD),
            ("manifest", _MANIFEST),
            ("blob", _BLOB),
            ("data", _DATA),
        ):
            if match := pattern.match(path):
                self._answer(kind, match)
                return
        self._send(404, b"no such address")

    do_GET = do_POST = do_HEAD = do_PUT = do_PATCH = handle_any  # noqa: N815 - http.server's names

    def _answer(self, kind: str, match: re.Match[str]) -> None:
        fault = self.registry.take_fault(f"{self.command} {kind}")
        if fault is not None and fault.status is not None:
            self._body()
            self._send(fault.status, fault.body.encode(), fault.headers)
        elif kind != "data" and not self._let_in():
            pass
        else:
            getattr(self, f"_{self.command.lower()}_{kind}")(match, fault or Fault())

    # --- push --------------------------------------------------------------------

    def _head_blob(self, match: re.Match[str], _fault: Fault) -> None:
        path = self.registry.folder / match[2]
        if path.exists():
            self._send(200, headers={"Content-Length": str(path.stat().st_size)})
        else:
            self._send(404)

    def _post_uploads(self, _match: re.Match[str], _fault: Fault) -> None:
        name = secrets.token_hex(8)
        (self.registry.folder / f"{name}.part").touch()
        self._send(202, headers={"Location": f"http://{self.registry.host}/upload/{name}"})

    def _patch_upload(self, match: re.Match[str], fault: Fault) -> None:
        start = int((self.headers.get("Content-Range") or "0-").partition("-")[0])
        left = int(self.headers["Content-Length"])
        with (self.registry.folder / f"{match[1]}.part").open("r+b") as file:
            file.seek(start)
            while left:
                time.sleep(fault.delay)
                chunk = self.rfile.read(min(_CHUNK, left))
                if not chunk:
                    self.close_connection = True
                    return
                file.write(chunk)
                left -= len(chunk)
                self.registry.bytes_in += len(chunk)
                if fault.cut is not None and file.tell() - start >= fault.cut:
                    self._hang_up()
                    return
        self._send(202, headers={"Location": f"http://{self.registry.host}/upload/{match[1]}"})

    def _put_upload(self, match: re.Match[str], _fault: Fault) -> None:
        part = self.registry.folder / f"{match[1]}.part"
        digest = parse_qs(urlsplit(self.path).query)["digest"][0].removeprefix("sha256:")
        if hashlib.sha256(part.read_bytes()).hexdigest() != digest:
            self._send(400, b'{"errors":[{"code":"DIGEST_INVALID"}]}')
            return
        part.rename(self.registry.folder / digest)
        self._send(201)

    def _put_manifest(self, match: re.Match[str], _fault: Fault) -> None:
        content = self._body()
        document = json.loads(content)
        wanted = {
            entry["digest"].removeprefix("sha256:") for entry in [*document["layers"], document["config"]]
        }
        if wanted - self.registry.blobs():
            self._send(400, b'{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}')
            return
        self.registry.manifests[f"{match[1]}:{match[2]}"] = content
        self._send(201)

    # --- pull --------------------------------------------------------------------

    def _get_manifest(self, match: re.Match[str], _fault: Fault) -> None:
        content = self.registry.manifests.get(f"{match[1]}:{match[2]}")
        if content is None:
            self._send(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
        else:
            self._send(200, content)

    def _get_blob(self, match: re.Match[str], _fault: Fault) -> None:
        # another host name, or the server would follow it at once and find no Location in the end
        port = self.registry.host.rpartition(":")[2]
        self._send(307, headers={"Location": f"http://localhost:{port}/data/{match[2]}"})

    def _get_data(self, match: re.Match[str], fault: Fault) -> None:
        content = bytearray((self.registry.folder / match[1]).read_bytes())
        if fault.damage:
            content[0] ^= 0xFF
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        part = content[int(first) : int(last) + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        for start in range(0, len(part), _CHUNK):
            if fault.cut is not None and start >= fault.cut:
                self._hang_up()
                return
            time.sleep(fault.delay)
            self.wfile.write(part[start : start + _CHUNK])
            self.registry.bytes_out += len(part[start : start + _CHUNK])

    # --- who may --------------------------------------------------------------------

    def _let_in(self) -> bool:
        if not self.registry.locked:
            return True
        if self.headers.get("Authorization") == f"Bearer {TOKEN}" and self.registry.readers:
            return True
        self._body()
        challenge = f'Bearer realm="http://{self.registry.host}/token",service="loopback",scope="repository"'
        self._send(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}', {"WWW-Authenticate": challenge})
        return False

    def _token(self) -> None:
        key = (self.headers.get("Authorization") or "").partition(":")[0]
        if key in self.registry.keys:
            self._send(200, json.dumps({"token": TOKEN}).encode())
        else:
            self._send(401, b'{"errors":[{"code":"UNAUTHORIZED","message":"unknown key"}]}')

    # --- HTTP -----------------------------------------------------------------------

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _hang_up(self) -> None:
        """As a cable that is pulled: nothing more comes, and nothing is said."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
