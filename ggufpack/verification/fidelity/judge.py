"""Is it rounding, or is it broken? Where the line is, and why.

The source's weights, rounded as the file says and computed by torch, are what the package has to be.
What the engine may add is its arithmetic: it rounds what goes into each product to 8 bits (or F16, BF16).
Doing that in torch as well tells how far such rounding moves this model's logits on these texts. Two
engines that round at other places and in another order differ by the same amount again, so the limit is
twice it, and a hundredth for what always differs (the F16 cache of keys and values, the order of sums).
Everything is relative to the logits' own size, so one line serves all models.

With 8-bit inputs that limit is wide, and a small mistake stays under it. So a file that passes is computed
once more with its weights decoded to F32 (``fidelity.decoded``). There the engine rounds nothing but its
cache to F16, and the limit is twice what rounding every input to F16 does, and the hundredth. Where a router
chooses experts, a score that is nearly another's flips with any rounding, and that position has other
experts: the tenth of the positions with the largest errors does not count then, on either side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

ARITHMETIC_FACTOR = 2.0
FLOOR = 0.01


@dataclass(frozen=True)
class Judgement:
    """``verdict`` with its figures, and what was ``not_checked``; see ``proofs.Fidelity``."""

    verdict: Literal["sound", "broken"]
    error: float
    limit: float
    detail: str
    not_checked: str = ""


def hides_mistakes(arithmetic: float) -> bool:
    """Whether the engine's own rounding is most of the limit, so that the weights have to be decoded."""
    return ARITHMETIC_FACTOR * arithmetic > FLOOR


def judge_decoded(before: Judgement, error: float, *, arithmetic: float) -> Judgement:
    """The verdict on a file that passed, from its weights decoded to F32.

    Args:
        before: of the file as it is.
        error: relative distance of its logits from the rounded source's, with the weights decoded.
        arithmetic: how far rounding all inputs to F16 moves the logits.
    """
    limit = ARITHMETIC_FACTOR * arithmetic + FLOOR
    detail = (
        f"{before.detail}; with its weights decoded, so that the engine rounds next to nothing, they are "
        f"{error:.4f} away, and a sound file is within {limit:.4f}"
    )
    return Judgement("sound" if error <= limit else "broken", error, limit, detail)


def judge(error: float, *, arithmetic: float, moved: float, exact: bool) -> Judgement:
    """The verdict on one file.

    Args:
        error: relative distance of the package's logits from what they have to be: from the rounded
            source where ``exact``, from the source itself otherwise.
        arithmetic: how far the engine's own rounding moves the logits.
        moved: how far the rounding of the weights moves them.
        exact: whether the rounding could be repeated for every weight. Where not, a package is
            accused only when it is further from the source than twice the distance of such rounding.
    """
    explained = arithmetic if exact else math.hypot(arithmetic, moved)
    limit = ARITHMETIC_FACTOR * explained + FLOOR
    base = "the trained weights, rounded as the file says" if exact else "the trained model"
    explains = "the engine's arithmetic explains" if exact else "such rounding explains"
    detail = f"its logits are {error:.3f} away from {base}; {explains} up to {limit:.3f}"
    return Judgement("sound" if error <= limit else "broken", error, limit, detail)
