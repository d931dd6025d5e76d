"""What the page, the Markdown and the result line say of an embedding model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ggufpack.cli.proof import proof
from ggufpack.proofs import EmbeddingFidelity, SmokeResult, TextCosine, TokenizerParity, Verification
from ggufpack.report import words
from ggufpack.report.page import render_markdown, render_report
from ggufpack.report.reading import typed
from ggufpack.report.view import make_view
from tests.support.records import record_of

MEASURED = EmbeddingFidelity(
    texts="built-in 1",
    texts_digest="9f" * 32,
    count=18,
    dimensions=384,
    reference="sentence-transformers 6.2.0, torch 2.15.0 float32 on cpu",
    engine="Ollama 0.33.0",
    cosine_min=0.99896,
    cosine_mean=0.99955,
    expected_min=0.99949,
    expected_mean=0.99976,
    rounding_min=0.99954,
    similarity_difference=0.0113,
    similarity_rank=0.99898,
    limit=0.99667,
    verdict="sound",
    detail="the lowest cosine is 0.99949",
    decoded_min=0.999995,
    decoded_limit=0.999936,
    truncated=0.99955,
    by_text=(
        TextCosine("hindi", "hi", 45, 0.973, 0.974, True),
        TextCosine("letter", "en", 106, 0.9997, 0.9998),
    ),
)
SOUND = Verification(
    "minilm:q8_0",
    "Ollama 0.33.0",
    "fidelity",
    smoke=SmokeResult(True, "384 dimensions", "embedding", 0),
    tokenizer=TokenizerParity(169),
    quantization="Q8_0",
    embedding=MEASURED,
)
BROKEN = replace(SOUND, embedding=replace(MEASURED, verdict="broken", expected_min=0.71))


def test_the_page_shows_cosines_and_no_prompts() -> None:
    record = record_of(("Q8_0",), (SOUND,))
    page = render_report(record)
    assert "0.9996" in page
    assert "cut into other tokens" in page
    assert "not needed" not in page
    for absent in ("KL, nats", "Perplexity", "Prompts", "Ends an answer"):
        assert absent not in page, absent
    assert r"| Q8\_0 | 144.8 MB | 0.9996 | 0.9990 | 0.9995 (limit 0.9967) |" in render_markdown(record)


def test_the_verdict_speaks_of_vectors() -> None:
    view = make_view(typed(record_of(("Q8_0",), (SOUND,))))
    assert view.status == "verified"
    assert "rounding explains every difference of its vectors" in view.verdict
    assert "answer" not in view.verdict
    assert "same tokens" not in view.verdict, "one text is not"
    assert [(item.label, item.value, item.note) for item in view.headlines] == [
        ("Cosine, Q8_0", "0.9996", "lowest 0.9990")
    ]
    assert not [line for line in view.unchecked if "weights" not in line and "GP604" not in line]


def test_a_broken_one_fails() -> None:
    assert SOUND.passed
    assert not BROKEN.passed
    view = make_view(typed(record_of(("Q8_0",), (BROKEN,), "failed")))
    assert view.status == "failed"
    assert view.types[0].problems == ("rounding does not explain the difference of its vectors",)
    assert "is 0.99949" in render_report(record_of(("Q8_0",), (BROKEN,), "failed"))


def test_without_a_comparison_that_is_said() -> None:
    smoke = replace(SOUND, level="smoke", tokenizer=None, embedding=None)
    view = make_view(typed(record_of(("Q8_0",), (smoke,))))
    assert "it makes embeddings" in view.verdict
    assert [item.value for item in view.headlines] == ["not checked"]
    assert any("vectors were not compared" in line for line in view.unchecked)
    assert not any("Prompts" in line or "Stops" in line for line in view.unchecked)


def test_the_result_line() -> None:
    line = proof(SOUND)
    assert "an embedding of 384 dimensions" in line
    assert "sound: cosine to the trained model 0.999550 (lowest 0.998960)" in line
    assert "answer" not in line


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.98765, "0.9877"), (0.999936, "0.9999"), (0.999996, "0.999996"), (1.0, "1.0000"), (-0.5, "-0.5000")],
)
def test_only_equal_vectors_have_the_cosine_1(value: float, text: str) -> None:
    assert words.cosine(value) == text
