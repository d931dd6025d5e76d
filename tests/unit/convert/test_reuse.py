"""What a block's key depends on, and what is worth keeping. No converter is needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ggufpack.convert.reuse import LEAST_WEIGHTS, Chunk, Output, Reuse
from ggufpack.quantize.imatrix_files import Floats
from ggufpack.quantize.kernels import REFERENCE
from ggufpack.quantize.types import TensorType
from ggufpack.spec import Reused
from ggufpack.tensor_cache import TensorCache

pytestmark = pytest.mark.usefixtures("roomy_disk")

COLUMNS = 256
ROWS = LEAST_WEIGHTS // COLUMNS
WEIGHTS = np.arange(ROWS * COLUMNS, dtype=np.uint16).reshape(ROWS, COLUMNS)
CHUNK = Chunk(
    tensor="blk.0.ffn_up.weight",
    weights=WEIGHTS,
    source=TensorType.BF16,
    middle=TensorType.F32,
    columns=COLUMNS,
    first_row=0,
    rows_per_expert=ROWS,
)
Q4_K = TensorType.Q4_K


def reuse(folder: Path, kernels: str = "avx2", importance: Floats | None = None) -> Reuse:
    return Reuse(
        TensorCache(folder, 10**9), kernels, {} if importance is None else {CHUNK.tensor: importance}
    )


def outputs(*kinds: TensorType) -> list[Output]:
    return [(kind, np.zeros(kind.size(WEIGHTS.size), np.uint8)) for kind in kinds]


def kinds(wanted: list[Output]) -> list[TensorType]:
    return [kind for kind, _ in wanted]


def key(made: Reuse, chunk: Chunk, kind: TensorType = Q4_K) -> bytes:
    return made.keys(chunk, [kind])[kind]


def changed_value() -> Chunk:
    weights = WEIGHTS.copy()
    weights[-1, -1] ^= 1
    return replace(CHUNK, weights=weights)


@pytest.mark.parametrize(
    "other",
    [
        changed_value(),
        replace(CHUNK, source=TensorType.F16),
        replace(CHUNK, middle=TensorType.F16),
        replace(CHUNK, columns=COLUMNS * 2),
    ],
    ids=["value", "source dtype", "middle", "columns"],
)
def test_a_key_changes_with_what_the_bytes_depend_on(other: Chunk, tmp_path: Path) -> None:
    made = reuse(tmp_path)
    assert key(made, CHUNK) != key(made, other)


def test_a_key_is_the_same_wherever_the_values_come_from(tmp_path: Path) -> None:
    made = reuse(tmp_path)
    moved = replace(
        CHUNK, tensor="blk.7.ffn_up.weight", first_row=99, rows_per_expert=7, weights=WEIGHTS.copy()
    )
    assert key(made, CHUNK) == key(made, moved) == key(reuse(tmp_path, "generic"), CHUNK)
    assert key(made, CHUNK) != key(made, CHUNK, TensorType.Q6_K)


def test_importance_and_the_expert_are_in_the_key(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    one, other = (random.random((1, COLUMNS), dtype=np.float32) for _ in range(2))
    two = np.concatenate([one, other])
    keys = [
        key(made, CHUNK)
        for made in (reuse(tmp_path), reuse(tmp_path, importance=one), reuse(tmp_path, importance=other))
    ]
    assert len(set(keys)) == 3
    experts = reuse(tmp_path, importance=two)
    second = replace(CHUNK, first_row=ROWS)
    assert key(experts, CHUNK) != key(experts, second), "equal weights, another expert's importance"
    assert key(experts, CHUNK) != key(experts, replace(CHUNK, rows_per_expert=ROWS // 2))
    single = reuse(tmp_path, importance=one)
    assert key(single, CHUNK) == key(single, second), "one importance for all rows"


def test_what_is_encoded_as_fast_as_it_is_read_is_not_kept(tmp_path: Path) -> None:
    every = tuple(TensorType)
    slow = {kind for kind in every if kind.name.endswith("_K") or kind.name.startswith("IQ")}
    quantised = {kind for kind in every if not kind.is_float}
    assert set(reuse(tmp_path).keys(CHUNK, every)) == slow
    assert set(reuse(tmp_path, REFERENCE).keys(CHUNK, every)) == quantised
    ones = np.ones((1, COLUMNS), np.float32)
    assert set(reuse(tmp_path, importance=ones).keys(CHUNK, every)) == quantised
    assert not reuse(tmp_path).keys(replace(CHUNK, weights=WEIGHTS[:-1]), every)


def test_a_tensor_counts_when_all_of_its_blocks_were_taken(tmp_path: Path) -> None:
    wanted = outputs(Q4_K, TensorType.Q6_K, TensorType.F16)
    first = reuse(tmp_path)
    keys = first.keys(CHUNK, kinds(wanted))
    assert first.take(CHUNK, wanted, keys) == wanted
    first.keep(wanted, keys, 1.0)
    size = sum(out.nbytes for kind, out in wanted if kind is not TensorType.F16)
    assert first.reused() == Reused(0, 1, 0, size + 64, 0)
    second = reuse(tmp_path)
    assert [kind for kind, _ in second.take(CHUNK, wanted, keys)] == [TensorType.F16]
    assert second.reused() == Reused(1, 1, size, 0, 0)
    assert second.notes() == ["1 of 1 quantised tensors from the cache"]
    changed = changed_value()
    second.take(changed, wanted, second.keys(changed, kinds(wanted)))
    assert second.reused().tensors == 0, "one of its chunks was not there"


@pytest.mark.parametrize("largest", [float("nan"), float("inf"), 65505.0])
def test_what_needs_a_check_is_not_kept(largest: float, tmp_path: Path) -> None:
    made = reuse(tmp_path)
    keys = made.keys(CHUNK, [Q4_K])
    made.keep(outputs(Q4_K), keys, largest)
    assert made.reused().stored == 0
    made.keep(outputs(Q4_K), keys, 65504.0)
    assert made.reused().stored > 0
