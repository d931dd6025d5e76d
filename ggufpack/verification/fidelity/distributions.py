"""Next-token distributions of texts, in a folder: what the source model says, kept for every package.

``levels.npy`` is uint16, tokens x vocabulary; ``ranges.npy`` float32, tokens x 2: the lowest log
probability of a row, and the step of a level (llama.cpp's perplexity tool stores its base in the same
way). The rounding is 5e-4 nats at most, which moves a mean KL by less than 1e-6.
``meta.json`` says what computed them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpack.convert.disk import reserve
from ggufpack.held import held_folder

Rows = NDArray[np.float32]

LEVELS = 65535
DEEPEST = 80.0  # nats below the most probable token: nothing lower matters
ROWS = 32  # that are widened at a time


def log_softmax(logits: Rows) -> Rows:
    """Log probabilities of rows of logits (tokens x vocabulary)."""
    shifted: Rows = logits - logits.max(-1, keepdims=True)
    normal: Rows = np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted - normal


class DistributionWriter:
    """Writes a folder beside its final name; it gets the name with ``finish``. A context manager.

    Args:
        folder: the final name. One that is there already stays, and this one is dropped.
        tokens, vocabulary: the shape.

    Raises:
        OSError: there is no room for it.
    """

    def __init__(self, folder: Path, tokens: int, vocabulary: int) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._final = folder
        with contextlib.ExitStack() as stack:
            self._working = stack.enter_context(held_folder(f".{folder.name}.", folder.parent))
            path = self._working / "levels.npy"
            self._levels = np.lib.format.open_memmap(
                path, mode="w+", dtype=np.uint16, shape=(tokens, vocabulary)
            )
            with path.open("r+b") as file:  # a mapped file that finds the disk full kills the process
                reserve(file.fileno(), path.stat().st_size)
            self._stack = stack.pop_all()
        self._ranges = np.empty((tokens, 2), np.float32)
        self._filled = 0

    def __enter__(self) -> DistributionWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def add(self, rows: Rows) -> None:
        """The next rows, as log probabilities."""
        for start in range(0, len(rows), ROWS):
            part = rows[start : start + ROWS]
            high = part.max(-1)
            low = np.maximum(part.min(-1), high - DEEPEST)
            step = (high - low) / LEVELS
            span = np.where(step > 0, step, 1)[:, None]
            levels = np.clip(np.rint((part - low[:, None]) / span), 0, LEVELS)
            at = self._filled + start
            self._levels[at : at + len(part)] = levels
            self._ranges[at : at + len(part)] = np.stack([low, step], -1)
        self._filled += len(rows)

    def finish(self, meta: Mapping[str, Any]) -> None:
        """Give it its name.

        Raises:
            ValueError: rows are missing.
        """
        if self._filled != len(self._ranges):
            raise ValueError(f"{self._filled} of {len(self._ranges)} rows were written")
        self._levels.flush()
        np.save(self._working / "ranges.npy", self._ranges)
        (self._working / "meta.json").write_text(json.dumps(dict(meta)), encoding="utf-8")
        if not self._final.exists():
            self._working.rename(self._final)


class Distributions:
    """A folder that was written: rows of log probabilities, read as they are asked for."""

    def __init__(self, folder: Path) -> None:
        self._levels = np.load(folder / "levels.npy", mmap_mode="r")
        self._ranges = np.load(folder / "ranges.npy")
        self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens, and the vocabulary's size."""
        tokens, vocabulary = self._levels.shape
        return int(tokens), int(vocabulary)

    def rows(self, start: int, stop: int) -> Rows:
        """Log probabilities of a range of tokens; each row's probabilities sum to 1."""
        low, step = self._ranges[start:stop, :1], self._ranges[start:stop, 1:]
        return log_softmax(low + step * self._levels[start:stop].astype(np.float32))


def text_slices(texts: Sequence[Sequence[int]]) -> list[slice]:
    """Where each text's rows are."""
    ends = np.cumsum([len(text) for text in texts])
    return [slice(int(end) - len(text), int(end)) for end, text in zip(ends, texts, strict=True)]
