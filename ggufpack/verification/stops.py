"""Stops: an answer is forced to hold each of them, and has to end there.

What a model likes to say does not matter for that: an engine lets it write one text only, or one token. Both
are needed: a stop parameter is compared with text, and a control token, which is what a model really writes,
has none (llama.cpp prints control tokens as nothing). Such a token ends an answer only where the GGUF names
it, or llama.cpp knows its text.
"""

from __future__ import annotations

from collections.abc import Sequence

from ggufpack.engine.protocol import Engine, Generation
from ggufpack.proofs import StopCheck

_BEFORE, _AFTER = "one", "two"
_SPARE_TOKENS = 8
_TOKENS = 8  # that an end token gets to be repeated


def check_stops(
    engine: Engine, stops: Sequence[str], end_tokens: Sequence[tuple[int, str]]
) -> tuple[StopCheck, ...]:
    """Try every stop string and every token that ends a turn.

    Args:
        engine: with the package's own stop strings.
        stops: those strings.
        end_tokens: ids and texts of tokens.

    Raises:
        RegistryError, VerificationError: the engine failed.
    """
    strings = (_string(engine, stop) for stop in stops)
    tokens = (_token(engine, token, text) for token, text in end_tokens)
    return (*strings, *tokens)


def _string(engine: Engine, stop: str) -> StopCheck:
    text = f"{_BEFORE}{stop}{_AFTER}"
    answer = engine.force_text(text, max_tokens=len(text.encode()) + _SPARE_TOKENS)
    if stop in answer.text:
        return StopCheck(stop, "string", False, f"the answer goes on: {answer.text!r}")
    if answer.done_reason != "stop" or not answer.text.endswith(text.partition(stop)[0]):
        return StopCheck(stop, "string", None, _other(answer))
    return StopCheck(stop, "string", True)


def _token(engine: Engine, token: int, text: str) -> StopCheck:
    answer = engine.force_token(token, text, max_tokens=_TOKENS)
    if answer.text.replace(text, ""):
        return StopCheck(text, "token", None, _other(answer))
    if answer.text:
        return StopCheck(text, "token", False, f"it shows in the answer: {answer.text!r}")
    if answer.done_reason != "stop" or answer.generated_tokens > 1:
        return StopCheck(text, "token", False, f"{answer.generated_tokens} of them did not end it")
    return StopCheck(text, "token", True)


def _other(answer: Generation) -> str:
    return f"the engine could not be made to write it ({answer.text!r}, {answer.done_reason or 'no reason'})"
