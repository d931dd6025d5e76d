"""A loopback stand-in for the Hugging Face Hub: the part of its HTTP API that an upload uses.

Written after huggingface_hub 2.4 (``hf_api.py``: create_repo, model_info, preupload_lfs_files,
create_commit; ``lfs.py``) and the Git LFS batch API. It keeps what it gets, and checks the digests of
what is sent to it. Large files come by Git LFS; where ``HubState.xet`` is set, into a folder of Xet storage,
which hf_xet itself keeps (its ``local://`` endpoint).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

TOKEN = "hf_secretOfTheTests"  # noqa: S105 - known to this server only
CHUNK = 1 << 16
_OF_A_MODEL = re.compile(
    r"/api/models/([^/]+/[^/]+)(?:/(preupload|commit|revision|xet-write-token)/([^/]+))?"
)


@dataclass
class Repository:
    """What is visible under a name. ``lfs`` are the names whose content is a large file."""

    private: bool
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b"*.gguf filter=lfs\n"})
    lfs: set[str] = field(default_factory=set)
    messages: list[str] = field(default_factory=lambda: ["initial commit"])

    @property
    def sha(self) -> str:
        """Of the newest commit."""
        return hashlib.sha1(f"{len(self.messages)}{self.messages}".encode()).hexdigest()  # noqa: S324


@dataclass
class HubState:
    """What the stand-in has, got, and shall do wrong.

    Attributes:
        objects: large files that arrived, by sha256; visible only once a commit names them.
        received: (sha256, bytes) of each upload of a large file, also of those that broke off.
        authorizations: of all requests to the API.
        refusals: (part of a path, status, message): what is answered instead.
        answers: part of ``"METHOD /path"`` to what is done instead; then the connection is closed.
        break_off: sha256 of objects whose upload is refused after the first chunk, once each.
        stall: sha256 of objects whose upload is left without an answer, once each; ``stalled`` is set.
        xet: folder of the Xet storage; its files are visible in the repository by their sha256 only.
    """

    endpoint: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    received: list[tuple[str, int]] = field(default_factory=list)
    authorizations: set[str | None] = field(default_factory=set)
    refusals: list[tuple[str, int, str]] = field(default_factory=list)
    answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=dict)
    break_off: set[str] = field(default_factory=set)
    stalled: threading.Event = field(default_factory=threading.Event)
    stall: set[str] = field(default_factory=set)
    xet: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        """For a client process."""
        disabled = "1" if self.xet is None else "0"
        return {"HF_ENDPOINT": self.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": disabled}


@contextlib.contextmanager
def running_hub() -> Iterator[HubState]:
    """The stand-in on a free loopback port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    state = HubState(f"http://127.0.0.1:{server.server_address[1]}")
    server.state = state  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def state(self) -> HubState:
        state: HubState = self.server.state  # type: ignore[attr-defined]
        return state

    def log_message(self, *_args: Any) -> None:
        """Nothing on stderr."""

    def do_GET(self) -> None:
        self._route("GET", b"")

    def do_POST(self) -> None:
        self._route("POST", b"".join(self._body()))

    def do_PUT(self) -> None:
        oid = self.path.rpartition("/")[2]
        if self._refused():
            self.close_connection = True
            return
        self._receive(oid)

    # --- routes -----------------------------------------------------------------

    def _route(self, method: str, body: bytes) -> None:
        path = self.path.partition("?")[0]
        self.state.authorizations.add(self.headers.get("Authorization"))
        if self._refused():
            return
        if path != "/api/validate-yaml" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer({"error": "Invalid credentials in Authorization header"}, 401)
            return
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._validate(json.loads(body)["content"])
        elif path == "/lfs/verify":
            self._answer({}, 200 if json.loads(body)["oid"] in self.state.objects else 404)
        elif match := re.fullmatch(r"/(.+/.+)\.git/info/lfs/objects/batch", path):
            self._batch(json.loads(body))
        elif match := _OF_A_MODEL.fullmatch(path):
            repository = self.state.repositories.get(match[1])
            if repository is None:
                self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            elif match[2] == "preupload":
                self._preupload(repository, json.loads(body))
            elif match[2] == "xet-write-token":
                place = {"casUrl": f"local://{self.state.xet}", "exp": int(time.time()) + 3600}
                self._answer({**place, "accessToken": "xet"})
            elif match[2] == "commit":
                self._commit(match[1], repository, body)
            else:
                self._info(match[1], repository)
        else:
            self._answer({"error": f"the stand-in has no {method} {path}"}, 501)

    def _create(self, wanted: Mapping[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        answer = {"url": f"{self.state.endpoint}/{name}"}
        if name in self.state.repositories:
            self._answer({**answer, "error": "You already created this model repo"}, 409)
            return
        # huggingface_hub 1.x says private, 2.x says visibility
        private = wanted.get("visibility") == "private" or wanted.get("private") is True
        self.state.repositories[name] = Repository(private)
        self._answer(answer)

    def _validate(self, card: str) -> None:
        try:
            metadata = yaml.safe_load(card.split("---\n")[1])
        except (yaml.YAMLError, IndexError) as error:
            self._answer({"errors": [{"message": str(error)}], "warnings": []}, 400)
            return
        bad = [] if isinstance(metadata, dict) else [{"message": "metadata is no mapping"}]
        self._answer({"errors": bad, "warnings": []}, 400 if bad else 200)

    def _info(self, name: str, repository: Repository) -> None:
        siblings = [_sibling(repository, file) for file in sorted(repository.files)]
        self._answer(
            {
                "_id": "0" * 24,
                "id": name,
                "modelId": name,
                "private": repository.private,
                "sha": repository.sha,
                "siblings": siblings,
                "tags": [],
                "downloads": 0,
                "likes": 0,
            }
        )

    def _preupload(self, repository: Repository, asked: Mapping[str, Any]) -> None:
        self._answer(
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(".gguf") else "regular",
                        "shouldIgnore": False,
                        "oid": _oid(repository, file["path"]),
                    }
                    for file in asked["files"]
                ]
            }
        )

    def _batch(self, asked: Mapping[str, Any]) -> None:
        objects = []
        for item in asked["objects"]:
            found = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.state.objects:
                found["actions"] = {
                    "upload": {"href": f"{self.state.endpoint}/lfs/{item['oid']}"},
                    "verify": {"href": f"{self.state.endpoint}/lfs/verify"},
                }
            objects.append(found)
        self._answer({"transfer": "basic", "objects": objects})

    def _commit(self, name: str, repository: Repository, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, repository.sha):
            self._answer({"error": "A commit has happened since."}, 412)
            return
        for line in lines[1:]:
            value = line["value"]
            path = value["path"]
            if line["key"] == "file":
                repository.files[path] = base64.b64decode(value["content"])
                repository.lfs.discard(path)
            elif line["key"] == "lfsFile":
                stored = f"Xet {value['oid']}".encode() if self.state.xet else None
                repository.files[path] = stored or self.state.objects[value["oid"]]
                repository.lfs.add(path)
            elif line["key"] == "deletedFile":
                del repository.files[path]
                repository.lfs.discard(path)
            else:
                self._answer({"error": f"unknown {line['key']}"}, 400)
                return
        repository.messages.append(header["summary"])
        url = f"{self.state.endpoint}/{name}/commit/{repository.sha}"
        self._answer({"commitUrl": url, "commitOid": repository.sha, "success": True})

    # --- bodies -----------------------------------------------------------------

    def _receive(self, oid: str) -> None:
        """A large file; counted as far as it came."""
        content = b""
        for chunk in self._body():
            content += chunk
            if oid in self.state.stall:
                self.state.stall.discard(oid)
                self.state.received.append((oid, len(content)))
                self.state.stalled.set()
                self.close_connection = True
                self.rfile.read(1)  # until the client has gone away
                return
            if oid in self.state.break_off:
                self.state.break_off.discard(oid)
                self.state.received.append((oid, len(content)))
                self._answer({"error": "Request has expired"}, 403)
                self.close_connection = True
                return
        self.state.received.append((oid, len(content)))
        if hashlib.sha256(content).hexdigest() != oid:
            self._answer({"error": "the content has another sha256"}, 400)
            return
        self.state.objects[oid] = content
        self._answer({})

    def _body(self) -> Iterator[bytes]:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().strip() or b"0", 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length", 0))
        while left > 0 and (chunk := self.rfile.read(min(left, CHUNK))):
            left -= len(chunk)
            yield chunk

    def _refused(self) -> bool:
        for part, answer in self.state.answers.items():
            if part in f"{self.command} {self.path}":
                self.close_connection = True
                with contextlib.suppress(ConnectionError):  # the client may go when it likes
                    answer(self)
                return True
        for part, status, message in self.state.refusals:
            if part in self.path:
                self._answer({"error": message}, status, {"X-Error-Message": message})
                return True
        return False

    def _answer(self, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for key, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _sibling(repository: Repository, path: str) -> dict[str, Any]:
    """As with ``blobs=true``."""
    content = repository.files[path]
    found = {"rfilename": path, "size": len(content), "blobId": _git_oid(content)}
    if path in repository.lfs:
        sha256 = content.decode()[4:] if content.startswith(b"Xet ") else hashlib.sha256(content).hexdigest()
        found["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
    return found


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324 - git's


def _oid(repository: Repository, path: str) -> str | None:
    content = repository.files.get(path)
    if content is None:
        return None
    if path in repository.lfs:
        return hashlib.sha256(content).hexdigest()
    return _git_oid(content)
