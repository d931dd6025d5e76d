"""Importance matrices: both formats, and files that are broken or hostile.

tests/integration/test_imatrix.py compares what comes of them with llama-quantize.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ggufpack.errors import ImportanceMatrixError, UsageError
from ggufpack.quantize.imatrix import ImportanceMatrix, load_imatrix
from tests.support.imatrix_files import Collected, collect, write_gguf, write_legacy

DENSE, EXPERTS = "blk.0.attn_q.weight", "blk.0.ffn_down_exps.weight"
SIZES = {DENSE: (1, 256), EXPERTS: (4, 64)}
UINT32, FLOAT32, STRING, ARRAY, UINT64 = 4, 6, 8, 9, 10


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def strings(*values: str | bytes) -> bytes:
    return struct.pack("<IQ", STRING, len(values)) + b"".join(map(text, values))


def uint32(value: int) -> tuple[int, bytes]:
    return UINT32, struct.pack("<I", value)


KEYS = {
    "general.type": (STRING, text("imatrix")),
    "imatrix.datasets": (ARRAY, strings("wiki.raw")),
    "imatrix.chunk_count": uint32(3),
    "imatrix.chunk_size": uint32(512),
}
Info = tuple[str, Sequence[int], int, int]
INFOS: tuple[Info, ...] = (("a.in_sum2", (8, 1), 0, 0), ("a.counts", (1, 1), 0, 32))
DATA = np.array([*range(8), 2, *[0] * 7], dtype="<f4").tobytes()


def gguf(
    keys: Sequence[tuple[str, tuple[int, bytes]]] = tuple(KEYS.items()),
    infos: Sequence[Info] = INFOS,
    data: bytes = DATA,
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    """A GGUF file, field by field; ``counts`` are those of tensors and keys that it claims."""
    header = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(infos), len(keys))))
    for key, (kind, value) in keys:
        header += text(key) + struct.pack("<I", kind) + value
    for name, sizes, kind, offset in infos:
        header += text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)
    return header + bytes(-len(header) % 32) + data


def with_key(key: str, value: tuple[int, bytes] | None) -> bytes:
    changed = {**KEYS, key: value}
    return gguf([(name, found) for name, found in changed.items() if found is not None])


def legacy(*entries: tuple[bytes, int, Sequence[float]], end: bytes = b"", count: int | None = None) -> bytes:
    data = struct.pack("<i", len(entries) if count is None else count)
    for name, calls, values in entries:
        data += struct.pack("<i", len(name)) + name + struct.pack("<ii", calls, len(values))
        data += np.array(values, dtype="<f4").tobytes()
    return data + end


def load(folder: Path, data: bytes) -> ImportanceMatrix:
    path = folder / "file"
    path.write_bytes(data)
    return load_imatrix(path)


# --- what is read -------------------------------------------------------------


@pytest.mark.parametrize("write", [write_gguf, write_legacy])
def test_means_of_both_formats(write: Callable[..., Path], tmp_path: Path) -> None:
    collected = collect(SIZES, unused=[2])
    path = write(tmp_path / "imatrix", collected, chunks=12)
    matrix = load_imatrix(path)
    assert (matrix.path, matrix.chunks, set(matrix.entries)) == (path, 12, set(SIZES))
    assert matrix.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    for name, found in collected.items():
        means = matrix.for_tensor(name, (SIZES[name][0], 7, SIZES[name][1]))
        assert means is not None
        assert (means.dtype, means.shape) == (np.dtype(np.float32), SIZES[name])
        used = found.counts > 0
        expected = found.sums[used] / found.counts[used, None]
        np.testing.assert_allclose(means[used], expected, rtol=3e-7)
        # an expert that no token reached: every column matters alike
        assert used.all() == (name == DENSE)
        assert (means[~used] == 1).all()


def test_gguf_counts_are_whole_numbers(tmp_path: Path) -> None:
    sums = np.ones((4, 3), dtype=np.float32)
    path = write_gguf(
        tmp_path / "m.gguf", {"a": Collected(sums, np.array([2.5, 0.4, -1, 3], dtype=np.float32))}
    )
    thirds = np.float32(1) / np.float32(3)
    assert load_imatrix(path).entries["a"].tolist() == [thirds] * 3 + [1] * 6 + [thirds] * 3


def test_legacy_sums_without_calls_are_means_already(tmp_path: Path) -> None:
    data = legacy((b"a", 0, [4, 6]), (b"b", 2, [4, 6]), (b"c", -2, [4, 6]))
    entries = load(tmp_path, data).entries
    assert {name: values.tolist() for name, values in entries.items()} == {
        "a": [4, 6],
        "b": [2, 3],
        "c": [4, 6],
    }


@pytest.mark.parametrize(
    ("end", "chunks", "datasets"),
    [
        (b"", 0, ()),
        (struct.pack("<i", 5), 5, ()),
        (struct.pack("<ii", 5, 0), 5, ()),
        (struct.pack("<ii", -1, -1), 0, ()),
        (struct.pack("<ii", 5, 3) + b"a\0b", 5, (b"a",)),
    ],
)
def test_the_end_of_a_legacy_file_is_optional(
    end: bytes, chunks: int, datasets: tuple[bytes, ...], tmp_path: Path
) -> None:
    matrix = load(tmp_path, legacy((b"a", 1, [1.0]), end=end))
    assert (matrix.chunks, matrix.datasets) == (chunks, datasets)


def test_a_gguf_file_field_by_field(tmp_path: Path) -> None:
    keys = [
        ("general.alignment", uint32(64)),
        ("x.numbers", (ARRAY, struct.pack("<IQ", UINT64, 2) + bytes(16))),
        ("x.texts", (ARRAY, strings("a", "bc"))),
        ("x.float", (FLOAT32, bytes(4))),
        *KEYS.items(),
    ]
    data = gguf(keys)
    data = data[: -len(DATA)]
    matrix = load(tmp_path, data + bytes(-len(data) % 64) + DATA)
    assert matrix.entries["a"].tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5]
    assert (matrix.chunks, matrix.datasets) == (3, (b"wiki.raw",))
    assert load(tmp_path, with_key("imatrix.datasets", (ARRAY, strings()))).datasets == ()
    assert load(tmp_path, gguf(version=2)).entries.keys() == {"a"}


# --- how it is used -----------------------------------------------------------


def matrix_of(**sizes: int) -> ImportanceMatrix:
    entries = {name: np.ones(size, dtype=np.float32) for name, size in sizes.items()}
    return ImportanceMatrix(Path("x/imatrix.gguf"), "ab", entries, 0, ())


def test_sizes_are_columns_by_experts() -> None:
    matrix = matrix_of(a=256)
    for shape in ((9, 256), (1, 9, 256), (4, 9, 64)):
        found = matrix.for_tensor("a", shape)
        assert found is not None
        assert found.shape == (256 // shape[-1], shape[-1])
    assert matrix.for_tensor("b", (9, 256)) is None
    for shape in ((9, 64), (4, 9, 256), (256, 9)):
        with pytest.raises(ImportanceMatrixError, match=r"imatrix\.gguf: a has 256 values and would need"):
            matrix.for_tensor("a", shape)


@pytest.mark.parametrize("name", ["token_embd.weight", "per_layer_token_embd.weight"])
def test_embeddings_may_have_another_size(name: str) -> None:
    matrix = matrix_of(**{name: 256})
    assert matrix.for_tensor(name, (9, 64)) is None
    assert matrix.for_tensor(name, (9, 256)) is not None


def test_a_matrix_of_another_model_is_refused() -> None:
    matrix_of(a=1, b=1).check_model(["b", "c"])
    with pytest.raises(ImportanceMatrixError, match="no entry for any tensor of this model"):
        matrix_of(a=1).check_model(["b", "c"])


def test_the_keys_of_the_header() -> None:
    bare = matrix_of(a=1, b=1)
    assert list(bare.header_values().items()) == [
        ("quantize.imatrix.file", b"imatrix.gguf"),
        ("quantize.imatrix.entries_count", 2),
    ]
    long = replace(bare, path=Path("ä" * 100), chunks=7, datasets=("ö".encode() * 100, b"second"))
    values = long.header_values()
    assert list(values) == [
        f"quantize.imatrix.{key}" for key in ("file", "dataset", "entries_count", "chunks_count")
    ]
    assert values["quantize.imatrix.file"] == ("ä" * 100).encode()[:127], "cut within a character"
    assert values["quantize.imatrix.dataset"] == ("ö" * 100).encode()[:127]
    assert values["quantize.imatrix.chunks_count"] == 7


# --- what is refused ----------------------------------------------------------

HUGE = (1 << 63) + 5
NAN, INF = float("nan"), float("inf")


def changed(index: int, **fields: object) -> bytes:
    """One tensor of the GGUF file otherwise: name, sizes, kind, offset."""
    infos = [dict(zip(("name", "sizes", "kind", "offset"), info, strict=True)) for info in INFOS]
    infos[index] |= fields
    return gguf(infos=[tuple(info.values()) for info in infos])  # type: ignore[misc]


def valued(*values: float) -> bytes:
    return gguf(data=np.array(values, dtype="<f4").tobytes() + bytes(64))


BROKEN = {
    "empty": (b"", "the number of entries would be 4 bytes, and 0 are left"),
    "text": (b"importance matrix\n" * 9, "the name of entry 1 would be"),
    "no entries": (legacy(), "it says that it has 0 entries"),
    "negative entries": (legacy(count=-1), "it says that it has -1 entries"),
    "more entries than there are": (legacy((b"a", 1, [1]), count=2), "the name of entry 2 would be 4 bytes"),
    "a name of no length": (legacy((b"", 1, [1])), "the name of entry 1 is not a name"),
    "a name of negative length": (struct.pack("<ii", 1, -5), "the name of entry 1 would be -5 bytes"),
    "a name that is no text": (legacy((b"\xff", 1, [1])), "the name of entry 1 is not text"),
    "a name of control characters": (legacy((b"a\x1b[2J", 1, [1])), "the name of entry 1 is not a name"),
    "no values": (legacy((b"a", 1, [])), "a has 0 values"),
    "legacy, cut off": (legacy((b"a", 1, [1] * 8))[:-1], "a would be 32 bytes, and 31 are left"),
    "a name twice": (legacy((b"a", 1, [1]), (b"a", 1, [1])), "there are two entries of the name a"),
    "half a chunk count": (legacy((b"a", 1, [1]), end=b"\0"), "the number of chunks would be 4 bytes"),
    "a long dataset": (legacy((b"a", 1, [1]), end=struct.pack("<ii", 1, 9)), "dataset's name would be 9"),
    "more after it": (legacy((b"a", 1, [1]), end=struct.pack("<ii", 1, 0) + b"x"), "1 bytes stand after"),
    "legacy NaN": (legacy((b"a", 1, [1, NAN])), "a holds NaN or infinity"),
    "legacy infinity": (legacy((b"a", 0, [INF])), "a holds NaN or infinity"),
    "legacy negative": (legacy((b"a", 1, [1, -1])), "a holds a negative mean"),
    "GGUF alone": (b"GGUF", "the header would be 24 bytes"),
    "version 1": (gguf(version=1), "it is GGUF of version 1"),
    "other byte order": (gguf(version=3 << 24), "it is GGUF of version 50331648"),
    "a model": (
        gguf(list(KEYS.items())[:1]),
        "a GGUF file without imatrix.datasets, imatrix.chunk_count, im",
    ),
    "no chunk size": (with_key("imatrix.chunk_size", None), "a GGUF file without imatrix.chunk_size"),
    "chunks as text": (
        with_key("imatrix.chunk_count", (STRING, text("9"))),
        "chunk_count is not an unsigned",
    ),
    "too many chunks": (with_key("imatrix.chunk_count", uint32(1 << 31)), "chunk_count is 2,147,483,648"),
    "one dataset": (with_key("imatrix.datasets", (STRING, text("a"))), "datasets is not a list"),
    "datasets as numbers": (
        with_key("imatrix.datasets", (ARRAY, struct.pack("<IQ", UINT64, 0))),
        "datasets is not a list",
    ),
    "alignment 0": (with_key("general.alignment", uint32(0)), "general.alignment is 0"),
    "alignment 24": (with_key("general.alignment", uint32(24)), "general.alignment is 24"),
    "huge alignment": (
        with_key("general.alignment", uint32(1 << 31)),
        "the data would be 36 bytes, and 0 are",
    ),
    "unknown value type": (with_key("x", (77, b"")), "x has the unknown type 77"),
    "list of lists": (with_key("x", (ARRAY, struct.pack("<IQ", ARRAY, 1))), "x has the unknown type 9"),
    "a key twice": (gguf([*KEYS.items(), *KEYS.items()]), "it holds the key general.type twice"),
    "a list without end": (with_key("x", (ARRAY, struct.pack("<IQ", UINT64, HUGE))), "x would be"),
    "texts without end": (with_key("x", (ARRAY, struct.pack("<IQ", STRING, HUGE))), "x would be"),
    "text without end": (with_key("x", (STRING, struct.pack("<Q", HUGE))), "x would be"),
    "keys without end": (gguf(counts=(2, HUGE)), "would be"),
    "tensors without end": (gguf(counts=(HUGE, 4)), "would be|is not"),
    "no tensors": (gguf(infos=()), "it has no entries"),
    "five dimensions": (changed(0, sizes=(1, 1, 1, 1, 8)), "a.in_sum2 has 5 dimensions"),
    "no counts": (gguf(infos=INFOS[:1]), "there is no a.counts"),
    "no sums": (gguf(infos=INFOS[1:]), "there is no a.in_sum2"),
    "a tensor twice": (gguf(infos=(*INFOS, INFOS[0])), "two tensors of the name a.in_sum2"),
    "F16 sums": (changed(0, kind=1), "a.in_sum2 is not F32"),
    "F16 counts": (changed(1, kind=1), "a.counts is not F32"),
    "no sums in it": (changed(0, sizes=(0, 1)), "a.in_sum2 is empty"),
    "no counts in it": (changed(1, sizes=(0,)), "a.counts is empty"),
    "counts that do not divide": (changed(1, sizes=(1, 3)), "a has 8 sums and 3 counts"),
    "more data than there is": (changed(0, sizes=(1 << 60,)), "the data would be"),
    "many times the same data": (
        gguf(infos=[(f"{i}.{part}", (16,), 0, 0) for i in range(9) for part in ("in_sum2", "counts")]),
        "the data would be 1,152 bytes, and 64 are left",
    ),
    "data after the end": (changed(1, offset=64), "a.counts would be 4 bytes, and 0 are left"),
    "data far after the end": (changed(1, offset=HUGE), "what stands before a.counts would be"),
    "GGUF, cut off": (gguf(data=DATA[:30]), "the data would be 36 bytes, and 30 are left"),
    "NaN sums": (valued(*range(7), NAN, 1), "a holds NaN or infinity"),
    "infinite sums": (valued(*range(7), INF, 1), "a holds NaN or infinity"),
    "negative sums": (valued(*range(7), -1, 1), "a holds a negative mean"),
    "NaN counts": (valued(*range(8), NAN), "a.counts holds NaN or infinity"),
    "infinite counts": (valued(*range(8), INF), "a.counts holds NaN or infinity"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_get_a_sentence(case: str, tmp_path: Path) -> None:
    data, why = BROKEN[case]
    with pytest.raises(ImportanceMatrixError, match=why) as caught:
        load(tmp_path, data)
    assert caught.value.problem.startswith(f"{tmp_path / 'file'} is not a usable importance matrix: ")
    assert caught.value.problem.isprintable()
    assert "llama-imatrix" in str(caught.value.action)
    assert caught.value.path == tmp_path / "file"


def test_every_prefix_and_every_changed_byte_is_read_or_refused(tmp_path: Path) -> None:
    for whole in (gguf(), legacy((b"a", 1, [1, 2]), end=struct.pack("<ii", 1, 1) + b"d")):
        for length in range(len(whole)):
            if whole.startswith(b"GGUF") and length >= len(whole) - 28:
                continue  # nothing but padding is missing
            if not whole.startswith(b"GGUF") and length in (len(whole) - 5, len(whole) - 9):
                continue  # without the optional end
            with pytest.raises(ImportanceMatrixError):
                load(tmp_path, whole[:length])
        for index in range(len(whole)):
            for value in (0x00, 0x7F, 0xFF):
                try:
                    load(tmp_path, whole[:index] + bytes([value]) + whole[index + 1 :])
                except ImportanceMatrixError as error:
                    assert error.problem.isprintable()


def test_no_length_costs_time_or_memory(tmp_path: Path) -> None:
    started = time.process_time()
    kinds = {UINT64: 8, 7: 1, STRING: 8}
    for kind, size in kinds.items():
        for count in (1 << 40, ((1 << 64) - 1) // size, (1 << 64) - 1):
            with pytest.raises(ImportanceMatrixError, match="would be"):
                load(tmp_path, with_key("x", (ARRAY, struct.pack("<IQ", kind, count))))
    assert time.process_time() - started < 1


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
def test_what_is_no_file_is_a_usage_error(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(
        UsageError, match=r"--imatrix .*imatrix\.gguf: (it cannot be read|this is not a file)"
    ):
        load_imatrix(path)
