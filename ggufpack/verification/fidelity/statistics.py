"""Means with confidence intervals, and distributions, of values at tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ggufpack.proofs import Estimate

Values = NDArray[np.float64]

BLOCK = 64  # neighbouring tokens are alike, so they are drawn together
DRAWS = 2000
_SEED = 20261124
QUANTILES = (50, 90, 99, 100)
EDGES = np.arange(-8.0, 2.5, 0.5)  # log10 nats


class Resamples:
    """Bootstrap resamples of the texts' tokens in blocks (Künsch 1989; Efron's percentile interval).

    Args:
        lengths: tokens of each text; a block never reaches over the end of one.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self._blocks: list[slice] = []
        start = 0
        for length in lengths:
            for at in range(0, length, BLOCK):
                self._blocks.append(slice(start + at, start + min(at + BLOCK, length)))
            start += length
        count = len(self._blocks)
        drawn = np.random.default_rng(_SEED).integers(0, count, (DRAWS, count))
        self._weights = np.stack([np.bincount(row, minlength=count) for row in drawn]).astype(np.float64)

    def mean(self, values: Values) -> Estimate:
        """The mean, without NaN."""
        return self.of(lambda means: means[0], values)

    def of(self, function: Callable[[Sequence[Values]], Values], *values: Values) -> Estimate:
        """A function of means: it gets each array's means, one for each resample."""
        sums, counts, means = [], [], []
        for one in values:
            there = ~np.isnan(one)
            sums.append(np.array([np.nansum(one[block]) for block in self._blocks]))
            counts.append(np.array([there[block].sum() for block in self._blocks], np.float64))
            means.append(np.array([np.nanmean(one)]))
        drawn = [
            self._weights @ total / np.maximum(self._weights @ count, 1)
            for total, count in zip(sums, counts, strict=True)
        ]
        low, high = np.percentile(function(drawn), [2.5, 97.5])
        return Estimate(float(function(means)[0]), float(low), float(high))


def perplexity(log_probabilities: Values) -> float:
    """Of the tokens that follow; NaN at the ends of texts."""
    return float(np.exp(-np.nanmean(log_probabilities)))


def quantiles(values: Values) -> dict[str, float]:
    """``{"50": …}``: the value that so many percent do not exceed."""
    return {str(q): float(np.percentile(values, q)) for q in QUANTILES}


def histogram(values: Values) -> tuple[tuple[float, int], ...]:
    """Numbers of values by their log10; smaller and larger ones are in the first and the last bin."""
    logs = np.clip(np.log10(np.maximum(values, 1e-300)), EDGES[0], EDGES[-1] - 1e-9)
    counts, edges = np.histogram(logs, EDGES)
    return tuple((float(edge), int(count)) for edge, count in zip(edges[:-1], counts, strict=True))
