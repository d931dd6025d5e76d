"""Two models row by row, figures with intervals, and the verdict."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from ggufpack.verification.fidelity.compare import Compared, Distance, compare_text, divergence
from ggufpack.verification.fidelity.distributions import Distributions, Rows, log_softmax
from ggufpack.verification.fidelity.judge import hides_mistakes, judge, judge_decoded
from ggufpack.verification.fidelity.statistics import (
    EDGES,
    Resamples,
    histogram,
    perplexity,
    quantiles,
)
from tests.unit.verification.fidelity.test_distributions import logits, written

RANDOM = np.random.default_rng(1)
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6] * 9


@pytest.fixture
def rows() -> Rows:
    return logits(len(TOKENS), 40)


@pytest.fixture
def source(rows: Rows, tmp_path: Path) -> Distributions:
    return written(tmp_path / "source", log_softmax(rows))


def compared(package: Rows, source: Distributions, **options: object) -> Compared:
    into = Compared()
    compare_text(into, 0, TOKENS, iter(package), source, 0, **options)  # type: ignore[arg-type]
    return into


def test_divergence_is_the_formula() -> None:
    p, q = log_softmax(logits(3, 6)), log_softmax(logits(3, 6))
    wanted = [
        sum(math.exp(a) * (a - b) for a, b in zip(one, other, strict=True))
        for one, other in zip(p.tolist(), q.tolist(), strict=True)
    ]
    assert divergence(p, q) == pytest.approx(wanted, rel=1e-5)
    assert (divergence(p, p) == 0).all()


def test_a_distance_ignores_what_no_probability_depends_on() -> None:
    rows = logits(5, 30)
    shifted, doubled, other = Distance(), Distance(), Distance()
    shifted.add(rows, rows + 7)
    doubled.add(rows, 2 * rows)
    other.add(rows, logits(5, 30))
    assert shifted.relative < 1e-5
    assert doubled.relative == pytest.approx(1)
    assert other.relative == pytest.approx(math.sqrt(2), rel=0.2)
    assert Distance().relative == 0


def test_a_distance_of_parts_is_that_of_the_whole() -> None:
    rows, noise = logits(8, 30), logits(8, 30, 1.0)
    whole, parts = Distance(), Distance()
    whole.add(rows, rows + noise)
    for at in range(8):
        parts.add(rows[at : at + 1], rows[at : at + 1] + noise[at : at + 1])
    assert parts.relative == pytest.approx(whole.relative, rel=1e-5)


def test_every_position_is_counted(rows: Rows, source: Distributions) -> None:
    same = compared(rows, source)
    assert len(same.kl) == len(same.agree) == len(same.source) == len(TOKENS)
    assert max(same.kl) < 1e-6
    assert same.agree == [1] * len(TOKENS)
    assert math.isnan(same.source[-1])
    assert math.isnan(same.package[-1])
    wanted = [log_softmax(rows)[at, TOKENS[at + 1]] for at in range(len(TOKENS) - 1)]
    assert same.package[:-1] == pytest.approx(wanted, abs=1e-5)
    assert same.source[:-1] == pytest.approx(wanted, abs=1e-3)


def test_one_bad_position_is_the_worst(rows: Rows, source: Distributions) -> None:
    package = rows.copy()
    package[50] = -package[50]
    package[7, 2] += 1
    found = compared(package, source, worst=3)
    assert found.worst[0]["position"] == 50
    assert found.worst[0]["kl"] == max(found.kl) == found.kl[50]
    assert len(found.worst) == 3
    first, probability, of_package = found.worst[0]["choices"][0]
    assert first == int(rows[50].argmax())
    assert probability == pytest.approx(math.exp(log_softmax(rows)[50].max()), abs=1e-3)
    assert of_package < 1e-3
    assert int(package[50].argmax()) in [token for token, _, _ in found.worst[0]["choices"]]
    assert found.agree[50] == 0


def test_padding_of_a_vocabulary_does_not_count(rows: Rows, source: Distributions, tmp_path: Path) -> None:
    wider = np.concatenate([rows, np.full((len(rows), 8), 3.0, np.float32)], -1)
    assert max(compared(wider, source).kl) < 1e-6
    padded = written(tmp_path / "padded", log_softmax(wider))
    assert max(compared(rows, padded).kl) < 1e-6


def test_the_distance_is_from_what_it_has_to_be(rows: Rows, source: Distributions, tmp_path: Path) -> None:
    rounded = rows + logits(len(rows), rows.shape[1], 0.5)
    against = written(tmp_path / "rounded", log_softmax(rounded))
    found = compared(rounded, source, against=against)
    assert found.distance.relative < 1e-3
    assert np.mean(found.kl) > 0.01
    assert compared(rounded, source).distance.relative > 0.05


def test_an_interval_holds_the_mean_of_most_samples() -> None:
    held = 0
    for _ in range(60):
        values = RANDOM.exponential(1.0, 640)
        estimate = Resamples([320, 320]).mean(values)
        assert estimate.value == pytest.approx(values.mean())
        held += estimate.low <= 1.0 <= estimate.high
    assert held >= 48


def test_neighbours_that_are_alike_widen_it() -> None:
    alone = RANDOM.standard_normal(1280)
    alike = np.repeat(RANDOM.standard_normal(20), 64)
    resamples = Resamples([1280])
    narrow, wide = (resamples.mean(values) for values in (alone, alike))
    assert (wide.high - wide.low) > 4 * (narrow.high - narrow.low)


def test_a_difference_of_two_is_of_the_same_tokens() -> None:
    source = RANDOM.normal(-3, 1, 640)
    worse = source - 0.1
    both = Resamples([640]).of(lambda means: np.exp(-means[1]) - np.exp(-means[0]), source, worse)
    assert both.value == pytest.approx(perplexity(worse) - perplexity(source))
    assert 0 < both.low < both.value < both.high


def test_ends_of_texts_are_left_out() -> None:
    values = np.array([-1.0, -3.0, np.nan, -2.0, np.nan])
    assert perplexity(values) == pytest.approx(math.exp(2))
    assert Resamples([3, 2]).mean(values).value == pytest.approx(-2)


def test_every_value_is_in_the_histogram() -> None:
    values = np.array([0.0, 1e-12, 1e-3, 0.5, 5.0, 1e9])
    bins = histogram(values)
    assert sum(count for _, count in bins) == len(values)
    assert bins[0] == (EDGES[0], 2)
    assert dict(bins)[-3.0] == 1
    assert quantiles(np.arange(101.0)) == {"50": 50.0, "90": 90.0, "99": 99.0, "100": 100.0}


def test_the_limit_is_twice_what_is_explained() -> None:
    sound = judge(0.1, arithmetic=0.05, moved=0.3, exact=True)
    assert sound.verdict == "sound"
    assert sound.limit == pytest.approx(0.11)
    assert judge(0.12, arithmetic=0.05, moved=0.3, exact=True).verdict == "broken"
    unknown = judge(0.5, arithmetic=0.03, moved=0.4, exact=False)
    assert unknown.verdict == "sound"
    assert unknown.limit == pytest.approx(2 * math.hypot(0.03, 0.4) + 0.01)
    assert "0.500" in unknown.detail
    assert "trained model" in unknown.detail


def test_with_decoded_weights_the_line_is_sharper() -> None:
    assert hides_mistakes(0.05)
    assert not hides_mistakes(0.004)
    before = judge(0.05, arithmetic=0.05, moved=0.3, exact=True)
    assert judge_decoded(before, 0.011, arithmetic=0.001).verdict == "sound"
    after = judge_decoded(before, 0.013, arithmetic=0.001)
    assert after.verdict == "broken"
    assert after.error == 0.013
    assert after.limit == pytest.approx(0.012)
    assert before.detail in after.detail
    assert "decoded" in after.detail


def test_a_few_positions_with_other_experts_do_not_count() -> None:
    rows = logits(20, 30)
    other = rows.copy()
    other[[3, 11]] = logits(2, 30)
    distance = Distance()
    distance.add(rows, other)
    assert distance.relative > 0.2
    assert distance.usual < 1e-6
    other[5] = logits(1, 30)[0]
    more = Distance()
    more.add(rows, other)
    assert more.usual > 0.2
