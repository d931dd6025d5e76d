"""A loopback HTTP server that plays an Ollama which misbehaves; well-behaved ones are real (integration/)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Fake:
    """Answers by ``"METHOD /path"``; what was asked is in ``requests``, JSON bodies decoded."""

    host: str = ""
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[tuple[str, Any]] = field(default_factory=list)


@contextmanager
def fake_ollama() -> Iterator[Fake]:
    """A fake on a free port; its answers can be set while it runs."""
    fake = Fake()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            key = f"{self.command} {self.path}"
            body: Any = None
            if self.headers.get("Content-Type") == "application/json" and self.command == "POST":
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fake.requests.append((key, body))
            prefixes = [known for known in fake.answers if key.startswith(known)]
            if prefixes:
                fake.answers[max(prefixes, key=len)](self)
            else:
                reply(404, {"error": "not found"})(self)

        do_GET = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            if not isinstance(sys.exc_info()[1], ConnectionError):  # the client may go when it likes
                super().handle_error(request, client_address)

    server = Server(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    fake.host = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()


def reply(status: int, body: object, content_type: str = "application/json") -> Answer:
    """One whole answer; a string is sent as it is."""
    content = (body if isinstance(body, str) else json.dumps(body)).encode()

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", content_type)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(content)

    return send


def stream(*parts: object, cut_off: bool = False) -> Answer:
    """Status objects, one a line; with ``cut_off`` the answer promises more than it sends."""
    content = "".join(json.dumps(part) + "\n" for part in parts).encode()

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/x-ndjson")
        handler.send_header("Content-Length", str(len(content) + (100 if cut_off else 0)))
        handler.end_headers()
        handler.wfile.write(content)

    return send
