"""A package folder against its record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ggufpack.cli.doctor import doctor
from ggufpack.confinement import Confined, possible
from ggufpack.doctor import Examination, examine
from ggufpack.doctor.package import SCHEMA
from ggufpack.report import record
from tests.unit.doctor.files import GO_CHATML, write_gguf

MODELFILE = (
    f'FROM ./m-F16.gguf\nTEMPLATE """{GO_CHATML}"""\nPARAMETER num_ctx 2048\nPARAMETER stop <|im_end|>\n'
)


def ids(found: Examination) -> list[str]:
    return [each.id for each in found.findings]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    gguf = write_gguf(tmp_path / "m-F16.gguf")
    digest = hashlib.sha256(gguf.read_bytes()).hexdigest()
    file = {"quantization": "F16", "path": gguf.name, "size": gguf.stat().st_size, "sha256": digest}
    (tmp_path / "Modelfile").write_text(MODELFILE)
    write(tmp_path, {"status": "verified", "name": "m", "files": [file], "modelfiles": {"F16": "Modelfile"}})
    return tmp_path


def write(folder: Path, result: dict[str, Any]) -> None:
    (folder / "ggufpack.json").write_text(json.dumps({"schema": record.SCHEMA, "result": result}))


def change(folder: Path, **values: Any) -> None:
    write(folder, {**json.loads((folder / "ggufpack.json").read_text())["result"], **values})


def test_a_good_one(package: Path) -> None:
    found = examine(package)
    assert (found.kind, found.status, ids(found)) == ("package", "fine", [])
    assert {"digests", "GGUF weights"} <= {one.check for one in found.not_checked}
    deep = examine(package, deep=True)
    assert (deep.status, "digests" in deep.checked) == ("fine", True)


def test_what_held_the_build_is_told(package: Path) -> None:
    here, built = possible(), Confined(1, False, ("network",))
    assert "confinement_recorded" not in examine(package).facts
    change(package, confinement=built.to_json())
    found = examine(package)
    assert found.facts["confinement_here"] == here.to_json()
    assert found.facts["confinement_recorded"] == built.to_json()
    said = CliRunner().invoke(doctor, [str(package)]).stdout
    assert f"on this system are held by: {here.summary}." in said
    assert "was held by: Landlock 1; not kept from the network." in said


@pytest.mark.parametrize(
    "confinement",
    [1, [], {}, {"missing": [[]]}, {**Confined().to_json(), "landlock": "\x1b[2J"}, {"missing": None},
     {**Confined().to_json(), "missing": ["\x1b[2J"]}, {**Confined().to_json(), "missing": [{}]}],
)  # fmt: skip
def test_a_record_that_says_anything_of_it(confinement: object, package: Path) -> None:
    change(package, confinement=confinement)
    assert "confinement_recorded" not in examine(package).facts


def test_the_schema_is_the_one_that_is_written() -> None:
    assert record.SCHEMA == SCHEMA


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda folder: change(folder, status="failed"), "GP163"),
        (lambda folder: change(folder, status="unverified"), "GP164"),
        (lambda folder: (folder / "ggufpack.json").write_text("{"), "GP160"),
        (lambda folder: (folder / "ggufpack.json").write_text('{"schema": 99}'), "GP160"),
        (lambda folder: (folder / "m-F16.gguf").unlink(), "GP161"),
        (lambda folder: (folder / "Modelfile").unlink(), "GP161"),
        (lambda folder: (folder / "m-F16.gguf").open("ab").write(b"x"), "GP162"),
        (lambda folder: write_gguf(folder / "other.gguf"), "GP165"),
        (lambda folder: (folder / "Modelfile").write_text("FORM ./m-F16.gguf\nSYSTEM x\n"), "GP501"),
    ],
)
def test_each_damage_is_told(damage: Callable[[Path], object], expected: str, package: Path) -> None:
    damage(package)
    assert expected in ids(examine(package))


def test_a_changed_byte_shows_in_the_digest(package: Path) -> None:
    path = package / "m-F16.gguf"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert ids(examine(package)) == []
    assert "GP162" in ids(examine(package, deep=True))


def test_a_changed_modelfile(package: Path) -> None:
    digest = hashlib.sha256((package / "Modelfile").read_bytes()).hexdigest()
    assert "Modelfile against the record" in {one.check for one in examine(package).not_checked}
    change(package, modelfile_sha256={"F16": digest})
    assert "Modelfile against the record" in examine(package).checked
    with (package / "Modelfile").open("a") as file:
        file.write("PARAMETER stop <|extra|>\n")
    assert ids(examine(package)) == ["GP162"]


def test_a_record_names_no_file_outside(package: Path) -> None:
    change(package, modelfiles={"F16": "../../Modelfile"}, files=[{"path": "/dev/zero", "size": 1}])
    found = examine(package, deep=True)
    assert all("zero" not in each.message for each in found.findings)
