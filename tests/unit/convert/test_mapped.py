"""What is encoded is a copy of what the file holds, of any part of a tensor."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.utility import LocalTensorRange

from ggufpack.convert.mapped import MappedParts, Scratch
from ggufpack.errors import TensorFileError

OFFSET = 24  # of the tensor in its file; no page begins there
ROWS, COLUMNS = 64, 1024
VALUES = torch.arange(ROWS * COLUMNS, dtype=torch.int16).view(torch.bfloat16).view(ROWS, COLUMNS)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(OFFSET) + VALUES.view(torch.int16).numpy().tobytes() + b"more")
    return path


def mapped(file: Path) -> tuple[MappedParts, torch.Tensor]:
    """The tensor as the converter maps it, and the parts that know of it."""
    parts = MappedParts()
    place = LocalTensorRange(filename=file, offset=OFFSET, size=VALUES.numel() * 2)
    leaf = gguf.utility.LocalTensor(dtype="BF16", shape=(ROWS, COLUMNS), data_range=place)
    data = parts.noted(leaf).mmap_bytes()
    return parts, torch.from_numpy(np.asarray(data)).view(torch.bfloat16).view(ROWS, COLUMNS)


def bits(values: torch.Tensor) -> list[int]:
    found: list[int] = values.contiguous().view(torch.int16).reshape(-1).tolist()
    return found


VIEWS = {
    "all": lambda t: t,
    "rows": lambda t: t[5:9],
    "last row": lambda t: t[-1],
    "transposed": lambda t: t.T,
    "heads": lambda t: t.view(4, 2, 8, COLUMNS).swapaxes(1, 2)[1],
    "columns": lambda t: t[:, 3:7],
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_copies_are_what_the_view_shows(view, file: Path) -> None:  # type: ignore[no-untyped-def]
    parts, tensor = mapped(file)
    scratch = Scratch()
    parts.announce(view(tensor))
    for _ in range(2):  # its pages were given back in between
        copy = parts.copied(view(tensor), scratch)
        assert copy.is_contiguous()
        assert copy.shape == view(VALUES).shape
        assert bits(copy) == bits(view(VALUES))
    smaller = parts.copied(view(tensor)[:2], scratch)
    assert bits(smaller) == bits(view(VALUES)[:2])


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_copy_stays_when_the_file_is_written(view, file: Path) -> None:  # type: ignore[no-untyped-def]
    parts, tensor = mapped(file)
    copy = parts.copied(view(tensor), Scratch())
    with file.open("r+b") as written:
        written.write(bytes(file.stat().st_size))
    assert bits(copy) == bits(view(VALUES))


def test_a_file_that_was_cut_is_an_error_and_not_a_crash(file: Path) -> None:
    parts, tensor = mapped(file)
    with file.open("r+b") as cut:
        cut.truncate(OFFSET + COLUMNS * 2 * 10 + 5)
    assert bits(parts.copied(tensor[:10], Scratch())) == bits(VALUES[:10])
    with pytest.raises(TensorFileError, match=r"model\.safetensors ended while it was read"):
        parts.copied(tensor[8:12], Scratch())


def test_what_was_computed_is_passed_on() -> None:
    computed = torch.ones(4, 8)
    assert MappedParts().copied(computed, Scratch()).data_ptr() == computed.data_ptr()
    assert MappedParts().copied(computed.T, Scratch()).is_contiguous()
