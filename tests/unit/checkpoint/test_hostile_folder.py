"""Folders that were made to do harm: refused with a sentence, at once, and nothing of them is run."""

from __future__ import annotations

import json
import os
import pickle
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ggufpack.checkpoint import open_checkpoint
from ggufpack.checkpoint.adapted import open_model
from ggufpack.checkpoint.adapter_config import read_adapter_config
from ggufpack.checkpoint.jsonfiles import MAX_TOKENIZER_BYTES
from ggufpack.checkpoint.vocabulary import MAX_VOCABULARY
from ggufpack.errors import AdapterError, CheckpointError, CheckpointLayoutError, GgufpackError

from .adapters import make_adapter
from .builders import make_checkpoint, write_index, write_json

READ_BY_NAME = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("model.safetensors", "model.safetensors.index.json", "chat_template.jinja", "chat_template.json"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt"),
    *("tokenizer.model", "preprocessor_config.json", "adapter_config.json", "LICENSE", "README.md"),
)
MODULES = ("modeling_x", "configuration_x", "tok_x", "sitecustomize", "torch", "json", "ggufpack", "gguf")
# of a JSON file
TEXTS: dict[str, bytes] = {
    "nesting": b'{"a":' + b"[" * 100_000,
    "nesting in objects": b'{"a":' * 100_000,
    "a key twice": b'{"a": 1, "a": 2}',
    "a huge integer": b'{"a": ' + b"9" * 5000 + b"}",
    "no UTF-8": b'{"a": "\xff"}',
    "no object": b"[]",
}
HEADERS: dict[str, bytes] = {
    "2^63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "nesting": struct.pack("<Q", 500_000) + b'{"a":' * 100_000,
    "a hole": struct.pack("<Q", 52) + b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}' + b"}  ",
}


def refusal(folder: Path, seconds: float = 5.0) -> GgufpackError:
    """The error; a hang would be the test's."""
    started = time.thread_time()
    with pytest.raises(GgufpackError) as caught, open_model(folder):
        pass
    assert time.thread_time() - started < seconds
    assert len(str(caught.value)) < 1000
    return caught.value


@pytest.mark.parametrize("name", READ_BY_NAME)
def test_a_pipe(tmp_path: Path, name: str) -> None:
    folder = make_checkpoint(tmp_path / "model")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert f"{name} is not a regular file" in refusal(folder).problem


@pytest.mark.parametrize("name", ["config.json", "vocab.json", "tokenizer.model", "model.safetensors"])
def test_a_device(tmp_path: Path, name: str) -> None:
    folder = make_checkpoint(tmp_path / "model")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("/dev/zero")
    assert f"{name} is not a regular file" in refusal(folder).problem


@pytest.mark.parametrize("where", ["base", "adapter"])
@pytest.mark.parametrize("name", ["vocab.json", "tokenizer.model", "merges.txt"])
def test_a_pipe_beside_an_adapter_or_its_base(tmp_path: Path, where: str, name: str) -> None:
    """The converter's libraries open them by name, through the folder that is made of both."""
    base, adapter = make_checkpoint(tmp_path / "base"), make_adapter(tmp_path / "adapter")
    with open_model(adapter, base):
        pass
    os.mkfifo(tmp_path / where / name)
    with pytest.raises(CheckpointLayoutError) as caught, open_model(adapter, base):
        pass
    assert caught.value.problem == f"{tmp_path / where / name} is not a regular file."


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "vocab.json", "tokenizer.model"])
def test_a_sparse_file(tmp_path: Path, name: str) -> None:
    folder = make_checkpoint(tmp_path / "model")
    (folder / name).touch()
    os.truncate(folder / name, MAX_TOKENIZER_BYTES + 1)
    assert "more than the" in refusal(folder, 0.5).problem


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
)
def test_a_json_file(tmp_path: Path, name: str, kind: str) -> None:
    folder = make_checkpoint(tmp_path / "model")
    (folder / name).write_bytes(TEXTS[kind])
    error = refusal(folder)
    assert isinstance(error, CheckpointError)
    assert name in error.problem


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header(tmp_path: Path, kind: str) -> None:
    folder = make_checkpoint(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(HEADERS[kind])
    assert "model.safetensors" in refusal(folder).problem


@pytest.mark.parametrize(
    "shard",
    ["../x.safetensors", "/etc/passwd", "/x.safetensors", "a/../../x.safetensors", "..\\x.safetensors"],
)
def test_an_index_that_leads_out(tmp_path: Path, shard: str) -> None:
    folder = make_checkpoint(tmp_path / "model")
    write_index(folder, {shard: ["a"]})
    assert "not the name of a safetensors file in this folder" in refusal(folder).problem


@pytest.mark.parametrize("name", ["LICENSE", "COPYING.txt", "chat_template.jinja"])
def test_a_link_that_would_publish_a_private_file(tmp_path: Path, name: str) -> None:
    private = tmp_path / "id_ed25519"
    private.write_text("secret")
    folder = make_checkpoint(tmp_path / "model")
    (folder / name).symlink_to(private)
    assert f"{name} is a link to {private}" in refusal(folder).problem


def test_links_that_are_meant(tmp_path: Path) -> None:
    """Into the Hugging Face cache, to the same name elsewhere, and inside the folder."""
    blob = tmp_path / "blobs" / ("0" * 40)
    blob.parent.mkdir()
    blob.write_text("{{ messages }}")
    (tmp_path / "LICENSE").write_text("MIT")
    folder = make_checkpoint(tmp_path / "snapshots" / "1")
    (folder / "chat_template.jinja").symlink_to(Path("../../blobs") / blob.name)
    (folder / "LICENSE").symlink_to(tmp_path / "LICENSE")
    (folder / "LICENSE.md").symlink_to("LICENSE")
    opened = open_checkpoint(folder)
    assert [path.name for path in opened.license_files] == ["LICENSE", "LICENSE.md"]
    assert opened.chat_template is not None
    assert opened.chat_template.text == "{{ messages }}"


def test_code_in_the_folder_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remote code, modules with the names of libraries, and pickles; the folder is the current one."""
    marker = tmp_path / "marker"

    class Opened:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return os.system, (f"touch {marker}",)

    folder = make_checkpoint(
        tmp_path / "model",
        config={"auto_map": {"AutoModelForCausalLM": "modeling_x.M"}, "trust_remote_code": True},
        tokenizer_config={"auto_map": {"AutoTokenizer": ["tok_x.T", None]}, "tokenizer_class": "tok_x.T"},
    )
    for module in MODULES:
        (folder / f"{module}.py").write_text(f"open({str(marker)!r}, 'w')")
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "rng_state.pth"):
        (folder / name).write_bytes(pickle.dumps(Opened()))
    monkeypatch.chdir(folder)
    open_checkpoint(Path())
    assert not marker.exists()
    assert str(folder) not in sys.path


@pytest.mark.parametrize("base", ["../../../etc", "/dev/stdin\0", "x" * 100_000, "\x1b]0;evil\x07", 3, None])
def test_an_adapter_of_an_odd_base(tmp_path: Path, base: object) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 8, "target_modules": ["q_proj"]}
    write_json(folder / "adapter_config.json", config)
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", 2) + json.dumps({}).encode())
    assert refusal(folder).exit_code == 3


@pytest.mark.parametrize("pattern", ["([a-z_.]+)+!", "(.*.*)*!", "((a|a)+)+b", ".*.*.*.*.*!", "(a?){50}!"])
def test_a_pattern_that_runs_away(tmp_path: Path, pattern: str) -> None:
    config = {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"], "rank_pattern": {pattern: 4}}
    write_json(tmp_path / "adapter_config.json", config)
    with pytest.raises(AdapterError, match="which is not used"):
        read_adapter_config(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.txt", b"\n" * (MAX_VOCABULARY + 1)),
        ("tokenizer.model", b"\x0a\x00" * (MAX_VOCABULARY + 1)),
    ],
)
def test_a_vocabulary_of_nothing(tmp_path: Path, name: str, content: bytes) -> None:
    folder = make_checkpoint(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    (folder / name).write_bytes(content)
    assert "more than 2,000,000 tokens" in refusal(folder, 20).problem


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b'{"a":[' + b"{}," * 8_000_000 + b"0]}"),
        ("model.safetensors.index.json", b'{"weight_map":[' + b"[]," * 8_000_000 + b"0]}"),
        ("model.safetensors", b'{"__metadata__":{' + b'"":"",' * 9_000_000 + b"}}"),
    ],
)
def test_a_file_that_unfolds_in_memory(tmp_path: Path, name: str, content: bytes) -> None:
    """Of 2 bytes that are read, 70 of memory: refused before it is parsed."""
    folder = make_checkpoint(tmp_path / "model")
    length = struct.pack("<Q", len(content)) if name.endswith("safetensors") else b""
    (folder / name).write_bytes(length + content)
    tracemalloc.start()
    try:
        assert "more than 8,000,000 values" in refusal(folder, 2).problem
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("changes", [{}, {"block_configs": [{}]}, {"is_encoder_decoder": True}])
def test_more_layers_than_any_model_has(tmp_path: Path, changes: dict[str, Any]) -> None:
    """The converter makes a table for each; where some may be empty, or in two stacks, none is missed."""
    folder = make_checkpoint(tmp_path / "model", config={"num_hidden_layers": 10**9, **changes})
    assert "names more than 10,000 layers" in refusal(folder).problem


def test_ids_that_all_clash_are_one_finding(tmp_path: Path) -> None:
    """A finding for each was told, compared with all others, and written into the record and the report."""
    added = [{"id": number, "content": f"<{number}>", "special": True} for number in range(20_000)]
    decoder = {str(one["id"]): {"content": f"[{one['id']}]"} for one in added}
    folder = make_checkpoint(
        tmp_path / "model",
        tokenizer={
            "added_tokens": added,
            "model": {"type": "BPE", "vocab": {f"a{one['id']}": one["id"] for one in added}},
        },
        tokenizer_config={"added_tokens_decoder": decoder},
    )
    clashes = [found for found in open_checkpoint(folder).findings if found.id == "GP302"]
    assert [found.message for found in clashes] == [
        "Id 0 is '<0>' in tokenizer.json and '[0]' in tokenizer_config.json, and so are 19,999 more.",
        "Id 0 is 'a0' in the vocabulary, '<0>' when added, and so are 19,999 more.",
    ]
