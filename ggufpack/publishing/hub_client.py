"""huggingface_hub's HTTP client, held to limits, and what it says on the way as notes.

Its own waits without an end (``timeout=None``), or as long as a Retry-After says, and its logger prints what
the Hub puts into headers. Xet storage is sent by hf_xet, a program of its own with its own timeouts.
"""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from ggufpack.registry.limits import MIB, Limits, limit
from ggufpack.spec import EventHandler, Note

_QUESTION = Limits(silent=60, size=64 * MIB, whole=120)
# a storage puts the parts of a large file together, and a commit may name thousands of files
_STORED = Limits(silent=300, size=16 * MIB, whole=600)
_REDIRECTS = 5
# the Hub counts requests in windows of five minutes (documentation: "Rate limits")
_MOST_WAIT = 300
_SECONDS = {"retry-after": re.compile(r"\s*(\d+)"), "ratelimit": re.compile(r"\bt\s*=\s*(\d+)")}
_MOST_SAID = 200


@contextlib.contextmanager
def hub_client(token: str, on_event: EventHandler) -> Iterator[None]:
    """Within the block, huggingface_hub's requests have limits, and what it says are notes.

    Args:
        token: that must not be in them.
        on_event: gets the notes.
    """
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    made: Callable[[], Any] = _http._GLOBAL_CLIENT_FACTORY

    def make() -> Any:
        client = made()
        limit(client, _limits, redirects=_REDIRECTS)
        client.event_hooks = {
            **client.event_hooks,
            "response": [*client.event_hooks["response"], _forget_long_waits],
        }
        return client

    set_client_factory(make)
    try:
        with _as_notes(token, on_event):
            yield
    finally:
        set_client_factory(made)


def said_by_hub(text: str, token: str | None) -> str:
    """A text of the Hub in one line, not long, without the token: it may send back what it got."""
    if token:
        text = text.replace(token, "…")
    return " ".join(text.split())[:_MOST_SAID]


def _limits(path: str) -> Limits:
    return _QUESTION if path.startswith("/api/") and "/commit/" not in path else _STORED


def _forget_long_waits(response: Any) -> None:
    """Without the header, huggingface_hub waits for some seconds before it tries again."""
    for name, pattern in _SECONDS.items():
        match = pattern.search(response.headers.get(name, ""))
        if match is not None and (len(match[1]) > 9 or int(match[1]) > _MOST_WAIT):
            del response.headers[name]


@contextlib.contextmanager
def _as_notes(token: str, on_event: EventHandler) -> Iterator[None]:
    def say(text: str) -> None:
        on_event(Note(said_by_hub(text, token)))

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(record.getMessage())

    logger = logging.getLogger("huggingface_hub")
    handlers, logger.handlers = logger.handlers, [Handler()]
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_args, **_options: say(str(message))
            yield
    finally:
        logger.handlers = handlers
