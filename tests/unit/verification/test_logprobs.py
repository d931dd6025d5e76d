"""How probabilities are compared. Real engines: tests/integration/test_logprobs.py."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import pytest

from ggufpack.engine.ollama import OllamaEngine
from ggufpack.proofs import LogprobCheck, Verification
from ggufpack.verification.findings import fidelity_findings
from ggufpack.verification.logprobs import PLAIN, check_logprobs

GIVEN = {b"A": 0.6, b"B": 0.3, b"C": 0.05}


class Given:
    def __init__(self, *tokens: tuple[bytes, float]) -> None:
        self._tokens = tuple((token, math.log(probability)) for token, probability in tokens)

    def next_tokens(self, messages: Any, *, think: bool | None = None) -> tuple[tuple[bytes, float], ...]:
        return self._tokens


def check(wanted: Mapping[bytes, float] | None, *given: tuple[bytes, float]) -> LogprobCheck | None:
    engine = cast(OllamaEngine, Given(*(given or GIVEN.items())))
    return check_logprobs(engine, lambda _: wanted, conversations=PLAIN[:2], limit=0.1)


@pytest.mark.parametrize(
    ("wanted", "largest"),
    [
        (GIVEN, 0.0),
        ({**GIVEN, b"A": 0.5}, 0.1),
        ({b"A": 0.6, b"B": 0.3}, 0.05),
        ({b"A": 0.6, b"B": 0.3, b"D": 0.05}, 0.05),  # D may be as probable as C is said to be
        ({**GIVEN, b"E": 0.35}, 0.3),  # E can have 0.05 at most
        ({**GIVEN, b"": 0.9, b"\xf0": 0.9}, 0.0),  # the server cannot say which these are
    ],
)
def test_the_largest_difference(wanted: Mapping[bytes, float], largest: float) -> None:
    done = check(wanted)
    assert done is not None
    assert done.cases == 2
    assert done.largest == pytest.approx(largest, abs=1e-9)


def test_what_differs_is_named() -> None:
    done = check({b"A": 0.1, b"B": 0.3, b"C": 0.05})
    assert done is not None
    assert not done.equal
    name = max(one.name for one in PLAIN[:2])
    assert done.detail == f"conversation '{name}', next token 'A': 0.600 on the server, 0.100 expected"
    verification = Verification("m:q8_0", "Ollama 1", "fidelity", logprobs=done)
    (finding,) = [one for one in fidelity_findings(verification) if one.id == "GP619"]
    assert "differ by 0.500" in finding.message
    assert done.detail in finding.message


def test_tokens_of_the_same_bytes_are_added_up() -> None:
    done = check({b"A": 0.6}, (b"A", 0.4), (b"A", 0.2))
    assert done is not None
    assert done.largest == pytest.approx(0.0)


def test_nothing_to_compare_is_not_checked() -> None:
    assert check(None) is None
    engine = cast(OllamaEngine, Given())
    assert check_logprobs(engine, lambda _: GIVEN) is None
