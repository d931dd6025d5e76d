"""JSON files: what is refused names the file and the place."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from ggufpack.checkpoint.jsonfiles import read_object, read_text
from ggufpack.errors import CheckpointFileError


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"a": 1,\n "b": }', "line 2, column 7"),
        (b"", "line 1, column 1"),
        (b"[1]", "must hold a JSON object, and holds an array"),
        (b"null", "holds null"),
        (b"true", "holds a boolean"),
        (b'{"a": 1, "x": {"b": 1, "b": 2}}', "gives the key 'b' twice"),
        (b'{"a": "\xff"}', "not UTF-8 .byte 7"),
        (b'\xef\xbb\xbf{"a": 1}', "byte order mark"),
        (b'{"a":' * 100_000, "cannot|not a JSON file|not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not a JSON file"),
    ],
)
def test_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointFileError, match=says) as caught:
        read_object(path)
    assert caught.value.path == path
    assert str(path) in caught.value.problem


def test_the_key_given_twice_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"rope": {"factor": 1, "factor": 2}}')
    with pytest.raises(CheckpointFileError) as caught:
        read_object(path)
    assert caught.value.key == "factor"


def test_infinity_is_accepted_as_transformers_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"time_step_limit": [0.0, Infinity]}')
    assert read_object(path)["time_step_limit"][1] == math.inf


def test_the_size_is_limited(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a": 12345}')
    assert read_object(path, limit=12) == {"a": 12345}
    with pytest.raises(CheckpointFileError, match="12 bytes, more than the 11"):
        read_object(path, limit=11)


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    os.mkfifo(path)
    with pytest.raises(CheckpointFileError, match="not a regular file"):
        read_object(path)


def test_a_missing_file_and_a_dangling_link(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(CheckpointFileError, match="No such file"):
        read_object(path)
    path.symlink_to("nowhere")
    with pytest.raises(CheckpointFileError, match="No such file"):
        read_object(path)


def test_text_is_read_as_pythons_text_mode_does(tmp_path: Path) -> None:
    path = tmp_path / "chat_template.jinja"
    path.write_bytes("é\r\n\rx\n".encode())
    with path.open(encoding="utf-8") as file:
        assert read_text(path, 100) == file.read() == "é\n\nx\n"
