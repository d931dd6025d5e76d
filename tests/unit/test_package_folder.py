from __future__ import annotations

from pathlib import Path

import pytest

from ggufpack.errors import UsageError
from ggufpack.package_folder import RECORD_NAME, check_free, package_folder


def test_published_as_a_whole(tmp_path: Path) -> None:
    final = tmp_path / "out" / "model"
    with package_folder(final) as folder:
        (folder.working / RECORD_NAME).write_text("new")
        assert not final.exists()
        folder.publish()
    assert (final / RECORD_NAME).read_text() == "new"
    assert [path.name for path in final.parent.iterdir()] == ["model"]


def test_an_older_package_is_replaced_as_a_whole(tmp_path: Path) -> None:
    final = tmp_path / "model"
    final.mkdir()
    (final / "old.gguf").write_text("old")
    with package_folder(final) as folder:
        (folder.working / RECORD_NAME).write_text("new")
        folder.publish()
    assert [path.name for path in final.iterdir()] == [RECORD_NAME]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    final = tmp_path / "out" / "model"
    with pytest.raises(KeyError), package_folder(final) as folder:
        (folder.working / "half.gguf").write_text("half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(KeyError), package_folder(out / "model"):
        raise KeyError
    assert list(tmp_path.iterdir()) == [out]


def test_what_is_in_the_way(tmp_path: Path) -> None:
    final = tmp_path / "model"
    check_free(final, overwrite=False)
    final.mkdir()
    check_free(final, overwrite=False)
    (final / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="not a package"):
        check_free(final, overwrite=True)
    (final / RECORD_NAME).write_text("{}")
    with pytest.raises(UsageError, match="holds a package already"):
        check_free(final, overwrite=False)
    check_free(final, overwrite=True)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"), package_folder(tmp_path / "file" / "model"):
        pass
