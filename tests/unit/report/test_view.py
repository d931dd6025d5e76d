"""The verdict never says more than the results, and what was not checked is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ggufpack.proofs import Verification
from ggufpack.report.reading import typed
from ggufpack.report.view import View, make_view
from tests.support.records import prompts, record, record_of, verification

NOTHING = Verification("smollm2-demo:q8_0", "none", "none", quantization="Q8_0")


def view(data: dict[str, Any]) -> View:
    return make_view(typed(data))


def test_all_passed() -> None:
    found = view(record(("Q8_0", "Q2_K")))
    assert found.status == "verified"
    assert found.verdict == (
        "smollm2-demo passed every check that was made: 24 prompts of 24 equal the trained model's,"
        " ordinary text is cut into the same tokens, every stop that was tried ends the answer and"
        " rounding explains every difference of probabilities."
    )
    assert [(item.label, item.value, item.state) for item in found.headlines] == [
        ("Prompts equal", "24 of 24", "ok"),
        ("KL, Q8_0", "0.000610", "ok"),
        ("KL, Q2_K", "0.284", "ok"),
        ("Stops that end", "4 of 4", "ok"),
    ]
    assert "2" not in {item.id for item in found.findings if item.severity == "unchecked"}


def test_a_failure_says_where_and_how_much() -> None:
    found = view(record(("Q8_0", "Q2_K"), wrong=("Q2_K",)))
    assert found.status == "failed"
    assert found.verdict == (
        "smollm2-demo does not behave as trained in Q2_K: 2 of 12 prompts differ, and 6 more problems."
    )
    assert [item.state for item in found.types] == ["ok", "bad"]
    assert [(miss.types, miss.case.name) for miss in found.prompt_misses] == [
        (("Q2_K",), "spaces at the edges"),
        (("Q2_K",), "two answers in a row"),
    ]
    assert [miss.miss.name for miss in found.cut_misses] == ["digits"]


def test_equal_misses_of_several_types_are_one() -> None:
    found = view(record(("Q8_0", "Q2_K"), wrong=("Q8_0", "Q2_K")))
    assert [miss.types for miss in found.prompt_misses] == [("Q8_0", "Q2_K"), ("Q8_0", "Q2_K")]


@pytest.mark.parametrize(
    "field", ["prompts", "smoke", "tokenizer", "stops", "parsed", "fidelity", "logprobs"]
)
def test_each_check_alone_can_fail_it(field: str) -> None:
    wrong = getattr(verification("Q8_0", wrong=True), field)
    proof = replace(verification("Q8_0"), **{field: wrong})
    found = view(record_of(("Q8_0",), (proof,), "verified"))
    assert found.status == "failed", "whatever the record's status says"
    assert len(found.types[0].problems) == 1
    assert "record says" not in found.verdict


def test_a_status_without_a_reason_is_believed() -> None:
    found = view(record_of(("Q8_0",), (verification("Q8_0"),), "failed"))
    assert found.status == "failed"
    assert "the record says that a check failed" in found.verdict


@pytest.mark.parametrize("status", ["verified", "unverified"])
def test_nothing_checked_is_not_verified(status: Any) -> None:
    found = view(record_of(("Q8_0",), (NOTHING,), status))
    assert found.status == "unverified"
    assert found.verdict == "Nothing was checked: whether smollm2-demo behaves as trained is not known."
    assert found.headlines[0].value == "not checked"
    assert "Anything at all: no verification was made" in found.unchecked


def test_one_type_unchecked_is_said() -> None:
    proofs = (verification("Q2_K"), NOTHING)
    found = view(record_of(("Q2_K", "Q8_0"), proofs, "unverified"))
    assert found.status == "unverified"
    assert found.verdict.endswith("; nothing is known of Q8_0.")
    assert "Anything at all: no verification was made (Q8_0)" in found.unchecked


def test_what_was_not_checked_is_listed_with_its_types() -> None:
    bare = Verification("m:q8_0", "e", "smoke", prompts=prompts(), quantization="Q8_0")
    found = view(record_of(("Q8_0", "Q2_K"), (bare, verification("Q2_K"))))
    assert (
        "Fidelity: next-token probabilities were not compared with the trained model's (Q8_0)"
        in found.unchecked
    )
    assert "The stop <|endoftext|>: the model never gave it (Q2_K)" in found.unchecked
    assert "Parsing of tool calls: the model called no tool (Q2_K)" in found.unchecked
    assert "smollm2-demo:q2_k: prompt lengths were not compared (GP604)" in found.unchecked
    assert "The weights of the checkpoint: no digest was computed" in found.unchecked
    assert all(item.severity != "unchecked" for item in found.findings)
    assert [item.severity for item in found.findings] == ["warning", "info"]


def test_an_older_record_says_the_type_in_the_models_tag() -> None:
    old = [replace(verification(name), quantization=None) for name in ("Q2_K", "Q8_0")]
    found = view(record_of(("Q8_0", "Q2_K"), old))
    assert [(item.name, item.proof and item.proof.model) for item in found.types] == [
        ("Q8_0", "smollm2-demo:q8_0"),
        ("Q2_K", "smollm2-demo:q2_k"),
    ]


def test_a_proof_without_its_file_and_a_file_without_its_proof() -> None:
    found = view(record_of(("Q8_0",), (verification("Q8_0"), verification("Q2_K"))))
    assert [(item.name, item.file is None) for item in found.types] == [("Q8_0", False), ("Q2_K", True)]
    found = view(record_of(("Q8_0", "Q2_K"), (verification("Q8_0"),)))
    assert [item.state for item in found.types] == ["ok", "unchecked"]
    assert found.status == "unverified"
