"""Diffs lose nothing, and show what cannot be seen."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from ggufpack.report.diff import Piece, diff, visible

# no character that is shown by a sign: signs are tested below
WORDS = st.text(st.sampled_from("abé <|>_12"), max_size=60)


def joined(pieces: tuple[Piece, ...], *kinds: str) -> str:
    texts = (run.text for piece in pieces if piece.change in kinds for run in piece.runs)
    return "".join(texts).replace("·", " ")


@given(WORDS, WORDS)
def test_both_texts_can_be_read_off(expected: str, actual: str) -> None:
    pieces = diff(expected, actual)
    assert joined(pieces, "same", "missing") == expected
    assert joined(pieces, "same", "added") == actual
    if expected != actual:
        assert any(piece.change in ("missing", "added") for piece in pieces)


def test_a_word_and_its_blanks() -> None:
    pieces = diff("user\n  Hi<|end|>", "user\nHi<|end|>")
    assert [(p.change, "".join(run.text for run in p.runs)) for p in pieces] == [
        ("same", "user↵"),
        ("missing", "··"),
        ("same", "Hi<|end|>"),
    ]


def test_what_cannot_be_seen_has_a_sign_and_a_name() -> None:
    shown = [(run.text, run.name) for run in visible("a\u200b\u00a0\u202e\t\ud800\n\r")]
    assert shown == [
        ("a", None),
        ("U+200B", "zero width space"),
        ("U+00A0", "no-break space"),
        ("U+202E", "right-to-left override"),
        ("⇥", "tab"),
        ("U+D800", "no character"),
        ("↵", "newline"),
        ("␍", "carriage return"),
    ]
    assert visible("a b", spaces=False) == visible("a b", spaces=False)
    assert [run.text for run in visible("a b")] == ["a", "·", "b"]
    assert [run.text for run in visible("a b", spaces=False)] == ["a b"]


def test_long_equal_stretches_are_left_out_and_counted() -> None:
    pieces = diff("x" * 1000 + " one " + "y" * 1000, "x" * 1000 + " two " + "y" * 1000)
    kinds = [piece.change for piece in pieces]
    assert kinds == ["left-out", "same", "missing", "added", "same", "left-out"]
    hidden = [piece.runs[0].text for piece in pieces if piece.change == "left-out"]
    assert hidden == ["841 equal characters", "841 equal characters"]


def test_a_hostile_pair_is_quick() -> None:
    started = time.monotonic()
    pieces = diff("a b " * 50_000, "b c " * 50_000)
    assert time.monotonic() - started < 5
    assert {piece.change for piece in pieces} >= {"missing", "added"}
