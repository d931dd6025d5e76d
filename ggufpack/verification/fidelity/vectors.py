"""Vectors of texts beside each other, and where the line is.

The line is drawn as in ``judge``: what the engine's arithmetic moves the vectors of the rounded source, taken
twice, and a hundredth. There it is a distance in relation to the vectors' length. For vectors of unit length
that are a distance d apart the cosine is 1 - d²/2, and cosines are what people compare. Every single text
has to hold it: what breaks one kind of text only would not show in a mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpack.verification.fidelity.judge import ARITHMETIC_FACTOR, FLOOR

Vectors = NDArray[np.float64]


def cosines(one: Vectors, other: Vectors) -> Vectors:
    """Of each row with the same row; 0 for a vector of length 0 or with a value that is no number."""
    found: Vectors = np.einsum("ij,ij->i", unit(one), unit(other))
    return found


def unit(vectors: Vectors) -> Vectors:
    """Rows of length 1; what has no direction becomes 0."""
    with np.errstate(invalid="ignore", over="ignore"):
        lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
        known = np.isfinite(lengths) & (lengths > 0)
        scaled: Vectors = np.where(known, vectors / np.where(known, lengths, 1.0), 0.0)
    return scaled


def distance(cosine: float) -> float:
    """Of two unit vectors."""
    return float(np.sqrt(max(0.0, 2.0 - 2.0 * cosine)))


def limit_of(arithmetic: Vectors, moved: Vectors | None = None) -> float:
    """The cosine that every text has to reach.

    Args:
        arithmetic: cosines of the rounded source's vectors with and without the engine's arithmetic.
        moved: cosines of the rounded source to the source, where the rounding could not be repeated
            exactly, so that the package is compared with the source itself.
    """
    explained = distance(float(arithmetic.min()))
    if moved is not None:
        explained = float(np.hypot(explained, distance(float(moved.min()))))
    reach = ARITHMETIC_FACTOR * explained + FLOOR
    return 1.0 - reach * reach / 2.0


def similarity_change(source: Vectors, package: Vectors) -> tuple[float, float | None]:
    """Largest difference of the cosine of two texts, and Spearman's correlation of all of them.

    The correlation is ``None`` for fewer than three texts, which have no order to speak of.
    """
    pairs = np.triu_indices(len(source), 1)
    before, after = ((unit(rows) @ unit(rows).T)[pairs] for rows in (source, package))
    if not len(before):
        return 0.0, None
    difference = float(np.abs(before - after).max())
    if len(source) < 3:
        return difference, None
    ranks = np.stack([before, after]).argsort().argsort()
    return difference, float(np.asarray(np.corrcoef(ranks))[0, 1])


def as_vectors(rows: Any) -> Vectors:
    """From JSON."""
    return np.asarray(rows, dtype=np.float64)
