"""The reader of one safetensors file against the safetensors library."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ggufpack.checkpoint.header import DTYPE_BITS, MAX_HEADER_BYTES, read_header
from ggufpack.errors import TensorFileError

from .builders import header_of, write_raw, write_safetensors

ENTRY = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


def library_names(path: Path) -> list[str] | None:
    """Tensor names as the safetensors library sees them; ``None`` when it refuses the file."""
    try:
        with safe_open(str(path), framework="np") as file:
            return sorted(file.keys())
    except (SafetensorError, OSError, ValueError):
        return None


def our_names(path: Path) -> list[str] | None:
    try:
        return sorted(tensor.name for tensor in read_header(path))
    except TensorFileError:
        return None


def test_reads_what_the_library_wrote_to_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    arrays: dict[str, npt.NDArray[Any]] = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.arange(5, dtype=np.float16),
        "scalar": np.array(7, dtype=np.int64),
        "none": np.zeros((0, 3), dtype=np.float32),
    }
    save_file(arrays, str(path), metadata={"format": "pt"})
    content = path.read_bytes()
    tensors = {tensor.name: tensor for tensor in read_header(path)}
    assert tensors.keys() == arrays.keys()
    for name, array in arrays.items():
        tensor = tensors[name]
        assert tensor.shape == array.shape
        assert tensor.elements == array.size
        assert content[tensor.begin : tensor.end] == array.tobytes()


@pytest.mark.parametrize("dtype", sorted(DTYPE_BITS))
def test_every_dtype_has_the_size_that_the_library_gives_it(tmp_path: Path, dtype: str) -> None:
    # 8 elements fill DTYPE_BITS bytes; one byte more or less must be refused by both
    for surplus in (-1, 0, 1):
        size = DTYPE_BITS[dtype] + surplus
        header = json.dumps({"t": {"dtype": dtype, "shape": [8], "data_offsets": [0, size]}})
        path = write_raw(tmp_path / "t.safetensors", header, bytes(size))
        expected = ["t"] if surplus == 0 else None
        assert library_names(path) == expected
        assert our_names(path) == expected


@pytest.mark.parametrize(
    ("header", "data", "says"),
    [
        ("[]", b"", "begin with"),
        ("{", b"", "not valid JSON"),
        ("{}x", b"", "not valid JSON"),
        (b'{"a\xff":1}', b"", "UTF-8"),
        ('{"\\ud800":' + ENTRY + "}", bytes(4), "UTF-8"),
        ('{"a":{"dtype":"F32","x":NaN,"shape":[1],"data_offsets":[0,4]}}', bytes(4), "NaN"),
        ('{"a":{"dtype":"F32","x":1e999,"shape":[1],"data_offsets":[0,4]}}', bytes(4), "range"),
        ('{"a":7}', b"", "not a JSON object"),
        ('{"a":{"shape":[1],"data_offsets":[0,4]}}', bytes(4), "dtype None"),
        ('{"a":{"dtype":"Q4_K","shape":[1],"data_offsets":[0,4]}}', bytes(4), "Q4_K"),
        ('{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}', bytes(4), "shape"),
        ('{"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}', bytes(4), "shape"),
        ('{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', bytes(4), "shape"),
        ('{"a":{"dtype":"F32","shape":[1],"data_offsets":[-0,4]}}', bytes(4), "data_offsets"),
        ('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}', bytes(4), "data_offsets"),
        ('{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}', bytes(4), "ends before"),
        ('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', bytes(4), "needs 8 bytes"),
        ('{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}', bytes(1), "whole bytes"),
        (
            '{"a":{"dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}}',
            b"",
            "64 bits",
        ),
        ('{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}}', b"", "64 bits"),
        ('{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', bytes(8), "hole"),
        ('{"a":' + ENTRY + ',"b":' + ENTRY + "}", bytes(4), "overlaps"),
        ('{"__metadata__":{"format":1}}', b"", "__metadata__"),
    ],
)
def test_refuses_what_the_library_refuses(tmp_path: Path, header: str, data: bytes, says: str) -> None:
    path = write_raw(tmp_path / "model.safetensors", header, data)
    assert library_names(path) is None
    with pytest.raises(TensorFileError, match=says) as caught:
        read_header(path)
    assert caught.value.path == path
    assert str(path) in caught.value.problem
    assert caught.value.action


@pytest.mark.parametrize(
    "header",
    [
        " {}",
        '{"a":' + ENTRY + ',"a":' + ENTRY + "}",
        '{"a":["F32",[1],[0,4]]}',
        '{"a":{"dtype":{"F32":null},"shape":[1],"data_offsets":[0,4]}}',
    ],
)
def test_the_documented_differences_are_real(tmp_path: Path, header: str) -> None:
    path = write_raw(tmp_path / "model.safetensors", header, bytes(4 if "a" in header else 0))
    assert library_names(path) is not None
    assert our_names(path) is None


def test_accepts_null_metadata_unknown_keys_and_trailing_spaces(tmp_path: Path) -> None:
    header = '{"__metadata__":null,"a":{"dtype":"F32","note":[1,{}],"shape":[1],"data_offsets":[0,4]}}   '
    path = write_raw(tmp_path / "model.safetensors", header, bytes(4))
    assert library_names(path) == our_names(path) == ["a"]


def test_says_how_many_bytes_of_a_truncated_file_are_missing(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "model.safetensors", {"a": ("F32", (1000,))})
    content = path.read_bytes()
    path.write_bytes(content[:-1234])
    with pytest.raises(TensorFileError, match=rf"1,234 of {len(content):,} bytes are missing") as caught:
        read_header(path)
    assert "again" in (caught.value.action or "")


def test_refuses_bytes_after_the_last_tensor(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "model.safetensors", {"a": ("F32", (2,))})
    path.write_bytes(path.read_bytes() + b"xyz")
    with pytest.raises(TensorFileError, match="3 bytes after the last tensor"):
        read_header(path)


def test_a_file_cut_off_in_its_header_says_so(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 500) + b"{" * 100)
    with pytest.raises(TensorFileError, match="at least 400 bytes"):
        read_header(path)


def test_a_header_over_the_cap_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER_BYTES + 1))
        file.truncate(MAX_HEADER_BYTES + 100)  # sparse: the bytes are there
    with pytest.raises(TensorFileError, match="100,000,001"):
        read_header(path)
    assert library_names(path) is None


@pytest.mark.parametrize("content", [b"", b"1234567"])
def test_a_file_too_short_for_the_length(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(TensorFileError, match="too few"):
        read_header(path)


def test_a_git_lfs_pointer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(TensorFileError, match="Git LFS pointer") as caught:
        read_header(path)
    assert "git lfs pull" in (caught.value.action or "")


def test_deep_nesting_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "model.safetensors", '{"a":' + "[" * 200_000)
    with pytest.raises(TensorFileError, match="JSON"):
        read_header(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TensorFileError, match="regular file"):
        read_header(tmp_path)


_SIZES = st.integers(0, 3)
_TABLES = st.dictionaries(
    st.text(min_size=1, max_size=4),
    st.tuples(st.sampled_from(["F32", "BF16", "U8", "F4", "I64"]), st.lists(_SIZES, max_size=3).map(tuple)),
    max_size=4,
)
_VALUES = st.one_of(
    st.integers(-1, 20),
    st.none(),
    st.booleans(),
    st.text(max_size=3),
    st.floats(),
    st.lists(st.integers(0, 9)),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    table=_TABLES,
    field=st.sampled_from(["dtype", "shape", "data_offsets", "unknown", None]),
    value=_VALUES,
    surplus=st.sampled_from([0, 0, 0, -1, 1]),
    shuffle=st.booleans(),
)
def test_agrees_with_the_library_on_edited_headers(
    tmp_path: Path, table: dict[str, Any], field: str | None, value: object, surplus: int, shuffle: bool
) -> None:
    header, size = header_of(table)
    if field and header:
        header[next(iter(header))][field] = value
    if shuffle:
        header = dict(reversed(header.items()))
    path = write_raw(tmp_path / "t.safetensors", json.dumps(header), bytes(max(0, size + surplus)))
    assert our_names(path) == library_names(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 400), byte=st.integers(0, 255), cut=st.booleans())
def test_never_accepts_a_flipped_byte_that_the_library_refuses(
    tmp_path: Path, position: int, byte: int, cut: bool
) -> None:
    path = write_safetensors(
        tmp_path / "t.safetensors", {"a": ("F32", (2,)), "b": ("U8", (3,)), "c": ("BF16", ())}
    )
    content = bytearray(path.read_bytes())
    position %= len(content)
    content = content[:position] if cut else content
    if not cut:
        content[position] = byte
    path.write_bytes(content)
    ours, theirs = our_names(path), library_names(path)
    assert ours == theirs or (ours is None and _is_documented_difference(bytes(content)))


def _is_documented_difference(content: bytes) -> bool:
    # the flip made two names equal, or blanked nothing but white space before the brace
    text = content[8:]
    return (
        not text.startswith(b"{")
        or text.count(b'"a"') > 1
        or text.count(b'"b"') > 1
        or text.count(b'"c"') > 1
    )
