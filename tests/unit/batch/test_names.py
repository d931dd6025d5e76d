"""Names from patterns."""

from __future__ import annotations

import pytest

from ggufpack.batch.names import check_pattern, make_name
from ggufpack.errors import UsageError

FIELDS = {"run": "My Run", "step": "100", "checkpoint": "checkpoint-100", "type": "q4_k_m"}


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("{run}-{step}", "my-run-100"),
        ("{run}-{step}:{type}", "my-run-100"),
        ("team/{checkpoint}", "team/checkpoint-100"),
        ("fixed", "fixed"),
        ("{run}-{type}", "my-run-q4_k_m"),
    ],
)
def test_what_a_pattern_gives(pattern: str, name: str) -> None:
    assert make_name(check_pattern(pattern), FIELDS) == name


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("{epoch}", r"unknown field \{epoch\}"),
        ("{run", "a brace that is not a field's"),
        ("{run}:v1", "has a tag"),
        ("{type}:{run}", "has a tag"),
    ],
)
def test_what_cannot_be_a_pattern(pattern: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_pattern(pattern)


def test_a_field_that_the_item_lacks() -> None:
    with pytest.raises(UsageError, match=r"needs \{adapter\}"):
        make_name("{adapter}", FIELDS)
