"""What of a package is refused before anything goes out."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from ggufpack.errors import CheckpointError, ModelfileError, UsageError
from ggufpack.modelfile.model import Modelfile
from ggufpack.publishing.contents import make_contents, write_folder
from ggufpack.publishing.package import check_package
from ggufpack.spec import Event, Note
from tests.support.packages import MODELFILE, make_package, write_record


def test_a_whole_package(tmp_path: Path) -> None:
    make_package(tmp_path / "p")
    seen: list[Event] = []
    package = check_package(tmp_path / "p", (), seen.append)
    assert {kind: replace(found, from_="") for kind, found in package.modelfiles.items()} == {
        "Q8_0": MODELFILE,
        "Q4_K_M": MODELFILE,
    }
    assert [event.message for event in seen if isinstance(event, Note)] == [
        "Checking smollm2-demo-Q8_0.gguf",
        "Checking smollm2-demo-Q4_K_M.gguf",
    ]


@pytest.mark.parametrize(("status", "identifier"), [("failed", "GP163"), ("unverified", "GP164")])
def test_what_was_not_proven_needs_a_word(tmp_path: Path, status: str, identifier: str) -> None:
    made = make_package(tmp_path / "p", wrong=("Q8_0",) if status == "failed" else ())
    if status == "unverified":
        made["result"] |= {"status": status, "verifications": []}
        write_record(tmp_path / "p", made)
    with pytest.raises(CheckpointError, match=status) as caught:
        check_package(tmp_path / "p")
    assert caught.value.finding == identifier
    assert f"--allow {identifier}" in str(caught.value)
    assert check_package(tmp_path / "p", (identifier,)).record.result.status == status


def test_another_byte_is_refused_whatever_is_allowed(tmp_path: Path) -> None:
    made = make_package(tmp_path / "p")
    path = tmp_path / "p" / made["result"]["files"][1]["path"]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="has sha256") as caught:
        check_package(tmp_path / "p", ("GP161", "GP162", "GP163", "GP164"))
    assert caught.value.finding == "GP162"
    path.write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match="199,999 bytes, and 200,000 were recorded"):
        check_package(tmp_path / "p")
    path.unlink()
    with pytest.raises(CheckpointError, match="it is not there"):
        check_package(tmp_path / "p")


def test_a_modelfile_that_was_changed(tmp_path: Path) -> None:
    made = make_package(tmp_path / "p")
    with (tmp_path / "p" / "Modelfile.Q4_K_M").open("a") as file:
        file.write("PARAMETER temperature 2\n")
    with pytest.raises(CheckpointError, match=r"Modelfile\.Q4_K_M has sha256") as caught:
        check_package(tmp_path / "p", ("GP162",))
    assert caught.value.finding == "GP162"
    del made["result"]["modelfile_sha256"]  # a package of an earlier ggufpack
    write_record(tmp_path / "p", made)
    assert check_package(tmp_path / "p").modelfiles["Q4_K_M"].parameters[-1] == ("temperature", "2")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", "a/b"])
def test_no_file_outside_the_folder(tmp_path: Path, name: str) -> None:
    made = make_package(tmp_path / "p")
    (tmp_path / "secret").write_bytes(b"x")
    made["result"]["files"][0] |= {"path": name, "size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    write_record(tmp_path / "p", made)
    with pytest.raises(UsageError, match="which is no file of its folder"):
        check_package(tmp_path / "p")
    made = make_package(tmp_path / "q")
    made["result"]["modelfiles"]["Q8_0"] = name
    write_record(tmp_path / "q", made)
    with pytest.raises(UsageError, match="which is no file of its folder"):
        check_package(tmp_path / "q")


def test_a_modelfile_that_is_missing(tmp_path: Path) -> None:
    make_package(tmp_path / "p")
    (tmp_path / "p" / "Modelfile.Q8_0").unlink()
    with pytest.raises(ModelfileError, match="Modelfile of Q8_0, is not there"):
        check_package(tmp_path / "p")


def test_the_folder_of_a_dry_run(tmp_path: Path) -> None:
    made = make_package(tmp_path / "p")
    files = make_contents(check_package(tmp_path / "p"), "anna/x")
    write_folder(files, tmp_path / "below" / "repo")
    written = {path.name: path.read_bytes() for path in (tmp_path / "below" / "repo").iterdir()}
    assert set(written) == {
        *(file["path"] for file in made["result"]["files"]),
        *("Modelfile.Q8_0", "Modelfile.Q4_K_M", "template", "params", "system", "LICENSE", "README.md"),
    }
    assert written["LICENSE"] == b"Apache License\nVersion 2.0"
    for file in made["result"]["files"]:
        assert hashlib.sha256(written[file["path"]]).hexdigest() == file["sha256"]
    gguf = made["result"]["files"][0]["path"]
    assert (tmp_path / "below" / "repo" / gguf).samefile(tmp_path / "p" / gguf)  # no room for a second copy
    with pytest.raises(UsageError, match="exists"):
        write_folder(files, tmp_path / "below" / "repo")


def test_nothing_half_written(tmp_path: Path) -> None:
    make_package(tmp_path / "p")
    files = make_contents(check_package(tmp_path / "p"), "anna/x")
    (tmp_path / "p" / "Modelfile.Q4_K_M").unlink()
    with pytest.raises(UsageError, match="cannot be written"):
        write_folder(files, tmp_path / "repo")
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_native_has_no_template_file(tmp_path: Path) -> None:
    native = Modelfile("", parameters=(("num_ctx", "512"),))
    make_package(tmp_path / "p", ("Q8_0",), modelfiles={"Q8_0": native})
    files = {file.name: file for file in make_contents(check_package(tmp_path / "p"), "anna/x")}
    assert "params" in files
    assert not {"template", "system", "LICENSE"} & set(files)
    card = files["README.md"].source
    assert isinstance(card, bytes)
    assert b"has no `template` file" in card
