"""A copy of a GGUF with its weights decoded: the same keys and names, and the values that were stored."""

from __future__ import annotations

from pathlib import Path

import gguf
import gguf.quants
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader

from ggufpack.gguf_header import GgufFileError, read_gguf_header
from ggufpack.verification.fidelity import decoded
from ggufpack.verification.fidelity.decoded import decoded_size, write_decoded

KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_K", "Q6_K", "I32")
SHAPE = (6, 256)


def stored(kind: str) -> np.ndarray:
    random = np.random.default_rng(3)
    if kind == "I32":
        return random.integers(0, 99, SHAPE).astype(np.int32)
    values = random.standard_normal(SHAPE).astype(np.float32)
    if kind in ("Q4_K", "Q6_K"):  # gguf cannot encode them: any bytes with sane scales are values
        size = gguf.quants.quant_shape_to_byte_shape(SHAPE, GGMLQuantizationType[kind])
        return np.full(size, 17, np.uint8)
    return np.asarray(gguf.quants.quantize(values, GGMLQuantizationType[kind]))


@pytest.fixture(params=[32, 64])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "source.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("some.text", "kept")
    if request.param != 32:
        writer.add_custom_alignment(request.param)
    for kind in KINDS:
        number = GGMLQuantizationType[kind]
        writer.add_tensor(f"{kind.lower()}.weight", stored(kind), raw_dtype=number)
    writer.add_tensor("vector", np.arange(5, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(params=[1 << 22, 600])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded, "_CHUNK", request.param)


@pytest.mark.usefixtures("chunk")
def test_the_values_are_the_stored_ones(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "decoded.gguf"
    write_decoded(source, target, gguf)
    before, after = GGUFReader(source), GGUFReader(target)
    assert [tensor.name for tensor in after.tensors] == [tensor.name for tensor in before.tensors]
    for old, new in zip(before.tensors, after.tensors, strict=True):
        assert list(new.shape) == list(old.shape)
        if old.tensor_type is GGMLQuantizationType.I32:
            assert new.tensor_type is GGMLQuantizationType.I32
            assert (new.data == old.data).all()
        else:
            assert new.tensor_type is GGMLQuantizationType.F32
            assert (new.data == gguf.quants.dequantize(old.data, old.tensor_type)).all()
    assert read_gguf_header(target).keys == read_gguf_header(source).keys
    assert read_gguf_header(target).problems == ()
    assert decoded_size(source) == sum(tensor.n_bytes for tensor in after.tensors)


def test_a_file_that_ends_early_is_refused(source: Path, tmp_path: Path) -> None:
    source.write_bytes(source.read_bytes()[:-4096])
    with pytest.raises(GgufFileError):
        write_decoded(source, tmp_path / "decoded.gguf", gguf)
    assert not (tmp_path / "decoded.gguf").exists()
