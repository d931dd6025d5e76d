"""Importance matrices: whole files against llama.cpp's converter and ``llama-quantize --imatrix``."""

from __future__ import annotations

import filecmp
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import ggufpack
from ggufpack import vendoring
from ggufpack.convert.process import Worker
from ggufpack.convert.protocol import Job
from ggufpack.errors import ImportanceMatrixError, TensorValueError
from tests.support import oracle
from tests.support.checkpoints import link_checkpoint
from tests.support.imatrix_files import Collected, collect, write_gguf, write_legacy
from tests.support.tensor_files import store_value

pytestmark = pytest.mark.server  # llama-quantize is built with the server

TYPES = (
    *("Q4_K_M", "Q4_0", "Q4_1", "Q5_0", "Q5_K_M", "Q6_K", "Q2_K", "Q3_K_M", "IQ4_XS", "IQ4_NL", "Q8_0"),
    *("F16", "BF16"),
)
FEW_TYPES = ("Q4_K_M", "Q4_0", "IQ4_NL", "Q8_0")
Sizes = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Model:
    """A tiny checkpoint, the file that llama.cpp's converter makes of it, and what has importance."""

    checkpoint: Path
    source: Path
    sizes: Sizes


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(vendoring.require()) as running:
        yield running


@pytest.fixture(scope="module")
def model(
    tiny_model: Callable[[str], Path], llama_quantize: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Model]:
    made: dict[str, Model] = {}

    def make(name: str) -> Model:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            source = oracle.convert(tiny_model(name), folder / "source.gguf", "bf16")
            made[name] = Model(tiny_model(name), source, sizes_of(source))
        return made[name]

    return make


def sizes_of(source: Path) -> Sizes:
    """(experts, columns) of every matrix in a file."""
    shapes = {tensor.name: [int(size) for size in tensor.shape] for tensor in gguf.GGUFReader(source).tensors}
    return {
        name: (shape[2] if len(shape) > 2 else 1, shape[0])
        for name, shape in shapes.items()
        if len(shape) > 1
    }


def compare(model: Model, imatrix: Path, types: tuple[str, ...], worker: Worker, scratch: Path) -> None:
    ours = {name: scratch / f"{name}.gguf" for name in types}
    worker.convert(Job(model.checkpoint, tuple(ours.items()), "bf16", threads=2, imatrix=imatrix))
    for name, path in ours.items():
        theirs = oracle.quantize(model.source, scratch / "oracle.gguf", name, imatrix)
        assert filecmp.cmp(path, theirs, shallow=False), f"{name} differs from llama.cpp's"
        theirs.unlink()


def without_ends(sizes: Sizes) -> Sizes:
    """What llama-imatrix collects: it sees no look-up of tokens, and the output only when it is told to."""
    return {name: size for name, size in sizes.items() if name.startswith("blk.")}


@pytest.mark.parametrize("name", ["llama-spm", "mixtral", "granitemoe"])
def test_every_type_equals_llama_quantize(
    name: str, model: Callable[[str], Model], worker: Worker, tmp_path: Path
) -> None:
    made = model(name)
    imatrix = write_gguf(tmp_path / "imatrix.gguf", collect(without_ends(made.sizes), unused=[1]))
    compare(made, imatrix, TYPES if name != "granitemoe" else FEW_TYPES, worker, tmp_path)
    plain = oracle.quantize(made.source, tmp_path / "plain.gguf", "Q4_K_M")
    assert data_of(plain) != data_of(tmp_path / "Q4_K_M.gguf"), "it makes a difference"


@pytest.mark.parametrize("name", ["llama-spm", "mixtral"])
def test_a_legacy_file_equals_llama_quantize(
    name: str, model: Callable[[str], Model], worker: Worker, tmp_path: Path
) -> None:
    made = model(name)
    collected = collect(made.sizes, unused=[0, 3])
    imatrix = write_legacy(tmp_path / "imatrix.dat", collected, dataset="/texts/wiki.raw")
    compare(made, imatrix, ("Q4_K_M", "Q4_0"), worker, tmp_path)
    bare = write_legacy(tmp_path / "bare.dat", collected, chunks=None)
    folder = tmp_path / "bare"
    folder.mkdir()
    compare(made, bare, ("Q6_K",), worker, folder)


def test_missing_entries_and_sizes_that_llama_quantize_lets_pass(
    model: Callable[[str], Model], worker: Worker, tmp_path: Path
) -> None:
    made = model("llama-spm")
    sizes = {name: size for name, size in made.sizes.items() if not name.startswith(("blk.1.", "blk.2.attn"))}
    # another size: of the look-up table, and of a tensor that is never quantised
    sizes |= {"token_embd.weight": (1, 32), "blk.0.attn_norm.weight": (1, 32), "unknown": (1, 8)}
    imatrix = write_gguf(tmp_path / "imatrix.gguf", collect(sizes))
    compare(made, imatrix, ("Q4_K_M", "IQ4_NL", "Q3_K_M"), worker, tmp_path)


def test_a_wrong_size_is_refused_as_by_llama_quantize(
    model: Callable[[str], Model], worker: Worker, tmp_path: Path
) -> None:
    made = model("mixtral")
    wrong = "blk.1.ffn_up_exps.weight"
    experts, columns = made.sizes[wrong]
    imatrix = write_gguf(tmp_path / "imatrix.gguf", collect({**made.sizes, wrong: (1, columns)}))
    sentence = f"{wrong} has {columns} values and would need {experts * columns}"
    for plan_only in (True, False):
        for name in ("Q4_K_M", "F16"):
            outputs = ((name, tmp_path / "ours.gguf"),)
            job = Job(made.checkpoint, outputs, "bf16", imatrix=imatrix, plan_only=plan_only)
            with pytest.raises(ImportanceMatrixError, match=sentence):
                worker.convert(job)
    for name in ("Q4_K_M", "F16"):
        with pytest.raises(oracle.OracleError, match=f"imatrix size {columns} is different from tensor size"):
            oracle.quantize(made.source, tmp_path / "theirs.gguf", name, imatrix)
    # a file that keeps the stored type quantises nothing, and looks at no size
    compare(made, imatrix, ("BF16",), worker, tmp_path)


def test_a_matrix_of_another_model_is_refused(
    model: Callable[[str], Model], worker: Worker, tmp_path: Path
) -> None:
    imatrix = write_gguf(tmp_path / "imatrix.gguf", collect({"encoder.0.weight": (1, 256)}))
    job = Job(
        model("llama-spm").checkpoint,
        (("F16", tmp_path / "x.gguf"),),
        "bf16",
        imatrix=imatrix,
        plan_only=True,
    )
    with pytest.raises(ImportanceMatrixError, match="no entry for any tensor of this model"):
        worker.convert(job)


@pytest.mark.parametrize(
    ("file", "datasets", "chunks"),
    [
        ("imatrix.gguf", ("first.txt", "second.txt"), 7),
        ("x" * 126 + "ä.gguf", ("ö" * 100,), 0),
        ("imatrix", ("",), 1),
    ],
)
def test_the_header_equals_llama_quantizes(
    file: str,
    datasets: tuple[str, ...],
    chunks: int,
    model: Callable[[str], Model],
    worker: Worker,
    tmp_path: Path,
) -> None:
    made = model("llama-spm")
    imatrix = write_gguf(tmp_path / file, collect(without_ends(made.sizes)), datasets=datasets, chunks=chunks)
    compare(made, imatrix, ("Q8_0",), worker, tmp_path)


def test_extreme_importance(model: Callable[[str], Model], worker: Worker, tmp_path: Path) -> None:
    """Columns that are never used, and ones that drown the others."""
    made = model("llama-spm")
    collected = {}
    for name, (experts, columns) in without_ends(made.sizes).items():
        sums = np.full((experts, columns), 1e-30, dtype=np.float32)
        sums[:, ::7], sums[:, 1::5] = 0, 1e20
        collected[name] = Collected(sums, np.ones(experts, dtype=np.float32))
    imatrix = write_gguf(tmp_path / "imatrix.gguf", collected)
    compare(made, imatrix, ("Q4_K_M", "Q4_0", "Q5_0", "Q2_K", "IQ4_XS"), worker, tmp_path)


@pytest.mark.parametrize("name", ["Q2_K", "Q4_K_S", "IQ4_NL"])
def test_importance_that_overflows_is_refused_as_by_llama_quantize(
    name: str, model: Callable[[str], Model], worker: Worker, tmp_path: Path
) -> None:
    """Near the end of float32 the kernels' own sums are infinite, and the blocks NaN."""
    made = model("llama-spm")
    large = {
        name: Collected(np.full(size, 3e38, dtype=np.float32), np.ones(size[0], dtype=np.float32))
        for name, size in without_ends(made.sizes).items()
    }
    imatrix = write_gguf(tmp_path / "imatrix.gguf", large)
    job = Job(made.checkpoint, ((name, tmp_path / "ours.gguf"),), "bf16", imatrix=imatrix)
    with pytest.raises(ImportanceMatrixError, match=rf"blk\.0\.\S+: .*{name[:4]}.* NaN"):
        worker.convert(job)
    with pytest.raises(oracle.OracleError, match="quantized data validation failed"):
        oracle.quantize(made.source, tmp_path / "theirs.gguf", name, imatrix)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_found_all_the_same(
    value: float, model: Callable[[str], Model], worker: Worker, tmp_path: Path
) -> None:
    made = model("llama-spm")
    checkpoint = link_checkpoint(made.checkpoint, tmp_path / "model")
    store_value(checkpoint, "model.layers.1.mlp.up_proj.weight", value)
    imatrix = write_gguf(tmp_path / "imatrix.gguf", collect(without_ends(made.sizes)))
    job = Job(checkpoint, (("Q4_K_M", tmp_path / "x.gguf"),), "bf16", imatrix=imatrix)
    with pytest.raises(TensorValueError, match=r"blk\.1\.ffn_up\.weight: 1 of the"):
        worker.convert(job)


def test_a_build_records_its_matrix(model: Callable[[str], Model], tmp_path: Path) -> None:
    made = model("llama-spm")
    folder = tmp_path / "private"
    folder.mkdir()
    imatrix = write_gguf(folder / "imatrix.gguf", collect(without_ends(made.sizes)), chunks=12)
    options: dict[str, Any] = {
        "name": "m",
        "quantization": "Q8_0",
        "output": tmp_path,
        "register": False,
        "verify": "none",
    }
    result = ggufpack.build(made.checkpoint, imatrix=imatrix, **options)
    record = json.loads(result.record.read_text(encoding="utf-8"))
    assert record["imatrix"] == {
        "file": "imatrix.gguf",
        "sha256": hashlib.sha256(imatrix.read_bytes()).hexdigest(),
        "entries": 21,
        "chunks": 12,
        "datasets": ["wiki.train.raw"],
    }
    reader = gguf.GGUFReader(result.package.files[0].path)
    fields = {key: reader.fields[key].contents() for key in reader.fields if "imatrix" in key}
    assert fields == {
        "quantize.imatrix.file": "imatrix.gguf",
        "quantize.imatrix.dataset": "wiki.train.raw",
        "quantize.imatrix.entries_count": 21,
        "quantize.imatrix.chunks_count": 12,
    }


def test_the_early_downs_of_a_real_model(smollm2: Path, worker: Worker, tmp_path: Path) -> None:
    """The tiny ones have too few layers for the rules that ask whether there is a matrix."""
    imatrix = write_gguf(tmp_path / "imatrix.gguf", collect({"blk.0.ffn_down.weight": (1, 1536)}))
    outputs = tuple((name, tmp_path / name) for name in ("Q4_0", "Q5_0", "IQ4_NL"))
    job = Job(smollm2, outputs, "bf16", imatrix=imatrix, plan_only=True)
    counts = [file.tensor_types for file in worker.convert(job).files]
    assert [counts[0].get("Q4_1"), counts[1].get("Q5_1"), counts[2].get("Q5_K")] == [3, 3, None]


def data_of(path: Path) -> dict[str, bytes]:
    return {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(path).tensors}
