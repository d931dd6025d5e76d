"""A matrix that cannot be used is refused before anything else is looked at, by ``plan`` as by ``build``."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from ggufpack import build
from ggufpack.cli.main import main
from ggufpack.errors import ImportanceMatrixError


@pytest.mark.parametrize("command", ["build", "plan"])
@pytest.mark.parametrize(
    ("content", "exit_code", "sentence"),
    [(None, 2, "it cannot be read: No such file"), (b"GGUF", 4, "is not a usable importance matrix")],
)
def test_one_sentence_and_nothing_written(
    command: str, content: bytes | None, exit_code: int, sentence: str, tmp_path: Path
) -> None:
    matrix = tmp_path / "imatrix.gguf"
    if content is not None:
        matrix.write_bytes(content)
    before = list(tmp_path.iterdir())
    words = [command, "no-checkpoint", "--imatrix", str(matrix), "--output", str(tmp_path / "out"), "--quiet"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == exit_code, done.output
    assert f"{matrix}" in done.stderr
    assert sentence in done.stderr
    assert list(tmp_path.iterdir()) == before


def test_the_library_takes_a_path_as_text(tmp_path: Path) -> None:
    (tmp_path / "imatrix.gguf").write_bytes(b"GGUF")
    with pytest.raises(ImportanceMatrixError):
        build("no-checkpoint", imatrix=str(tmp_path / "imatrix.gguf"), output=tmp_path / "out")
