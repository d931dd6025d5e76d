"""Several builds at once; the wide table is ``python -m tests.crowd``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.crowd.__main__ import lone_build
from tests.crowd.scenarios import Shared, one_vendor_folder, threads_with_one_name


def test_of_builds_under_one_name_one_is_there_and_the_others_say_so(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    checkpoint = tiny_model("llama-spm")
    shared = Shared(checkpoint, lone_build(checkpoint, tmp_path / "lone"), tmp_path, builds=2)
    row = threads_with_one_name(shared)
    assert (row.done, row.refused, row.wrong) == (1, 1, ())


def test_the_converter_is_made_once_for_all_who_ask(tmp_path: Path) -> None:
    row = one_vendor_folder(Shared(tmp_path, "", tmp_path, builds=3))
    assert (row.done, row.wrong) == (3, ())
