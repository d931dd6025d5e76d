"""The one place where errors of the ollama client and of httpx become ggufpack's.

The client wraps a refused connection only when it does not stream, and lets every other httpx error
through (ollama 0.6.3, _client.py: _request_raw, _request), so both families are mapped here.
tests/unit/registry/test_errors.py proves that no class of either is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx
import ollama
import pydantic

from ggufpack.errors import (
    ExchangeBrokenError,
    RegistryError,
    ServerDiskFullError,
    ServerResponseError,
    ServerUnreachableError,
)

CLASSES: Mapping[type[Exception], type[RegistryError]] = {
    # nobody there
    httpx.ConnectError: ServerUnreachableError,
    httpx.ConnectTimeout: ServerUnreachableError,
    httpx.ProxyError: ServerUnreachableError,
    httpx.UnsupportedProtocol: ServerUnreachableError,
    httpx.InvalidURL: ServerUnreachableError,
    ConnectionError: ServerUnreachableError,  # what the client makes of ConnectError
    # somebody there, and the exchange broke off
    httpx.HTTPError: ExchangeBrokenError,
    httpx.RequestError: ExchangeBrokenError,
    httpx.TransportError: ExchangeBrokenError,
    httpx.TimeoutException: ExchangeBrokenError,
    httpx.ReadTimeout: ExchangeBrokenError,
    httpx.WriteTimeout: ExchangeBrokenError,
    httpx.PoolTimeout: ExchangeBrokenError,
    httpx.NetworkError: ExchangeBrokenError,
    httpx.ReadError: ExchangeBrokenError,
    httpx.WriteError: ExchangeBrokenError,
    httpx.CloseError: ExchangeBrokenError,
    httpx.ProtocolError: ExchangeBrokenError,
    httpx.LocalProtocolError: ExchangeBrokenError,
    httpx.RemoteProtocolError: ExchangeBrokenError,
    httpx.StreamError: ExchangeBrokenError,
    httpx.StreamConsumed: ExchangeBrokenError,
    httpx.StreamClosed: ExchangeBrokenError,
    httpx.ResponseNotRead: ExchangeBrokenError,
    httpx.RequestNotRead: ExchangeBrokenError,
    # an answer, and not the one that was asked for
    httpx.HTTPStatusError: ServerResponseError,
    httpx.TooManyRedirects: ServerResponseError,
    httpx.DecodingError: ServerResponseError,
    httpx.CookieConflict: ServerResponseError,
    ollama.ResponseError: ServerResponseError,
    ollama.RequestError: ServerResponseError,
    json.JSONDecodeError: ServerResponseError,
    pydantic.ValidationError: ServerResponseError,
}

# Go's text of ENOSPC and EDQUOT, as the server passes it on (seen: Ollama 0.33.0 on a full tmpfs)
DISK_FULL = ("no space left on device", "disk quota exceeded", "not enough space on the disk")

# a gateway without an answer, or a server that is too busy: nothing is said about the request
UNAVAILABLE = (502, 503, 504)

_START = "Start it with `ollama serve`, or name another server with --host or OLLAMA_HOST."
# Ollama 0.30 and later check a GGUF by writing it again; the reason is in the server's log only (seen:
# 0.33.0 with room for one copy says "llama-quantize failed: exit status 1")
_VALIDATOR = "llama-quantize"
_SECOND_COPY = (
    "The server writes a second copy of the model to check it: look whether its disk has room for two, "
    "then into its log."
)
MAX_SAID = 1000  # characters of what a server says
_LOOK = "The server's own log says more."


def is_disk_full(message: str) -> bool:
    """Whether the server's error message says that its disk is full."""
    return any(text in message.lower() for text in DISK_FULL)


def refusal(message: str, *, host: str, doing: str, status: int = 0) -> RegistryError:
    """The error for a message that the server itself gave, in an error ``status`` or inside a stream."""
    if is_disk_full(message):
        return ServerDiskFullError(
            f"The disk of the Ollama server at {host} is full ({doing}: {message:.{MAX_SAID}})",
            action="Free space there (`ollama rm`), or set the server's OLLAMA_MODELS to a larger disk.",
        )
    action = _SECOND_COPY if _VALIDATOR in message else None
    message = message if len(message) <= MAX_SAID else f"{message[:MAX_SAID]}…"
    kind = ExchangeBrokenError if status in UNAVAILABLE else ServerResponseError
    return kind(f"The Ollama server at {host} refused: {doing}: {message}", action=action)


def translate(error: Exception, *, host: str, doing: str) -> RegistryError:
    """The error to raise instead of ``error``.

    Args:
        error: an instance of a class in ``CLASSES`` or of a subclass.
        host: the server's address, for the sentence.
        doing: what was tried, as a short phrase ("upload model.gguf").

    Raises:
        KeyError: ``error`` belongs to neither family.
    """
    target = next((CLASSES[kind] for kind in type(error).__mro__ if kind in CLASSES), None)
    if target is None:
        raise KeyError(type(error))
    if isinstance(error, (ollama.ResponseError, ollama.RequestError)):
        return refusal(str(error.error), host=host, doing=doing, status=getattr(error, "status_code", 0))
    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        return refusal(f"HTTP status {status}", host=host, doing=doing, status=status)
    reason = str(error) or type(error).__name__
    if target is ServerUnreachableError:
        return ServerUnreachableError(
            f"No Ollama server answers at {host} ({doing}: {reason})", action=_START
        )
    return target(f"The exchange with the Ollama server at {host} failed: {doing}: {reason}", action=_LOOK)


@contextmanager
def translated(host: str, doing: str) -> Iterator[None]:
    """Errors of the client and of httpx inside the block leave it as ggufpack's.

    Raises:
        RegistryError: one of its subclasses, with the original as its cause.
    """
    try:
        yield
    except tuple(CLASSES) as error:
        raise translate(error, host=host, doing=doing) from error
