from __future__ import annotations

from ggufpack.proofs import PromptCase, Verification
from ggufpack.verification.findings import SHOWN_PROMPTS, findings_of


def _failed(count: int) -> list[str]:
    cases = tuple(PromptCase(f"case {n}", False, "a", "b", detail="differs") for n in range(count))
    found = findings_of(Verification("m:q8_0", "engine", "prompts", cases))
    return [finding.message for finding in found if finding.id == "GP601"]


def test_a_few_differences_are_all_named() -> None:
    assert len(_failed(SHOWN_PROMPTS + 1)) == SHOWN_PROMPTS + 1


def test_many_differences_are_counted() -> None:
    messages = _failed(30)
    assert len(messages) == SHOWN_PROMPTS + 1
    assert f"{30 - SHOWN_PROMPTS} more prompts" in messages[-1]
