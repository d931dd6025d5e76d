"""What the answers to forced texts and tokens mean. Real engines: tests/integration/test_stops.py."""

from __future__ import annotations

from typing import cast

import pytest

from ggufpack.engine.protocol import Engine, Generation
from ggufpack.proofs import StopCheck, Verification
from ggufpack.spec import Severity
from ggufpack.verification.findings import findings_of
from ggufpack.verification.stops import check_stops


class Forced:
    """An engine that gives one answer, whatever it is forced to."""

    def __init__(self, text: str, done_reason: str = "stop", tokens: int = 1) -> None:
        self._answer = Generation(text, done_reason, 1, tokens)

    def force_text(self, text: str, *, max_tokens: int) -> Generation:
        return self._answer

    def force_token(self, token: int, text: str, *, max_tokens: int) -> Generation:
        return self._answer


@pytest.mark.parametrize(
    ("text", "done_reason", "ended"),
    [
        ("one", "stop", True),
        ('"one', "stop", True),
        ("one<end>two", "stop", False),
        ("one<end>", "length", False),
        ("Hello!", "stop", None),  # it was not forced at all
        ("one", "length", None),
        ("one", "", None),
        ("", "stop", None),
    ],
)
def test_a_stop_string(text: str, done_reason: str, ended: bool | None) -> None:
    (check,) = check_stops(cast(Engine, Forced(text, done_reason)), ["<end>"], [])
    assert (check.stop, check.kind, check.ended) == ("<end>", "string", ended)
    assert (check.detail is None) == (ended is True)


@pytest.mark.parametrize(
    ("text", "done_reason", "tokens", "ended"),
    [
        ("", "stop", 1, True),
        ("", "length", 8, False),
        ("", "", 30, False),
        ("", "stop", 2, False),  # something else ended it
        ("<end>", "stop", 1, False),
        ("<end><end>", "length", 2, False),
        ("Hello!", "stop", 3, None),
    ],
)
def test_an_end_token(text: str, done_reason: str, tokens: int, ended: bool | None) -> None:
    (check,) = check_stops(cast(Engine, Forced(text, done_reason, tokens)), [], [(7, "<end>")])
    assert (check.stop, check.kind, check.ended) == ("<end>", "token", ended)
    assert (check.detail is None) == (ended is True)


def test_findings() -> None:
    checks = (
        StopCheck("a", "string", True),
        StopCheck("\nb", "string", False, "the answer goes on: 'x'"),
        StopCheck("<c>", "token", False, "8 of them did not end it"),
        StopCheck("d", "string", None, "why"),
    )
    done = Verification("m:q8_0", "engine 1", "smoke", stops=checks)
    found = [finding for finding in findings_of(done) if finding.id in ("GP615", "GP616")]
    assert [(finding.id, finding.severity) for finding in found] == [
        ("GP615", Severity.ERROR),
        ("GP615", Severity.ERROR),
        ("GP616", Severity.UNCHECKED),
    ]
    assert found[0].message == (
        "m:q8_0: engine 1, the stop '\\nb' does not end an answer: the answer goes on: 'x'"
    )
    assert "eos, eot or eom" in (found[1].action or "")
    assert found[2].message.endswith("'d' was not tried: why")
