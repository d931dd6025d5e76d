"""Worker side: encodes tensors in a thread pool, ahead of whoever writes them, in file order.

One thread goes through the tensors and cuts them into chunks, ``threads`` threads encode each
chunk for every output at once, and one writer for each output takes the blocks in order. What is
encoded and not yet written is bounded by ``AHEAD_BYTES``.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ggufpack.convert.encode import Encoder
from ggufpack.convert.size import AHEAD_BYTES
from ggufpack.convert.sources import Rows, TensorSource, Witness
from ggufpack.quantize.kernels import Encoded
from ggufpack.quantize.types import TensorType

OnProgress = Callable[[int, int, str], None]
Types = Mapping[str, TensorType]


class Block(NamedTuple):
    """Bytes of one tensor for one output; a tensor's blocks follow each other."""

    tensor: str
    data: Encoded


@dataclass
class _Chunk:
    """Blocks in the making, one for each output, and how many outputs still wait for theirs."""

    tensor: str
    size: int
    encoded: Future[list[Encoded]]
    waiting: int


class TensorStream:
    """Encodes all tensors once, for all outputs. Starts at once; ``close`` it in any case.

    Args:
        sources: the tensors, in file order.
        types: of each output: what each tensor is encoded as.
        encoder: of their chunks.
        threads: that encode.
        progress: called with (weights encoded, of all, tensor), from one thread at a time.
    """

    def __init__(
        self,
        sources: Sequence[TensorSource],
        types: Sequence[Types],
        *,
        encoder: Encoder,
        threads: int,
        progress: OnProgress,
    ) -> None:
        self._sources = sources
        self._types = types
        self._encoder = encoder
        self._progress = progress
        self._total = sum(source.weights for source in sources)
        self._done = 0
        self._lock = threading.Lock()
        self._ahead = _Budget(AHEAD_BYTES)
        # chunks in the pool: enough that no thread waits, few enough that pages are read just ahead
        self._waiting = threading.BoundedSemaphore(threads * 2 + 1)
        self._queues: list[queue.SimpleQueue[_Chunk | BaseException | None]] = [
            queue.SimpleQueue() for _ in types
        ]
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="encode")
        self._feeder = threading.Thread(target=self._feed, name="feed", daemon=True)
        self._feeder.start()

    def blocks(self, output: int) -> Iterator[Block]:
        """The blocks of one output, in file order; each output is taken by a thread of its own.

        Raises:
            TensorValueError: a value cannot be written as trained.
            Exception: whatever reading or encoding raised.
        """
        while (chunk := self._queues[output].get()) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            yield Block(chunk.tensor, chunk.encoded.result()[output])
            with self._lock:
                chunk.waiting -= 1
                last = chunk.waiting == 0
            if last:
                self._ahead.give_back(chunk.size)

    def close(self) -> None:
        """Stop what is still under way; nothing runs any more afterwards."""
        self._ahead.close()
        self._feeder.join()
        self._pool.shutdown(cancel_futures=True)

    def _feed(self) -> None:
        end: BaseException | None = None
        try:
            with torch.inference_mode():
                self._feed_all()
        except BaseException as error:  # raised again by every writer  # noqa: BLE001
            end = error
        for waiting in self._queues:
            waiting.put(end)

    def _feed_all(self) -> None:
        witness = Witness()
        for source in self._sources:
            if source.encoded:
                data = source.encoded_bytes()
                self._ahead.take(data.nbytes)
                self._add(source, data.nbytes, self._pool.submit(self._pass_on, source, data))
            else:
                types = [types[source.name] for types in self._types]
                first_row = 0
                for rows in source.rows(witness):
                    rows.parts.announce(rows.view)
                    size = sum(kind.size(rows.view.numel()) for kind in types)
                    self._ahead.take(size)
                    self._waiting.acquire()
                    future = self._pool.submit(self._encode, source, rows, types, first_row)
                    future.add_done_callback(lambda _: self._waiting.release())
                    self._add(source, size, future)
                    first_row += rows.view.numel() // source.columns
            source.release()

    def _add(self, source: TensorSource, size: int, encoded: Future[list[Encoded]]) -> None:
        chunk = _Chunk(source.name, size, encoded, len(self._queues))
        for waiting in self._queues:
            waiting.put(chunk)

    def _pass_on(self, source: TensorSource, data: Encoded) -> list[Encoded]:
        self._count(source.weights, source.name)
        return [data] * len(self._types)

    def _encode(
        self, source: TensorSource, rows: Rows, types: Sequence[TensorType], first_row: int
    ) -> list[Encoded]:
        encoded = self._encoder.encode(source, rows, types, first_row)
        self._count(rows.view.numel(), source.name)
        return encoded

    def _count(self, weights: int, tensor: str) -> None:
        with self._lock:
            self._done += weights
            self._progress(self._done, self._total, tensor)


class _Budget:
    """Bytes that may be in hand at once. One larger piece alone is let through."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._closed = False
        self._changed = threading.Condition()

    def take(self, count: int) -> None:
        """Wait until there is room.

        Raises:
            CancelledError: the budget was closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._used or self._used + count <= self._size)
            if self._closed:
                raise CancelledError
            self._used += count

    def give_back(self, count: int) -> None:
        """Room for others."""
        with self._changed:
            self._used -= count
            self._changed.notify()

    def close(self) -> None:
        """Whoever waits, and whoever comes, is sent away."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
