"""What is found of an embedding model's figures."""

from __future__ import annotations

from dataclasses import replace

from ggufpack.proofs import TextCosine, TokenizerMiss, TokenizerParity, Verification
from ggufpack.spec import Severity
from ggufpack.verification.findings import embedding_findings, encoder_not_compared
from tests.support.records import EMBEDDING

ALIKE = TextCosine("letter", "en", 106, 0.99999, 0.99999)
MEASURED = replace(EMBEDDING, by_text=(ALIKE,), truncated=0.99995)
SOUND = Verification("m:f16", "Ollama", "fidelity", tokenizer=TokenizerParity(10), embedding=MEASURED)


def found(**changes: object) -> list[tuple[str, Severity]]:
    measured = replace(MEASURED, **changes)  # type: ignore[arg-type]
    return [(one.id, one.severity) for one in embedding_findings(replace(SOUND, embedding=measured))]


def test_nothing_is_said_of_a_sound_one() -> None:
    """Not that log probabilities were not compared: it has none."""
    assert found() == []


def test_a_broken_one_is_an_error() -> None:
    assert found(verdict="broken") == [("GP620", Severity.ERROR)]
    (finding,) = embedding_findings(replace(SOUND, embedding=replace(MEASURED, verdict="broken")))
    assert MEASURED.detail in finding.message


def test_small_mistakes_that_were_not_looked_for_are_said() -> None:
    assert found(not_checked="that takes 900 MiB of memory") == [("GP623", Severity.UNCHECKED)]


def test_a_long_text_that_the_server_cuts_elsewhere_is_a_warning() -> None:
    assert found(truncated=0.99) == [("GP627", Severity.WARNING)]
    assert found(truncated=None) == []


def test_texts_of_other_tokens_are_told_with_the_worst() -> None:
    cut = [TextCosine(name, "hi", 45, value, value, True) for name, value in (("one", 0.98), ("two", 0.97))]
    assert found(by_text=(*cut, ALIKE)) == [("GP628", Severity.WARNING)]
    (finding,) = embedding_findings(replace(SOUND, embedding=replace(MEASURED, by_text=(*cut, ALIKE))))
    assert "2 of 3 texts" in finding.message
    assert "0.9700, two" in finding.message


def test_an_ordinary_text_cut_otherwise_is_an_error() -> None:
    miss = TokenizerMiss("letter", "river", ("river",), ("boats",))
    parity = replace(SOUND, tokenizer=TokenizerParity(10, (miss,)))
    assert [(one.id, one.severity) for one in embedding_findings(parity)] == [("GP614", Severity.ERROR)]
    assert not parity.passed


def test_not_compared_says_why() -> None:
    finding = encoder_not_compared("m", "it has no modules.json")
    assert (finding.id, finding.severity) == ("GP610", Severity.UNCHECKED)
    assert finding.message.endswith("it has no modules.json")
