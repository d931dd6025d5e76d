"""Cosines, the line they have to reach, and what retrieval sees."""

from __future__ import annotations

import numpy as np
import pytest

from ggufpack.verification.fidelity.embedding import _longer_than, _without_marks
from ggufpack.verification.fidelity.vectors import (
    Vectors,
    as_vectors,
    cosines,
    distance,
    limit_of,
    similarity_change,
    unit,
)


def at(*degrees: float) -> Vectors:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], -1)


def test_cosines_do_not_depend_on_length() -> None:
    assert cosines(3 * at(0, 10), at(60, 10)) == pytest.approx([0.5, 1.0])


@pytest.mark.parametrize("bad", [[0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0]])
def test_a_vector_without_a_direction_is_like_nothing(bad: list[float]) -> None:
    assert cosines(as_vectors([bad]), at(0)) == [0.0]
    assert np.isfinite(unit(as_vectors([bad]))).all()


def test_the_limit_is_twice_the_arithmetic_and_a_hundredth() -> None:
    assert limit_of(as_vectors([1.0, 1.0])) == pytest.approx(1 - 0.01**2 / 2)
    arithmetic = as_vectors([0.9999, 0.9992])
    reach = 2 * distance(0.9992) + 0.01
    assert limit_of(arithmetic) == pytest.approx(1 - reach**2 / 2)
    # the rounding of the weights counts where it could not be repeated
    assert limit_of(arithmetic, as_vectors([0.99, 0.96])) < limit_of(arithmetic) < 0.999


def test_similarities_and_their_order() -> None:
    source = at(0, 10, 40, 90)
    assert similarity_change(source, source) == pytest.approx((0.0, 1.0))
    # a rotation of all changes every vector and no similarity
    assert similarity_change(source, at(30, 40, 70, 120)) == pytest.approx((0.0, 1.0))
    difference, rank = similarity_change(source, at(0, 10, 85, 90))
    assert difference == pytest.approx(np.cos(np.radians(40)) - np.cos(np.radians(85)))
    assert rank is not None
    assert rank < 0.9
    assert similarity_change(at(0, 10), at(0, 20))[1] is None
    assert similarity_change(at(0), at(1)) == (0.0, None)


def test_only_spacing_marks_are_left_out() -> None:
    assert _without_marks("\u0939\u093f\u0928\u094d\u0926\u0940") == "\u0939\u0928\u094d\u0926"
    assert _without_marks("cafe\u0301") == "cafe\u0301"


def test_a_text_that_is_too_long_has_more_words_than_there_is_room_for() -> None:
    assert len(_longer_than(256, ["one two", "three"]).split()) > 256
