"""Two models on the same tokens, row by row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpack.verification.fidelity.distributions import ROWS, Distributions, Rows, log_softmax

CHOICES = 4  # of either model, shown for a bad position


@dataclass
class Distance:
    """How far logits are from others, in relation to their own size.

    Logits are compared without their mean, which no probability depends on. The ratio of the root mean
    squares needs no scale: a model with random weights, whose probabilities are nearly equal and whose
    KL is nearly 0 whatever one does to it, shows a broken conversion as well as a trained one.
    """

    squares: list[float] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)

    def add(self, expected: Rows, actual: Rows) -> None:
        """Count rows of logits or log probabilities in."""
        centred = expected - expected.mean(-1, keepdims=True)
        difference = centred - (actual - actual.mean(-1, keepdims=True))
        self.squares += np.einsum("ij,ij->i", difference, difference).tolist()
        self.sizes += np.einsum("ij,ij->i", centred, centred).tolist()

    @property
    def relative(self) -> float:
        """0 for equal logits, about 1.4 for unrelated ones."""
        return _relative(np.array(self.squares), np.array(self.sizes))

    @property
    def usual(self) -> float:
        """The same without the tenth of the positions where it is largest."""
        squares, sizes = np.array(self.squares), np.array(self.sizes)
        order = np.argsort(squares / np.maximum(sizes, np.finfo(np.float64).tiny))
        kept = order[: -(-9 * len(order) // 10)]
        return _relative(squares[kept], sizes[kept])


def _relative(squares: NDArray[np.float64], sizes: NDArray[np.float64]) -> float:
    size = sizes.sum()
    return float(np.sqrt(squares.sum() / size)) if size else 0.0


@dataclass
class Compared:
    """Every position of the texts, in order.

    Attributes:
        kl: nats.
        agree: 1 where both have the same most probable token.
        source, package: log probability of the token that follows; NaN at the end of a text.
        distance: of the package from ``against``, or from the source.
        worst: positions with the largest KL, as JSON.
    """

    kl: list[float] = field(default_factory=list)
    agree: list[int] = field(default_factory=list)
    source: list[float] = field(default_factory=list)
    package: list[float] = field(default_factory=list)
    distance: Distance = field(default_factory=Distance)
    worst: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """For the pipe."""
        return {
            "kl": self.kl,
            "agree": self.agree,
            "source": self.source,
            "package": self.package,
            "error": self.distance.relative,
            "usual_error": self.distance.usual,
            "worst": self.worst,
        }


def divergence(source: Rows, package: Rows) -> NDArray[np.float64]:
    """KL(source, package) of each row of log probabilities, in nats; 0 at least."""
    terms = np.exp(source) * (source - package)
    sums: NDArray[np.float64] = terms.sum(-1, dtype=np.float64)
    return np.maximum(sums, 0.0)


def compare_text(
    into: Compared,
    text: int,
    tokens: Sequence[int],
    rows: Iterable[NDArray[np.float32]],
    source: Distributions,
    start: int,
    *,
    against: Distributions | None = None,
    worst: int = 0,
) -> None:
    """Count one text in.

    Args:
        into: where.
        text: its number.
        tokens: the text.
        rows: the package's logits after each token; as wide as the source's, or wider or narrower by
            tokens that only pad the vocabulary.
        source: the source's distributions, of which the text's begin at row ``start``.
        against: what the package's have to be, in the same rows; ``None`` for the source's.
        worst: positions to keep.
    """
    done = 0
    for package in _blocks(rows):
        count = len(package)
        first, last = start + done, start + done + count
        expected = source.rows(first, last)
        width = min(expected.shape[1], package.shape[1])
        if expected.shape[1] > width:
            expected = log_softmax(expected[:, :width])
        package = log_softmax(package[:, :width])  # noqa: PLW2901 - logits are not needed any more
        kl = divergence(expected, package)
        into.kl += kl.tolist()
        into.agree += (expected.argmax(-1) == package.argmax(-1)).astype(int).tolist()
        following = list(tokens[done + 1 : done + 1 + count])
        ends = [float("nan")] * (count - len(following))
        into.source += [float(expected[index, token]) for index, token in enumerate(following)] + ends
        into.package += [float(package[index, token]) for index, token in enumerate(following)] + ends
        into.distance.add(expected if against is None else against.rows(first, last)[:, :width], package)
        least = into.worst[-1]["kl"] if len(into.worst) >= max(1, worst) else -1.0
        into.worst += [
            {
                "text": text,
                "position": done + int(index),
                "kl": float(kl[index]),
                "choices": _choices(expected[index], package[index]),
            }
            for index in np.argsort(-kl)[:worst]
            if kl[index] > least
        ]
        into.worst = sorted(into.worst, key=lambda one: -one["kl"])[:worst]
        done += count


def _blocks(rows: Iterable[NDArray[np.float32]]) -> Iterator[Rows]:
    """Rows put together; copies, because the engine's buffer is used again."""
    rows = iter(rows)
    while block := [np.array(row) for row in islice(rows, ROWS)]:
        yield np.stack(block)


def _choices(source: NDArray[np.float32], package: NDArray[np.float32]) -> list[tuple[int, float, float]]:
    ids = [*_best(source), *_best(package)]
    return [
        (token, float(np.exp(source[token])), float(np.exp(package[token]))) for token in dict.fromkeys(ids)
    ]


def _best(row: NDArray[np.float32]) -> list[int]:
    """The most probable tokens, in order."""
    count = min(CHOICES, len(row))
    best = np.argpartition(-row, count - 1)[:count]
    return [int(token) for token in best[np.argsort(-row[best])]]
