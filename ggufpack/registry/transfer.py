"""Push and pull through an Ollama server: the stream of its status objects, as progress and a result."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ggufpack.registry.answers import ServerMessageError, count
from ggufpack.registry.errors import MAX_SAID, refusal, translated
from ggufpack.registry.manifest import DIGEST
from ggufpack.registry.names import ModelName
from ggufpack.registry.server import OllamaServer
from ggufpack.registry.transfer_errors import Direction, Transfer, is_passing, transfer_error
from ggufpack.spec import EventHandler, Note, Progress, Stage, ignore_event

# nothing moved for so long before an error: the server has tried again by itself, for up to a minute
_IDLE_SECONDS = 5.0


def transfer(
    server: OllamaServer,
    direction: Direction,
    name: ModelName,
    *,
    insecure: bool = False,
    on_event: EventHandler = ignore_event,
) -> Mapping[str, int]:
    """Let the server push or pull a model; blobs that are there already are not moved again.

    The server tries a part of a blob six times over a minute by itself. A fault that it does not try
    again (in a question between the blobs) is tried once more here.

    Args:
        server: the Ollama server.
        direction: push or pull.
        name: the model; on the server it has the same name.
        insecure: http instead of https.
        on_event: gets byte progress, blob by blob.

    Returns:
        bytes of the model's blobs by their digest (``sha256:HEX``), as the server reports them: of a push
        all, of a pull those that took longer than its reporting interval of 60 ms (download.go: Wait), and
        of a model that has a blob for each tensor none (images.go: pushWithTransfer).

    Raises:
        ServerUnreachableError: no Ollama server answers.
        RegistryError: it failed; ``registry.transfer_errors`` lists how.
    """
    what = Transfer(direction, name, server.host)
    try:
        return _run(server, what, insecure, on_event)
    except _RefusedError as refused:
        if refused.idle > _IDLE_SECONDS or not is_passing(refused.message):
            raise transfer_error(refused.message, what) from refused
        on_event(Note(f"The {direction} broke off ({refused.message:.200}); once more, for what is missing"))
    try:
        return _run(server, what, insecure, on_event)
    except _RefusedError as refused:
        raise transfer_error(refused.message, what) from refused


class _RefusedError(Exception):
    """What the server said, ``idle`` seconds after something moved; it need not be the end."""

    def __init__(self, message: str, idle: float) -> None:
        self.message = message
        self.idle = idle
        super().__init__(message)


def _run(server: OllamaServer, what: Transfer, insecure: bool, on_event: EventHandler) -> Mapping[str, int]:
    start = server.push if what.direction == "push" else server.pull
    layers: dict[str, int] = {}
    status, last, changed = "", None, time.monotonic()
    with translated(server.host, what.doing):
        try:
            for update in start(str(what.name), insecure=insecure):
                status = str(update.get("status") or "")
                total, completed = count(update.get("total")), count(update.get("completed"))
                if DIGEST.match(digest := str(update.get("digest") or "")):
                    layers[digest] = total
                if (now := (status, completed)) != last:
                    last, changed = now, time.monotonic()
                done = min(completed, total)
                on_event(Progress(Stage.REGISTRY, done, total or None, "bytes", status))
        except ServerMessageError as error:
            raise _RefusedError(str(error)[:MAX_SAID], time.monotonic() - changed) from error
    if status != "success":
        raise refusal("the stream ended without success", host=server.host, doing=what.doing)
    return layers
