"""``ggufpack.json``: complete, free of the folder's place, and never half a file."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from ggufpack.checkpoint import open_checkpoint
from ggufpack.errors import CheckpointFileError
from ggufpack.report.record import make_record, write_record
from ggufpack.spec import BuildSpec
from tests.unit.builders import result
from tests.unit.checkpoint.builders import make_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = make_checkpoint(tmp_path / "checkpoint")
    for name in ("chat_template.jinja", "tokenizer.model", "merges.txt"):
        (made / name).write_text(name)
    return made


def test_what_went_in_and_what_came_out(folder: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(folder)
    spec = BuildSpec(
        folder,
        quantizations=("Q8_0",),
        template="chatml",
        system="Be brief.",
        parameters={"stop": ("a", "b")},
        allow=frozenset({"GP301", "GP206"}),
    )
    done = result(tmp_path / "out" / "m")
    converter = {"package": "p", "version": "1", "tree_sha256": "ab"}
    readings = {"go": {"used": True}, "native": {}}
    imatrix = {"file": "m.gguf", "sha256": "cd", "entries": 3, "chunks": 2, "datasets": []}
    record = json.loads(
        json.dumps(make_record(spec, checkpoint, done, converter, {"Q8_0": "ab"}, readings, imatrix))
    )

    assert record["schema"] == 1
    assert record["converter"] == converter
    assert record["chat_template"] == readings
    assert record["imatrix"] == imatrix
    assert record["request"] == {
        "quantizations": ["Q8_0"],
        "template": "chatml",
        "system": "Be brief.",
        "parameters": {"stop": ["a", "b"]},
        "verify": "smoke",
        "register": True,
        "vision": True,
        "allow": ["GP206", "GP301"],
        "trust_remote_code": False,
        "from": None,
    }
    source = record["checkpoint"]
    assert source["folder"] == str(folder.resolve())
    assert source["architecture"] == checkpoint.architecture
    assert source["tensors"]["count"] == len(checkpoint.tensors)
    assert source["tensors"]["bytes"] == checkpoint.tensors.total_bytes
    assert source["tensors"]["weights_digest"] == "not computed"
    small = [path for path in folder.iterdir() if path.suffix != ".safetensors"]
    assert source["files"] == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in small}


def test_the_package_may_be_moved(folder: Path, tmp_path: Path) -> None:
    done = result(tmp_path / "out" / "m")
    record = make_record(BuildSpec(folder), open_checkpoint(folder), done, {}, {"Q8_0": "ab"})
    assert str(done.package.folder) not in json.dumps(record)
    assert record["result"]["files"][0]["path"] == "m-Q8_0.gguf"
    assert record["result"]["modelfiles"] == {"Q8_0": "Modelfile"}
    everything = set(done.to_json())
    assert set(record["result"]) == everything - {"folder", "record"} | {"modelfile_sha256"}
    assert record["result"]["modelfile_sha256"] == {"Q8_0": "ab"}


def test_versions_are_said_or_said_to_be_missing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ggufpack.report.record._RECORDED_PACKAGES", ("click", "no-such-package"))
    versions = make_record(BuildSpec(folder), open_checkpoint(folder), result(tmp_path), {}, {})["versions"]
    assert set(versions) == {"python", "click", "no-such-package"}
    assert versions["no-such-package"] == "not installed"
    assert versions["click"][0].isdigit()


def test_it_is_readable_and_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "ggufpack.json"
    write_record(path, {"system": "Sei kürzer."})
    assert path.read_text(encoding="utf-8") == '{\n  "system": "Sei kürzer."\n}\n'
    with pytest.raises(FileExistsError):
        write_record(path, {})


def test_a_file_that_can_be_read_no_more(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(folder)

    def broken(path: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(Path, "read_bytes", broken)
    with pytest.raises(CheckpointFileError, match="cannot be read: Input/output error"):
        make_record(BuildSpec(folder), checkpoint, result(tmp_path), {}, {})
