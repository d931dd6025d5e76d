"""A GGUF file: what is damaged, and what contradicts itself."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufpack.doctor import Examination, examine
from ggufpack.gguf_header import read_gguf_header
from tests.unit.doctor.files import CHATML, TOKENS, write_gguf

ARRAY, STRING, U8, U32, U16 = 9, 8, 0, 4, 2


def ids(found: Examination, severity: str = "") -> list[str]:
    return [each.id for each in found.findings if severity in ("", each.severity.value)]


def head(*parts: bytes, keys: int = 1, tensors: int = 0, order: str = "<") -> bytes:
    return b"GGUF" + struct.pack(f"{order}IQQ", 3, tensors, keys) + b"".join(parts)


def key(name: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + value


def test_a_good_file_is_fine_and_says_what_was_left_out(tmp_path: Path) -> None:
    found = examine(write_gguf(tmp_path / "m.gguf"))
    assert (found.kind, found.status, found.exit_code) == ("gguf", "fine", 0)
    assert ids(found) == ["GP452"]  # not checked, and not "fine" about it
    assert [one.check for one in found.not_checked] == ["GGUF weights"]
    facts = found.facts["gguf"]["m.gguf"]
    assert facts["file_type"] == "F16"
    assert facts["tensors"] == {"F16": 1, "F32": 1}
    assert facts["stops"] == ["<|im_end|>"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ids": {"bos": 1, "eos": 99}}, "GP351"),
        ({"ids": {"bos": 1, "eos": 2}}, "GP357"),
        ({"ids": {"bos": 1}}, "GP356"),
        ({"add_bos": True}, "GP353"),
        ({"pre": "default"}, "GP354"),
        ({"pre": None}, "GP354"),
        ({"rows": 9}, "GP355"),
        ({"tokens": ()}, "GP350"),
        ({"template": None}, "GP451"),
        ({"template": "{% for m in messages %}"}, "GP420"),
        ({"template": "hello"}, "GP438"),
        ({"file_type": 15}, "GP268"),
        ({"context": None}, "GP270"),
    ],
)
def test_each_contradiction_is_a_finding(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    found = examine(write_gguf(tmp_path / "m.gguf", **changes))
    assert expected in ids(found)
    assert expected not in ids(examine(write_gguf(tmp_path / "good.gguf")))
    finding = next(each for each in found.findings if each.id == expected)
    assert finding.action
    assert finding.path == tmp_path / "m.gguf"


def test_an_end_that_the_file_names_as_eot_is_no_finding(tmp_path: Path) -> None:
    """``<|end|>`` of a custom name: llama.cpp ends there because of the key alone."""
    tokens = tuple(text.replace("<|im_end|>", "<|stop|>") for text in TOKENS)
    template = CHATML.replace("<|im_end|>", "<|stop|>")
    without = write_gguf(tmp_path / "a.gguf", tokens=tokens, template=template, ids={"eos": 2})
    with_eot = write_gguf(tmp_path / "b.gguf", tokens=tokens, template=template, ids={"eos": 2, "eot": 6})
    assert "GP352" in ids(examine(without))
    assert "GP352" not in ids(examine(with_eot))


def test_a_guarded_template_cannot_be_replaced(tmp_path: Path) -> None:
    from ggufpack.chat_template.guard import add_guard

    assert "GP452" not in ids(examine(write_gguf(tmp_path / "m.gguf", template=add_guard(CHATML))))


def block(scale: float) -> Any:
    return np.frombuffer(np.float16(scale).tobytes() + bytes(32), np.uint8).reshape(1, 34)


def test_nan_in_the_scale_of_a_block_shows_with_deep_only(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", weights=block(float("nan")))
    assert examine(path).status == "fine"
    found = examine(path, deep=True)
    assert ids(found, "error") == ["GP269"]
    assert "blk.0.ffn_up.weight" in found.findings[0].message
    assert not found.not_checked
    assert examine(write_gguf(tmp_path / "good.gguf", weights=block(1.0)), deep=True).status == "fine"


@pytest.mark.parametrize(
    ("content", "expected", "words"),
    [
        (lambda good: b"", "GP262", "empty"),
        (lambda good: b"GG", "GP262", "begins with"),
        (lambda good: b"version https://git-lfs", "GP262", "git lfs pull"),
        (lambda good: bytes(4096), "GP262", "zeros"),
        (lambda good: b"PK\x03\x04 and more", "GP262", "ZIP"),
        (lambda good: good[:200], "GP264", "inside its header"),
        (lambda good: good[:-40], "GP264", "bytes are missing"),
        (lambda good: head(order=">"), "GP263", "big-endian"),
        (lambda good: b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "GP263", "version 1"),
        (lambda good: head(key("split.count", U16, struct.pack("<H", 3))), "GP263", "3 parts"),
        (lambda good: head(key("a", 77, b"")), "GP265", "unknown type 77"),
        (lambda good: head(key("a", U8, b"1"), key("a", U8, b"1"), keys=2), "GP265", "twice"),
        (lambda good: head(key("a", ARRAY, struct.pack("<IQ", U32, 1 << 60))), "GP264", "left"),
        (lambda good: head(key("a", ARRAY, struct.pack("<IQ", STRING, 1 << 60))), "GP264", "left"),
        (lambda good: head(key("a", STRING, struct.pack("<Q", 1 << 63))), "GP264", "left"),
        (lambda good: head(keys=1 << 62), "GP264", "left"),
        (lambda good: head(keys=0, tensors=1 << 62), "GP264", "left"),
    ],
)
def test_a_damaged_file_is_one_sentence(
    content: Callable[[bytes], bytes], expected: str, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content(write_gguf(tmp_path / "good.gguf").read_bytes()))
    found = examine(path)
    assert ids(found, "error")[0] == expected
    assert words in found.findings[0].message
    assert found.exit_code == 3


def test_any_cut_and_any_changed_byte_of_the_header_is_told_or_harmless(tmp_path: Path) -> None:
    good = write_gguf(tmp_path / "good.gguf").read_bytes()
    path = tmp_path / "m.gguf"
    for cut in range(0, len(good) - 1, 97):
        path.write_bytes(good[:cut])
        assert examine(path).status == "errors", cut
    for position in range(4, 700, 13):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0xFF]) + good[position + 1 :])
        assert examine(path).kind == "gguf"  # no exception


def test_a_hostile_array_takes_no_memory(tmp_path: Path) -> None:
    """A sparse file of 3 GB whose array "is there": what GGUFReader would make objects of."""
    path = tmp_path / "m.gguf"
    path.write_bytes(head(key("a", ARRAY, struct.pack("<IQ", U8, 3 << 30))))
    os.truncate(path, (3 << 30) + 100)
    script = (
        "import pathlib, re, resource, sys\nfrom ggufpack.doctor import examine\n"
        "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        "found = examine(sys.argv[1])\n"
        # ru_maxrss counts what the parent had before the exec; VmHWM does not
        "status = pathlib.Path('/proc/self/status')\n"
        "text = status.read_text() if status.exists() else 'VmHWM: 0'\n"
        "print(found.findings[0].id, re.search(r'VmHWM:\\s*(\\d+)', text)[1])"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    finding, peak = done.stdout.split()
    assert finding == "GP265"
    assert int(peak) < 400_000, "KiB"


def test_a_header_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(head(keys=0))
    assert {"GP266", "GP271", "GP350"} <= set(ids(examine(path), "error"))


def test_a_type_that_llama_cpp_took_out(tmp_path: Path) -> None:
    """4 was Q4_2."""
    path = tmp_path / "m.gguf"
    path.write_bytes(head(struct.pack("<Q1sIQIQ", 1, b"t", 1, 32, 4, 0), bytes(64), keys=0, tensors=1))
    assert "GP267" in ids(examine(path), "error")


def test_keys_are_read_as_the_gguf_package_wrote_them(tmp_path: Path) -> None:
    header = read_gguf_header(write_gguf(tmp_path / "m.gguf", add_bos=True))
    assert header.keys["tokenizer.ggml.tokens"] == list(TOKENS)
    assert list(header.numbers("tokenizer.ggml.token_type") or ()) == [2, 3, 3, 1, 1, 3, 3, 1]
    assert header.flag("tokenizer.ggml.add_bos_token") is True
    assert header.integer("llama.context_length") == 2048
    assert [(tensor.name, tensor.shape, tensor.type_name) for tensor in header.tensors] == [
        ("token_embd.weight", (32, 8), "F16"),
        ("output_norm.weight", (32,), "F32"),
    ]
