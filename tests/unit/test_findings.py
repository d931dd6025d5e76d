"""Finding ids are stable, unique, and in their stage's hundred; errors among them stop a build."""

from __future__ import annotations

import ast
import re
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest

import ggufpack
from ggufpack import errors
from ggufpack.errors import GgufpackError
from ggufpack.findings import refuse_errors
from ggufpack.spec import Finding, Severity

PACKAGE = Path(ggufpack.__file__).parent
ID = re.compile(r"GP\d{3}")
# the hundreds that a stage's table may use (DESIGN §3, findings)
HUNDREDS = {
    "checkpoint": "1234",  # the source of the chat template is a checkpoint's file
    "convert": "2",
    "chat_template": "4",
    "modelfile": "5",
    "registry": "5",
    "verification": "6",
    "doctor": "12345",
}


def ids_in(path: Path) -> list[str]:
    """Every text constant that is a finding id, in order."""
    return [
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and ID.fullmatch(node.value)
    ]


def tables() -> dict[str, list[str]]:
    """Stage to the ids that its ``findings.py`` defines."""
    return {path.parent.name: ids_in(path) for path in PACKAGE.glob("*/findings.py")}


def test_every_id_is_defined_once_and_in_its_hundred() -> None:
    found = tables()
    assert set(HUNDREDS) <= set(found)
    assert not [name for name, count in Counter(chain.from_iterable(found.values())).items() if count > 1]
    for stage, ids in found.items():
        assert ids, stage
        assert {name[2] for name in ids} <= set(HUNDREDS[stage]), stage


def test_every_id_that_is_used_is_defined() -> None:
    known = set(chain.from_iterable(tables().values()))
    unknown = {
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in PACKAGE.rglob("*.py")
        for name in ids_in(path)
        if name not in known
    }
    assert not unknown


def finding(name: str, severity: Severity = Severity.ERROR) -> Finding:
    return Finding(name, severity, f"{name} is wrong.", Path("config.json"), "key", "Do this.")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("GP112", errors.CheckpointError),
        ("GP206", errors.TensorFileError),
        ("GP301", errors.TokenizerConversionError),
        ("GP403", errors.ChatTemplateError),
        ("GP504", errors.ModelfileError),
        ("GP601", errors.VerificationError),
    ],
)
def test_an_error_stops_as_its_stage(name: str, kind: type[GgufpackError]) -> None:
    with pytest.raises(GgufpackError) as caught:
        refuse_errors([finding(name)], frozenset())
    error = caught.value
    assert type(error) is kind
    assert error.problem == f"{name} is wrong."
    assert error.action == f"Do this. Or pass --allow {name} to go on all the same."
    assert (error.path, error.key, error.finding) == (Path("config.json"), "key", name)


def test_the_first_one_that_is_not_allowed_stops() -> None:
    findings = [finding("GP301"), finding("GP206"), finding("GP112")]
    with pytest.raises(errors.TensorFileError):
        refuse_errors(findings, {"GP301"})
    refuse_errors(findings, {"GP301", "GP206", "GP112"})


@pytest.mark.parametrize("severity", set(Severity) - {Severity.ERROR})
def test_nothing_less_than_an_error_stops(severity: Severity) -> None:
    refuse_errors([finding("GP206", severity)], frozenset())


def test_without_an_action_there_is_one_all_the_same() -> None:
    with pytest.raises(errors.TensorFileError) as caught:
        refuse_errors([Finding("GP206", Severity.ERROR, "Wrong.")], frozenset())
    assert caught.value.action == "Pass --allow GP206 to go on all the same."
