"""Whether two models choose the same tokens, as far as rounding allows to demand it. Pure.

Greedy answers of two engines, or of two quantisations of one model, part sooner or later: where the two most
probable tokens lie closer than rounding moves them, either may win, and everything behind is another text.
So a token is demanded only where the gap between the two best is larger than ``MARGIN`` in one of the models.
Two answers are compared up to the first place where they part; what a model would have written behind the
other's words, at every place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ggufpack.engine.openai_answers import OpenAIAnswer, TokenLogprob

# twice what rounding moves one probability: 0.405 at most from Q8_0 to Q4_K_M of SmolLM2-135M, which rounds
# worse than anything larger (Ollama 0.33, 43 places). At 0.4 its Q4_K_M was accused, wrongly.
MARGIN = 0.8


@dataclass(frozen=True)
class Choice:
    """What one model does at one place: its token, that token's probability, and how far it leads.

    ``token`` ``None`` is the end of the answer. ``gap`` and ``probability`` are ``None`` where nobody says.
    """

    token: bytes | None
    probability: float | None = None
    gap: float | None = None


@dataclass(frozen=True)
class Parting:
    """The common part of two answers.

    Attributes:
        places: tokens compared, those where they part included.
        agreed: those that are the same.
        demanded: those where rounding is no excuse.
        largest: largest difference of the probability of a common token; ``None`` when none was known.
        detail: why it is no rounding, where they part; ``None`` where nothing is wrong.
    """

    places: int
    agreed: int
    demanded: int
    largest: float | None
    detail: str | None


def choices(answer: OpenAIAnswer) -> tuple[Choice, ...]:
    """The choices of an answer with log probabilities; the end, where it ended by itself, is the last.

    llama.cpp lists the end token with an empty text; elsewhere its gap is not known.
    """
    found = [_choice(token) for token in answer.tokens if token.token]
    if answer.finish_reason != "stop":
        return tuple(found)
    last = answer.tokens[-1:]
    if last and not last[0].token:
        end = _choice(last[0])
        return (*found, Choice(None, end.probability, end.gap))
    return (*found, Choice(None))


def compare(one: Sequence[Choice], other: Sequence[Choice], *, one_path: bool = False) -> Parting:
    """Two answers to one prompt, up to where they part or the shorter was cut off.

    Args:
        one: choices of a model.
        other: of the other one.
        one_path: the other chose behind the first's words at every place, so that all can be compared.
    """
    places = agreed = demanded = 0
    largest: float | None = None
    detail: str | None = None
    before: list[bytes] = []
    for left, right in zip(one, other, strict=False):
        if _is_broken(left.token) or _is_broken(right.token):
            break
        places += 1
        sure = max(left.gap or 0.0, right.gap or 0.0) > MARGIN
        demanded += sure
        if left.token == right.token:
            agreed += 1
            if left.probability is not None and right.probability is not None:
                largest = max(largest or 0.0, abs(left.probability - right.probability))
        elif sure and detail is None:
            text = b"".join(before)[-60:].decode("utf-8", "replace")
            detail = f"behind {text!r} it chooses {_shown(left)}, the other {_shown(right)}"
        if left.token != right.token and not one_path:
            break
        before.append(left.token or b"")
    return Parting(places, agreed, demanded, largest, detail)


def _is_broken(token: bytes | None) -> bool:
    """Part of a character: vLLM does not say which."""
    return token is not None and "\ufffd" in token.decode("utf-8", "replace")


def _choice(token: TokenLogprob) -> Choice:
    best = sorted((math.exp(logprob) for _, logprob in token.top), reverse=True)
    gap = best[0] - best[1] if len(best) > 1 else None
    return Choice(token.token, math.exp(token.logprob), gap)


def _shown(choice: Choice) -> str:
    name = "the end" if choice.token is None else repr(choice.token.decode("utf-8", "replace"))
    return name if choice.probability is None else f"{name} ({choice.probability:.2f})"
