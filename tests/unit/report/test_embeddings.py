"""What the page, the Markdown and the result line say of an embedding model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ggufpack.cli.proof import proof
from ggufpack.report import words
from ggufpack.report.page import render_markdown, render_report
from ggufpack.report.reading import typed
from ggufpack.report.view import make_view
from tests.support.records import EMBEDDING, EMBEDDING_PROOF, record_of

BROKEN = replace(EMBEDDING_PROOF, embedding=replace(EMBEDDING, verdict="broken", expected_min=0.71))


def test_the_page_shows_cosines_and_no_prompts() -> None:
    record = record_of(("Q8_0",), (EMBEDDING_PROOF,))
    page = render_report(record)
    assert "0.9996" in page
    assert "cut into other tokens" in page
    assert "not needed" not in page
    for absent in ("KL, nats", "Perplexity", "Prompts", "Ends an answer"):
        assert absent not in page, absent
    assert r"| Q8\_0 | 144.8 MB | 0.9996 | 0.9990 | 0.9995 (limit 0.9967) |" in render_markdown(record)


def test_the_verdict_speaks_of_vectors() -> None:
    view = make_view(typed(record_of(("Q8_0",), (EMBEDDING_PROOF,))))
    assert view.status == "verified"
    assert "rounding explains every difference of its vectors" in view.verdict
    assert "answer" not in view.verdict
    assert "same tokens" not in view.verdict, "one text is not"
    assert [(item.label, item.value, item.note) for item in view.headlines] == [
        ("Cosine, Q8_0", "0.9996", "lowest 0.9990")
    ]
    assert not [line for line in view.unchecked if "weights" not in line and "GP604" not in line]


def test_a_broken_one_fails() -> None:
    assert EMBEDDING_PROOF.passed
    assert not BROKEN.passed
    view = make_view(typed(record_of(("Q8_0",), (BROKEN,), "failed")))
    assert view.status == "failed"
    assert view.types[0].problems == ("rounding does not explain the difference of its vectors",)
    assert "is 0.99949" in render_report(record_of(("Q8_0",), (BROKEN,), "failed"))


def test_without_a_comparison_that_is_said() -> None:
    smoke = replace(EMBEDDING_PROOF, level="smoke", tokenizer=None, embedding=None)
    view = make_view(typed(record_of(("Q8_0",), (smoke,))))
    assert "it makes embeddings" in view.verdict
    assert [item.value for item in view.headlines] == ["not checked"]
    assert any("vectors were not compared" in line for line in view.unchecked)
    assert not any("Prompts" in line or "Stops" in line for line in view.unchecked)


def test_the_result_line() -> None:
    line = proof(EMBEDDING_PROOF)
    assert "an embedding of 384 dimensions" in line
    assert "sound: cosine to the trained model 0.999550 (lowest 0.998960)" in line
    assert "answer" not in line


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.98765, "0.9877"), (0.999936, "0.9999"), (0.999996, "0.999996"), (1.0, "1.0000"), (-0.5, "-0.5000")],
)
def test_only_equal_vectors_have_the_cosine_1(value: float, text: str) -> None:
    assert words.cosine(value) == text
