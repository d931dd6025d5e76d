"""The smoke test of an encoder: one embedding."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ggufpack.proofs import EMBEDDED, SmokeResult


def check_embedding(vector: Sequence[float]) -> SmokeResult:
    """Whether an embedding is finite and not zero.

    Args:
        vector: the embedding of any text.
    """
    length = math.sqrt(sum(value * value for value in vector))
    ok = math.isfinite(length) and length > 0
    detail = None if ok else f"the embedding of {len(vector)} dimensions has the length {length}"
    return SmokeResult(ok, f"{len(vector)} dimensions", EMBEDDED, 0, detail=detail)
