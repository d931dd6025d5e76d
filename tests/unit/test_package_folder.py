from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
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


def test_of_builds_that_end_at_once_one_has_the_name_and_the_others_say_so(tmp_path: Path) -> None:
    final = tmp_path / "out" / "model"
    started, said = threading.Barrier(8), []

    def build(number: int) -> None:
        try:
            with package_folder(final) as folder:
                (folder.working / RECORD_NAME).write_text(str(number))
                started.wait()
                with folder.turn(overwrite=False):
                    folder.publish()
            said.append("")
        except UsageError as error:
            said.append(error.problem)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(build, range(8)))
    assert sorted(said) == ["", *[f"{final} holds a package already."] * 7]
    assert [path.name for path in final.parent.iterdir()] == ["model"]


def test_builds_that_replace_each_other_leave_one_whole_package(tmp_path: Path) -> None:
    final = tmp_path / "out" / "model"

    def build(number: int) -> None:
        with package_folder(final) as folder:
            for name in (RECORD_NAME, "Modelfile"):
                (folder.working / name).write_text(str(number))
            with folder.turn(overwrite=True):
                folder.publish()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(build, range(24)))
    assert (final / RECORD_NAME).read_text() == (final / "Modelfile").read_text()
    assert [path.name for path in final.parent.iterdir()] == ["model"]


def test_builds_that_fail_take_no_folder_from_one_that_does_not(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def build(number: int) -> None:
        with contextlib.suppress(KeyError), package_folder(out / str(number)) as folder:
            (folder.working / RECORD_NAME).write_text("")
            if number % 2:
                raise KeyError
            with folder.turn(overwrite=False):
                folder.publish()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(build, range(24)))
    assert {path.name for path in out.iterdir()} == {str(number) for number in range(0, 24, 2)}


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
