"""Folders that were made to do harm, through the commands that people give them to.

What each reader refuses is in tests/unit/checkpoint/test_hostile_folder.py; here is what comes of it: one
sentence, an exit code, nothing written, and nothing of the folder run.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import ggufpack
from ggufpack import vendoring
from ggufpack.checkpoint.header import MAX_TENSORS
from ggufpack.checkpoint.tokenizer import MAX_ADDED_TOKENS
from ggufpack.cli.main import main
from ggufpack.convert.process import Worker
from ggufpack.errors import ConversionError
from tests.support.checkpoints import change_config, link_checkpoint

TinyModel = Callable[[str], Path]
Harm = Callable[[Path], object]
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def replaced(name: str, content: bytes) -> Harm:
    def make(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(content)

    return make


def linked(name: str, target: str) -> Harm:
    def make(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return make


def pipe(name: str) -> Harm:
    def make(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return make


def shorter(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    replaced(WEIGHTS, data[:-1])(folder)


def longer(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    replaced(WEIGHTS, data + b"PK\3\4")(folder)


def configured(**changes: Any) -> Harm:
    return lambda folder: change_config(folder, **changes)


def many_tensors(folder: Path) -> None:
    """One more than is read, each of nothing."""
    entry = b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},'
    header = b"{" + b"".join(entry % number for number in range(MAX_TENSORS + 1))[:-1] + b"}"
    replaced(WEIGHTS, struct.pack("<Q", len(header)) + header)(folder)


def added_tokens(folder: Path) -> None:
    """One more than is read."""
    content = json.loads((folder / "tokenizer.json").read_bytes())
    content["added_tokens"] = [{"id": number, "content": "<x>"} for number in range(MAX_ADDED_TOKENS + 1)]
    replaced("tokenizer.json", json.dumps(content, separators=(",", ":")).encode())(folder)


# what was made, and what the sentence says
HARM: dict[str, tuple[Harm, str]] = {
    "weights that are a link out": (linked(WEIGHTS, "/etc/passwd"), WEIGHTS),
    "a configuration that is a link out": (linked("config.json", "/etc/passwd"), "is a link to /etc/passwd"),
    "a licence that is a link out": (linked("LICENSE", "/etc/passwd"), "is a link to /etc/passwd"),
    "an index that leads out": (
        replaced(INDEX, b'{"weight_map": {"a": "../../x.safetensors"}}'),
        "not the name of a safetensors file in this folder",
    ),
    "an index that leads out, as on Windows": (
        replaced(INDEX, b'{"weight_map": {"a": "..\\\\x.safetensors"}}'),
        "not the name of a safetensors file in this folder",
    ),
    "a pipe": (pipe("vocab.json"), "not a regular file"),
    "a device": (linked("tokenizer.model", "/dev/zero"), "not a regular file"),
    "a header of 2^63 bytes": (replaced(WEIGHTS, struct.pack("<Q", 2**63) + b"{}"), "at most 100,000,000"),
    "a header of braces": (
        replaced(WEIGHTS, struct.pack("<Q", 500_000) + b'{"a":' * 100_000),
        "damaged header",
    ),
    "too many tensors": (many_tensors, "more than 500,000 tensors"),
    "too many added tokens": (added_tokens, "more than the 250,000 that are read"),
    "millions of empty lists": (
        replaced("tokenizer.json", b'{"a":[' + b"[]," * 5_000_000 + b"0]}"),
        "more than 8,000,000 values",
    ),
    "a billion layers": (configured(num_hidden_layers=10**9), "more than 10,000 layers"),
    "a billion tokens": (configured(vocab_size=10**9), "vocab_size in config.json is 1,000,000,000"),
    "a shard cut off": (shorter, "is cut off: 1 of"),
    "a shard with more behind it": (longer, "4 bytes after the last tensor"),
}


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this test's temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


@pytest.mark.parametrize("harm", HARM)
def test_a_sentence_and_nothing_written(
    tmp_path: Path, temporary: Path, tiny_model: TinyModel, harm: str
) -> None:
    folder = link_checkpoint(tiny_model("llama"), tmp_path / "model")
    make, problem = HARM[harm]
    make(folder)
    output = ["--no-register", "--quiet", "--output", str(tmp_path / "out")]
    for words in (["build", *output, "--verify", "none"], ["plan", *output], ["doctor"]):
        done = CliRunner().invoke(main, [words[0], str(folder), *words[1:]])
        said = done.stdout if words[0] == "doctor" else done.stderr
        assert done.exit_code == 3, (words[0], done.output)
        assert problem in said.replace("\n", " "), words[0]
        assert "Traceback" not in done.output
        assert len(done.output) < 2500
        if words[0] != "doctor":
            assert done.stdout == ""
            assert sum(line.startswith("Error: ") for line in said.splitlines()) == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "temporary"]
        assert list(temporary.iterdir()) == []


# --- what only the converter's process meets ------------------------------------


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """One for all of them; its own temporary folder is not a test's."""
    with Worker(vendoring.require(lambda _event: None)) as running:
        yield running


def far_token(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_bytes())
    content["added_tokens"].append({"id": 10**9, "content": "<x>", "special": True})
    replaced("tokenizer.json", json.dumps(content).encode())(folder)


def own_code(folder: Path) -> None:
    """Everything that transformers would import from the folder, each writing a file beside it."""
    marker = folder.parent / "temporary" / "run"
    change_config(
        folder,
        auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"},
        trust_remote_code=True,
    )
    settings = json.loads((folder / "tokenizer_config.json").read_bytes())
    settings |= {"auto_map": {"AutoTokenizer": ["evil.T", None]}}
    replaced("tokenizer_config.json", json.dumps(settings).encode())(folder)
    for module in ("evil", "sitecustomize", "torch", "gguf", "conversion", "json"):
        replaced(f"{module}.py", f"open({str(marker)!r}, 'w')".encode())(folder)


CONVERTED: dict[str, Harm] = {
    "an architecture that is a path": configured(architectures=["../../../etc/passwd"]),
    "an id of a billion": far_token,
}


@pytest.mark.parametrize("harm", CONVERTED)
def test_the_worker_refuses_and_goes_on(
    tmp_path: Path, temporary: Path, tiny_model: TinyModel, worker: Worker, harm: str
) -> None:
    folder = link_checkpoint(tiny_model("llama"), tmp_path / "model")
    CONVERTED[harm](folder)
    with pytest.raises(ConversionError) as caught:
        ggufpack.build(folder, output=tmp_path / "out", register=False, verify="none", worker=worker)
    assert caught.value.exit_code == 4
    assert len(str(caught.value)) < 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "temporary"]
    assert list(temporary.iterdir()) == []


def test_code_in_the_folder_is_not_run_by_a_build(
    tmp_path: Path, temporary: Path, tiny_model: TinyModel, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = link_checkpoint(tiny_model("llama"), tmp_path / "model")
    own_code(folder)
    monkeypatch.chdir(folder)
    made = ggufpack.build(
        Path(), name="m", output=tmp_path / "out", register=False, verify="none", worker=worker
    )
    assert made.status == "unverified"
    assert not (temporary / "run").exists()
    assert list(folder.glob("__pycache__")) == []
