"""What items need, and what is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggufpack.batch.budget import Budget, Needs, available_memory, file_size
from ggufpack.checkpoint import open_checkpoint
from ggufpack.convert.process import Worker
from ggufpack.convert.protocol import Job
from ggufpack.errors import ConversionError, DiskSpaceError
from ggufpack.pipeline import open_worker
from ggufpack.quantize.types import FILE_TYPES
from tests.support.checkpoints import tiny_checkpoint

HERE = Path(__file__).parent


def test_items_wait_for_memory() -> None:
    budget = Budget(memory=100)
    small = Needs(40, 0, HERE)
    assert budget.admits(small, [])
    assert budget.admits(small, [small])
    assert not budget.admits(small, [small, small])


def test_an_item_that_could_never_run_is_refused() -> None:
    with pytest.raises(ConversionError, match="of memory; free are"):
        Budget(memory=100).admits(Needs(101, 0, HERE), [])
    with pytest.raises(DiskSpaceError, match="It needs up to"):
        Budget(memory=100).admits(Needs(1, 1 << 60, HERE), [])


def test_disk_that_running_items_will_take_counts() -> None:
    budget = Budget(memory=100)
    assert not budget.admits(Needs(1, 1, HERE), [Needs(1, 1 << 60, HERE)])


def test_memory_is_asked_for() -> None:
    assert 1 << 26 < available_memory() < 1 << 44


@pytest.mark.parametrize("arch", ["qwen2", "llama-224", "llama-80"])
def test_a_file_is_no_larger_than_estimated(arch: str, tmp_path: Path) -> None:
    """Every type against what the converter lays out."""
    folder = tiny_checkpoint(arch)
    outputs = tuple((name, tmp_path / name) for name in FILE_TYPES)
    with open_worker() as worker:
        assert isinstance(worker, Worker)
        files = worker.convert(Job(folder, outputs, "bf16", plan_only=True)).files
    tensors = open_checkpoint(folder).tensors
    for file in files:
        estimate = file_size(tensors, file.quantization)
        assert file.size <= estimate, file.quantization
        assert estimate < 2.2 * file.size + (40 << 20), file.quantization
