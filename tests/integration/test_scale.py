"""The largest models, planned from real headers and holes for weights (``tests.support.large``)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.scale import planned
from ggufpack.checkpoint import open_checkpoint
from tests.support.large import deepseek_v3, llama_405b, write_large

MIB = 1 << 20
# ggml's block sizes: 4.5 and 6.5625 bits a weight are the least and the most of a Q4_K_M matrix
_LEAST_BYTES, _MOST_BYTES = 4.5 / 8, 6.5625 / 8


def test_405b_in_400_shards_is_planned_in_seconds_and_little_memory(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    model = llama_405b()
    source = write_large(model, tmp_path / "large", tiny_model("llama3"))
    assert sum(file.stat().st_size for file in source.glob("*.safetensors")) > 800e9
    made = planned(source, "-q", "Q4_K_M,F16", "--output", str(tmp_path / "out"))
    four, half = made.answer["files"]
    assert made.answer["parameters"] == model.parameters
    assert _LEAST_BYTES < four["size"] / model.parameters < _MOST_BYTES
    norms = 126 * 2 + 1
    # norms stay in F32, and llama.cpp's rope_freqs is added
    assert half["tensor_types"] == {"F16": len(model.tensors) - norms, "F32": norms + 1}
    assert 0 < half["size"] - 2 * model.parameters < 40 * MIB
    assert made.cpu_seconds < 60  # 10 s, of which 6 are imports
    assert made.parent_rss < 400 * MIB
    assert made.worker_rss < made.answer["memory_needed"]
    assert not (tmp_path / "out").exists()


def test_opening_takes_time_and_memory_in_proportion_to_the_tensors(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    tokenizer = tiny_model("llama-spm")
    few = write_large(deepseek_v3(experts=32, shards=20), tmp_path / "few", tokenizer)
    many = write_large(deepseek_v3(experts=256, shards=160), tmp_path / "many", tokenizer)
    assert len(open_checkpoint(many).tensors) == 45_395
    assert _seconds(many) < 20 * _seconds(few)  # 7.2 times as many tensors


def _seconds(folder: Path) -> float:
    started = time.process_time()
    open_checkpoint(folder)
    return time.process_time() - started
