"""Status, exit code, order, and what the command prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ggufpack.cli.main import main
from ggufpack.doctor import FINDING_KINDS, examine
from ggufpack.doctor.examination import Kind, Log
from ggufpack.doctor.findings import make_finding
from ggufpack.doctor.raised import finding_of
from ggufpack.errors import ServerUnreachableError, TensorFileError, UsageError, VendorError
from ggufpack.spec import FindingRaised, Severity
from tests.support.ollama_server import free_port
from tests.unit.doctor.files import write_gguf


@pytest.mark.parametrize(
    ("kind", "found", "code"),
    [
        ("gguf", ["GP452", "GP354"], 0),
        ("gguf", ["GP354", "GP351", "GP450"], 3),
        ("gguf", ["GP450", "GP351"], 5),
        ("modelfile", ["GP551"], 5),
        ("modelfile", ["GP571"], 6),
        ("checkpoint", ["GP570"], 6),
        ("model", ["GP351"], 6),
        ("package", ["GP163"], 3),
    ],
)
def test_the_first_error_decides_the_exit_code(kind: Kind, found: list[str], code: int) -> None:
    log = Log()
    log.add(make_finding(name, name) for name in found)
    assert log.finish(kind, "x").exit_code == code


def test_errors_come_first_and_each_once() -> None:
    events: list[object] = []
    log = Log(on_event=events.append)
    for name in ("GP357", "GP452", "GP354", "GP351", "GP354"):
        log.add([make_finding(name, name)])
    order = [finding.severity for finding in log.finish("gguf", "x").findings]
    assert order == [Severity.ERROR, Severity.WARNING, Severity.UNCHECKED, Severity.INFO]
    assert sum(isinstance(event, FindingRaised) for event in events) == 4


def test_a_check_that_fails_ends_itself_only() -> None:
    log = Log()
    with log.check("tensors"):
        raise TensorFileError("broken", action="Copy it.")
    with log.check("converter"):
        raise VendorError("no converter.")
    assert [(each.id, each.action) for each in log.findings] == [("GP260", "Copy it.")]
    assert log.checked == ["tensors"]
    assert [one.to_json() for one in log.not_checked] == [{"check": "converter", "why": "no converter"}]
    with pytest.raises(ZeroDivisionError), log.check("bug"):
        _ = 1 / 0
    assert "bug" not in log.checked


def test_errors_that_stand_for_no_finding_are_raised() -> None:
    error = UsageError("no")
    with pytest.raises(UsageError), Log().check("x"):
        raise error
    with pytest.raises(UsageError):
        finding_of(error)
    assert finding_of(ServerUnreachableError("x")).id == "GP570"


def test_meanings_are_told_apart() -> None:
    assert len({kind.meaning for kind in FINDING_KINDS.values()}) == len(FINDING_KINDS)


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["doctor", *words])
    return done.exit_code, done.stdout


def test_text(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", ids={"bos": 1, "eos": 99}, pre="default")
    code, text = run(str(path))
    lines = text.splitlines()
    assert code == 3
    assert lines[0] == f"{path} (GGUF file): 1 error, 1 warning; 4 checks done, 2 not"
    heads = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert heads == ["errors:", "warnings:", "remarks:", "not checked:"]
    assert "  GP351 " in text
    assert "        Correct it: gguf-set-metadata" in text
    assert lines[-1] == "  GGUF weights: it reads all weights: pass --deep"


def test_fine_never_hides_what_was_not_checked(tmp_path: Path) -> None:
    code, text = run(str(write_gguf(tmp_path / "m.gguf")))
    assert code == 0
    assert "fine as far as it was checked; 4 checks done, 2 not" in text
    assert "not checked:" in text


def test_json_is_one_object(tmp_path: Path) -> None:
    code, text = run(str(write_gguf(tmp_path / "m.gguf", rows=9)), "--json")
    found = json.loads(text)
    assert code == 3
    assert set(found) == {"kind", "target", "status", "findings", "checked", "not_checked", "facts"}
    assert (found["kind"], found["status"]) == ("gguf", "errors")
    assert found["findings"][0]["id"] == "GP355"
    assert found["not_checked"] == [
        {"check": "GGUF weights", "why": "it reads all weights: pass --deep"},
    ]


@pytest.mark.parametrize("target", ["./nothing.gguf", "nothing.gguf", "/nothing/at/all", "no name!"])
def test_a_path_that_is_not_there(target: str) -> None:
    code, _ = run(target)
    assert code == 2


def test_no_server_answers() -> None:
    found = examine("llama3", host=f"http://127.0.0.1:{free_port()}")
    assert (found.kind, found.exit_code) == ("model", 6)
    assert [each.id for each in found.findings] == ["GP570"]
    assert {"model", "TEMPLATE", "stops"} <= {one.check for one in found.not_checked}
