"""The one-pass conversion against llama.cpp's two steps, whole file by whole file."""

from __future__ import annotations

import filecmp
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ggufpack import vendoring
from ggufpack.convert.process import Worker
from ggufpack.convert.protocol import Job
from ggufpack.quantize.types import FILE_TYPES
from tests.support import oracle
from tests.support.checkpoints import TINY, link_checkpoint
from tests.support.tensor_files import store_as

COMMON_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K_M", "Q4_K_S", "Q5_K_M", "Q6_K")
# all types for a dense and an expert model with small vocabularies: the slow kernels cost minutes
ALL_TYPES = ("llama-spm", "mixtral")
# how tensors are stored, by name
STORED: dict[str, tuple[str, Callable[[str], str]]] = {
    "F16": ("llama-spm", lambda _: "F16"),
    "F32": ("llama-spm", lambda _: "F32"),
    "BF16 with F32 norms": ("llama-spm", lambda name: "F32" if "norm" in name else "BF16"),
    "F16 with a BF16 head": ("llama-spm", lambda name: "BF16" if "lm_head" in name else "F16"),
    "BF16 with an F32 expert": ("mixtral", lambda name: "F32" if "experts.1." in name else "BF16"),
}

pytestmark = pytest.mark.server  # llama-quantize is built with the server


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(vendoring.require()) as running:
        yield running


@pytest.mark.parametrize("architecture", TINY)
def test_tiny_models_equal_the_two_steps(
    architecture: str,
    tiny_model: Callable[[str], Path],
    llama_quantize: Path,
    worker: Worker,
    tmp_path: Path,
) -> None:
    wanted = tuple(FILE_TYPES) if architecture in ALL_TYPES else COMMON_TYPES
    _compare(tiny_model(architecture), wanted, worker, tmp_path)


@pytest.mark.parametrize("stored", STORED)
def test_other_stored_dtypes_equal_the_two_steps(
    stored: str,
    tiny_model: Callable[[str], Path],
    llama_quantize: Path,
    worker: Worker,
    tmp_path: Path,
) -> None:
    architecture, dtype_of = STORED[stored]
    checkpoint = link_checkpoint(tiny_model(architecture), tmp_path / "model")
    store_as(checkpoint, dtype_of)
    scratch = tmp_path / "out"
    scratch.mkdir()
    _compare(checkpoint, ("F32", "F16", "BF16", "Q8_0", "Q4_K_M"), worker, scratch)


def test_smollm2_equals_the_two_steps(
    smollm2: Path, llama_quantize: Path, worker: Worker, tmp_path: Path
) -> None:
    _compare(smollm2, COMMON_TYPES, worker, tmp_path)


def _compare(checkpoint: Path, wanted: tuple[str, ...], worker: Worker, scratch: Path) -> None:
    precision = oracle.source_outtype(checkpoint)
    ours = {name: scratch / f"{name}.gguf" for name in wanted}
    worker.convert(Job(checkpoint, tuple(ours.items()), precision, threads=2))
    source = oracle.convert(checkpoint, scratch / "source.gguf", precision)
    for name, path in ours.items():
        theirs = oracle.quantize(source, scratch / "oracle.gguf", name)
        assert filecmp.cmp(path, theirs, shallow=False), f"{name} differs from llama.cpp's"
        theirs.unlink()
    assert sorted(path.name for path in scratch.iterdir()) == sorted(
        [source.name, *(path.name for path in ours.values())]
    ), "nothing else is left in the folder"
