"""The server's own log probabilities against those of another llama.cpp, on the same file.

It shows that the name runs this very file: a model that was trained or quantised otherwise gives other
probabilities.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from ggufpack.engine.ollama import OllamaEngine
from ggufpack.engine.protocol import Message
from ggufpack.proofs import LogprobCheck
from ggufpack.verification.conversations import CONVERSATIONS, Conversation

# bytes of a token to its probability as the next one
NextTokens = Mapping[bytes, float]

# Ollama 0.33 against xllamacpp 2026.10, SmolLM2-135M: 0.04 to 0.06 on one file (Q8_0, Q4_K_M); 0.17 to 0.26
# where one ran Q8_0 and the other Q4_K_M. Types that lie closer than these two may not be told apart.
LIMIT = 0.12
_REPLACEMENT = "\ufffd".encode()

_NAMES = (
    "one question",
    "system and question",
    "two turns",
    "three turns with system",
    "six turns",
    "accents",
    "json",
    "code",
)
PLAIN: tuple[Conversation, ...] = tuple(one for one in CONVERSATIONS if one.name in _NAMES)


def check_logprobs(
    engine: OllamaEngine,
    expected: Callable[[Sequence[Message]], NextTokens | None],
    *,
    think: bool | None = None,
    conversations: Sequence[Conversation] = PLAIN,
    limit: float = LIMIT,
) -> LogprobCheck | None:
    """Compare the next token's probabilities, the server's 20 best, in each conversation.

    Tokens are matched by their bytes; those of the same bytes are added up. A token without bytes (a control
    token), or with a part of a character, is left out: the server does not say which it is. For a token that
    the server leaves out, its probability counts as the least that it gives.

    Args:
        engine: the server's model.
        expected: all tokens' probabilities after a conversation's prompt, by the other engine;
            ``None`` leaves the conversation out.
        think: what the prompt of ``expected`` was made with; a tag of thinking is a token like others.
        conversations: what to compare.
        limit: the largest difference that two versions of llama.cpp may show.

    Returns:
        ``None`` when no conversation could be compared: the server gives no log probabilities.

    Raises:
        RegistryError: the server failed.
    """
    worst: tuple[float, str] = (0.0, "")
    cases = 0
    for conversation in conversations:
        wanted = expected(conversation.messages)
        if wanted is None:
            continue
        given = engine.next_tokens(conversation.messages, think=think)
        if not given:
            continue
        cases += 1
        worst = max(worst, _difference(conversation.name, given, wanted))
    if not cases:
        return None
    largest, detail = worst
    return LogprobCheck(cases, largest, limit, detail if largest > limit else None)


def _difference(name: str, given: Sequence[tuple[bytes, float]], wanted: NextTokens) -> tuple[float, str]:
    """The largest difference of a probability, and a sentence about it."""
    actual: dict[bytes, float] = defaultdict(float)
    for token, logprob in given:
        actual[token] += math.exp(logprob)
    least = min(math.exp(logprob) for _, logprob in given)
    rows = [
        (abs(probability - wanted.get(token, 0.0)), token, probability)
        for token, probability in actual.items()
        if _is_text(token)
    ]
    rows += [
        (max(0.0, probability - least), token, least)
        for token, probability in wanted.items()
        if _is_text(token) and token not in actual
    ]
    if not rows:
        return 0.0, ""
    difference, token, probability = max(rows)
    text = token.decode("utf-8", "backslashreplace")
    return difference, (
        f"conversation '{name}', next token {text!r}: {probability:.3f} on the server,"
        f" {wanted.get(token, 0.0):.3f} expected"
    )


def _is_text(token: bytes) -> bool:
    return bool(token) and _REPLACEMENT not in token and token.decode("utf-8", "ignore").encode() == token
