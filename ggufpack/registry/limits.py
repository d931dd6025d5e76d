"""What an answer over HTTP may take: seconds, bytes, and no detour.

httpx limits the wait for the next bytes, and nothing else: a server that sends a byte a second, a body
that never ends, a line without an end, or a small body that unpacks to gigabytes would be waited for and
kept. The limits here hold from the request on; of a stream that reports progress they hold between one
line and the next that says something else.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpcore

MIB = 1 << 20
MAX_LINE = MIB


@dataclass(frozen=True)
class Limits:
    """Of one request.

    Attributes:
        silent: seconds without a byte.
        size: bytes of the answer's body; ``None`` for none.
        whole: seconds from the request's last byte to the answer's; ``None`` for a stream that reports
            progress: then ``silent`` holds between two lines that differ, and a line has at most 1 MiB.
    """

    silent: float
    size: int | None
    whole: float | None


class _Exchange(threading.local):
    """The exchange that this thread is in: how long it may last, and until when."""

    seconds: float = 0.0
    deadline: float = 0.0


_exchange = _Exchange()


def limit(client: Any, limits: Callable[[str], Limits], *, redirects: int = 0) -> None:
    """Hold all exchanges of ``client`` to ``limits``, which gets the URL's path.

    A compressed answer is refused. So are redirects: what was meant for one server would go to another.
    Up to ``redirects`` of them are followed, each with the time and size of a request of its own: to http
    and https only, and from https to https only. httpx itself takes no credentials along to another host.

    Args:
        client: an ``httpx.Client``, or one of httpx2. What breaks a limit raises its library's
            ``ReadTimeout`` or ``RemoteProtocolError``.
        limits: of a path.
        redirects: how many are followed in a row.
    """
    library: Any = sys.modules[type(client).__module__.partition(".")[0]]

    def before(request: Any) -> None:
        of = limits(request.url.path)
        timeouts = request.extensions["timeout"]
        asked = timeouts["read"]
        silent = of.silent if asked is None else min(asked, of.silent)
        connect = of.silent if timeouts["connect"] is None else timeouts["connect"]
        request.extensions["timeout"] = {**timeouts, "connect": connect, "read": silent, "write": of.silent}
        request.extensions["limits"] = of
        # of a stream it is the head that must come by then
        _exchange.seconds = silent if of.whole is None or asked is not None else of.whole
        _exchange.deadline = time.monotonic() + _exchange.seconds

    def after(response: Any) -> None:
        if response.has_redirect_location:
            _check_redirect(library, response, follow=redirects > 0)
        if response.headers.get("content-encoding", "identity") != "identity":
            raise library.RemoteProtocolError("it compressed the answer, which was not asked for")
        response.encoding = "utf-8"  # whatever it names: some of Python's codecs unpack, or never end
        response.stream = _body_class(library)(response.stream, response.request.extensions["limits"])

    client.follow_redirects = redirects > 0
    client.max_redirects = redirects
    client.headers["Accept-Encoding"] = "identity"
    hooks = client.event_hooks
    client.event_hooks = {"request": [*hooks["request"], before], "response": [*hooks["response"], after]}
    # no option of httpx leads there, and its read timeout begins anew with each byte, of the headers as well
    for transport in (client._transport, *client._mounts.values()):
        pool: Any = getattr(transport, "_pool", None)
        if pool is not None:
            pool._network_backend = _Network(pool._network_backend, library)


def _check_redirect(library: Any, response: Any, *, follow: bool) -> None:
    where = response.headers["location"]
    if not follow:
        raise library.RemoteProtocolError(
            f"it redirects to {where:.200}, and that is not followed; give the address itself"
        )
    try:
        target = response.request.url.join(where)
    except library.InvalidURL as error:
        raise library.RemoteProtocolError(f"it redirects to {where:.200}, which is no address") from error
    schemes = {"https"} if response.request.url.scheme == "https" else {"http", "https"}
    if target.scheme not in schemes:
        raise library.RemoteProtocolError(
            f"it redirects to {where:.200}, and only {' or '.join(sorted(schemes))} is followed from there"
        )


@cache
def _body_class(library: Any) -> Any:
    """httpx looks at the class of a stream: it must be one of its own."""
    return type("LimitedBody", (_Body, library.SyncByteStream), {"library": library})


class _Body:
    """The bytes of an answer, up to the limits."""

    library: Any

    def __init__(self, stream: Any, limits: Limits) -> None:
        self._stream = stream
        self._limits = limits
        self._deadline = _exchange.deadline

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        lines = _Lines(self._limits.silent, self.library) if self._limits.whole is None else None
        pieces = iter(self._stream)
        while True:
            # another exchange of this thread may have been between two pieces
            _exchange.deadline = self._deadline if lines is None else lines.deadline
            piece = next(pieces, None)
            if piece is None:
                return
            size += len(piece)
            if self._limits.size is not None and size > self._limits.size:
                raise self.library.RemoteProtocolError(
                    f"its answer has more than {self._limits.size:,} bytes"
                )
            if lines is not None:
                lines.take(piece)
            yield piece

    def close(self) -> None:
        self._stream.close()


class _Lines:
    """Whether a stream of lines still says something new."""

    def __init__(self, silent: float, library: Any) -> None:
        self._silent = silent
        self._library = library
        self._last = self._begun = b""
        self.deadline = time.monotonic() + silent

    def take(self, piece: bytes) -> None:
        *ended, self._begun = (self._begun + piece).split(b"\n")
        if len(self._begun) > MAX_LINE:
            raise self._library.RemoteProtocolError(f"a line of its answer has more than {MAX_LINE:,} bytes")
        for line in ended:
            if line != self._last:
                self._last = line
                self.deadline = time.monotonic() + self._silent


class _Network(httpcore.NetworkBackend):
    """Connections that know the deadline."""

    def __init__(self, inner: Any, library: Any) -> None:
        self._inner = inner
        self._library = library

    def connect_tcp(self, *args: Any, **options: Any) -> httpcore.NetworkStream:
        return _Connection(self._inner.connect_tcp(*args, **options), self._library)

    def connect_unix_socket(self, *args: Any, **options: Any) -> httpcore.NetworkStream:
        return _Connection(self._inner.connect_unix_socket(*args, **options), self._library)

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _Connection(httpcore.NetworkStream):
    def __init__(self, inner: Any, library: Any) -> None:
        self._inner = inner
        self._library = library

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        left = _exchange.deadline - time.monotonic()
        if left <= 0:
            raise self._library.ReadTimeout("no whole answer in time")
        content: bytes = self._inner.read(max_bytes, left if timeout is None else min(left, timeout))
        return content

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, timeout)
        _exchange.deadline = time.monotonic() + _exchange.seconds

    def close(self) -> None:
        self._inner.close()

    def start_tls(self, *args: Any, **options: Any) -> httpcore.NetworkStream:
        return _Connection(self._inner.start_tls(*args, **options), self._library)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
