"""Where rounding is an excuse for another token, and where it is not."""

from __future__ import annotations

import math

import pytest

from ggufpack.engine.openai_answers import OpenAIAnswer, TokenLogprob
from ggufpack.verification.agreement import MARGIN, Choice, choices, compare

SURE, UNSURE = MARGIN + 0.05, MARGIN - 0.05
HI = Choice(b"Hi", 0.9, SURE)


def test_equal_answers_agree() -> None:
    found = compare([HI, Choice(None)], [Choice(b"Hi", 0.8, SURE), Choice(None)])
    assert (found.places, found.agreed, found.demanded, found.detail) == (2, 2, 1, None)
    assert found.largest == pytest.approx(0.1)


def test_a_near_tie_ends_the_comparison_without_blame() -> None:
    one = [HI, Choice(b".", 0.5, UNSURE), Choice(b"A", 0.9, SURE)]
    other = [HI, Choice(b"!", 0.5, UNSURE), Choice(b"B", 0.9, SURE)]
    found = compare(one, other)
    assert (found.places, found.agreed, found.detail) == (2, 1, None)


@pytest.mark.parametrize("gaps", [(SURE, None), (UNSURE, SURE), (SURE, SURE)])
def test_a_lead_that_rounding_does_not_turn_is_blamed(gaps: tuple[float, float | None]) -> None:
    found = compare([HI, Choice(b".", 0.9, gaps[0])], [HI, Choice(None, None, gaps[1])])
    assert found.detail == "behind 'Hi' it chooses '.' (0.90), the other the end"


def test_on_one_path_every_place_counts() -> None:
    one = [Choice(b".", 0.5, UNSURE), Choice(b"A", 0.9, SURE), HI]
    other = [Choice(b"!", 0.5, UNSURE), Choice(b"B", 0.9, SURE), HI]
    found = compare(one, other, one_path=True)
    assert (found.places, found.agreed, found.demanded) == (3, 1, 2)
    assert found.detail is not None
    assert found.detail.startswith("behind '.' ")


def test_a_part_of_a_character_is_not_compared() -> None:
    found = compare([HI, Choice(b"\xf0\x9f", 0.9, SURE)], [HI, Choice("\ufffd".encode(), 0.9, SURE)])
    assert (found.places, found.detail) == (1, None)


def test_the_end_is_a_choice() -> None:
    log = math.log
    token = TokenLogprob(b"Hi", log(0.75), ((b"Hi", log(0.75)), (b"Hello", log(0.25))))
    end = TokenLogprob(b"", log(0.5), ((b"", log(0.5)), (b".", log(0.375))))
    (hi, last) = choices(OpenAIAnswer("Hi", finish_reason="stop", tokens=(token, end)))
    assert (hi.token, last.token) == (b"Hi", None)
    assert hi.gap == pytest.approx(0.5)
    assert last.gap == pytest.approx(0.125)
    assert choices(OpenAIAnswer("Hi", finish_reason="stop", tokens=(token,)))[1] == Choice(None)
    assert len(choices(OpenAIAnswer("Hi", finish_reason="length", tokens=(token,)))) == 1
