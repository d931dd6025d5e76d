"""The whole checkpoint: cross checks between files, and what importing it costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ggufpack.checkpoint
from ggufpack.checkpoint import FINDING_KINDS, Checkpoint, open_checkpoint
from ggufpack.checkpoint.findings import make_finding
from ggufpack.errors import (
    CheckpointFileError,
    CheckpointLayoutError,
    TensorFileError,
    UnsupportedWeightsError,
)
from ggufpack.spec import Severity

from .builders import (
    TOKENIZER,
    VOCABULARY,
    make_checkpoint,
    model_tensors,
    shard,
    write_json,
    write_safetensors,
)


def ids(checkpoint: Checkpoint) -> list[str]:
    return [finding.id for finding in checkpoint.findings]


def opened(folder: Path, **parts: Any) -> list[str]:
    return ids(open_checkpoint(make_checkpoint(folder, **parts)))


def without(name: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    tensors = model_tensors()
    del tensors[name]
    return tensors


def test_a_good_checkpoint_has_no_finding(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, tokenizer_config={"chat_template": "{{ messages }}"})
    checkpoint = open_checkpoint(folder)
    assert checkpoint.findings == ()
    assert checkpoint.folder == folder
    assert (checkpoint.architecture, checkpoint.model_type) == ("LlamaForCausalLM", "llama")
    assert checkpoint.context_length == 2048
    assert checkpoint.config["hidden_size"] == 4
    assert checkpoint.generation.eos_token_ids == (2, 7)
    assert checkpoint.tensors.dtypes == {"BF16": 19}
    assert checkpoint.chat_template is not None
    assert checkpoint.chat_template.text == "{{ messages }}"
    assert not checkpoint.embeds
    assert checkpoint.special_texts == ("<s>", "</s>", "<unk>", "<|im_end|>")


def test_special_texts_hold_the_texts_of_eos_ids(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, generation={"eos_token_id": [2, 6]})
    assert "<tool>" in open_checkpoint(folder).special_texts


def test_the_inner_checkpoint_is_reported(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "checkpoint-7")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.folder == tmp_path / "checkpoint-7"
    assert ids(checkpoint) == ["GP101"]


def test_an_adapter_beside_a_model(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    write_json(tmp_path / "adapter_config.json", {})
    write_safetensors(tmp_path / "adapter_model.safetensors", {"a": ("F32", (1,))})
    assert ids(open_checkpoint(tmp_path)) == ["GP102", "GP205"]


def test_license_files(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    names = ["COPYING", "LICENSE", "LICENSE-MIT.txt", "license.md"]
    for name in [*names, "NOTICE", "license_check.py", "README.md"]:
        (tmp_path / name).write_text("x")
    assert [path.name for path in open_checkpoint(tmp_path).license_files] == names


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"tensors": {**model_tensors(), "model.norm.weight": ("F32", (4,))}}, ["GP201"]),
        ({"config": {"dtype": "float32"}}, ["GP202"]),
        ({"config": {"quantization_config": {"quant_method": "fp8"}}}, ["GP115"]),
        ({"config": {"vocab_size": 9}}, ["GP206"]),
        # two rows fewer than the tokenizer has ids
        ({"config": {"vocab_size": 6}}, ["GP206", "GP301"]),
        ({"config": {"tie_word_embeddings": True}}, ["GP207"]),
        ({"config": {"tie_word_embeddings": True}, "tensors": without("lm_head.weight")}, []),
        ({"config": {"tie_word_embeddings": None}}, []),
        ({"config": {"tie_word_embeddings": None}, "tensors": without("lm_head.weight")}, []),
        ({"tensors": without("lm_head.weight")}, ["GP208"]),
        ({"generation": {"eos_token_id": [2, 99]}}, ["GP308"]),
        ({"generation": {"eos_token_id": 7}}, ["GP305"]),
        ({"generation": {"eos_token_id": 7}, "tokenizer_config": {"eos_token": "<|im_end|>"}}, []),
        ({"generation": {"eos_token_id": 7}, "tokenizer_config": {"eos_token": None}}, []),
        ({"generation": None, "config": {"eos_token_id": 2}}, ["GP110"]),
        ({"generation": None}, ["GP110", "GP111"]),
    ],
)  # fmt: skip
def test_cross_checks(tmp_path: Path, parts: dict[str, Any], expected: list[str]) -> None:
    assert opened(tmp_path, **parts) == expected


def test_tokens_outside_the_vocabulary_are_named(tmp_path: Path) -> None:
    added = [*TOKENIZER["added_tokens"], {"id": 8, "content": "<new>", "special": True}]
    checkpoint = open_checkpoint(make_checkpoint(tmp_path, tokenizer={"added_tokens": added}))
    (finding,) = checkpoint.findings
    assert (finding.id, finding.severity) == ("GP301", Severity.ERROR)
    assert "8 '<new>'" in finding.message
    assert "resize_token_embeddings" in (finding.action or "")


def test_a_plain_token_outside_the_vocabulary(tmp_path: Path) -> None:
    model = {"type": "BPE", "vocab": {**VOCABULARY, "d": 8}, "merges": []}
    assert opened(tmp_path, tokenizer={"model": model}) == ["GP301"]


@pytest.mark.parametrize(
    ("eos", "expected"), [(["</s>", 2], ["GP309"]), (["<new>", 8], ["GP301"])], ids=["unused", "needed"]
)
def test_the_sentencepiece_path_leaves_added_tokens_out(
    tmp_path: Path, eos: list[Any], expected: list[str]
) -> None:
    added = [*TOKENIZER["added_tokens"], {"id": 8, "content": "<new>", "special": True}]
    make_checkpoint(
        tmp_path,
        tokenizer={"added_tokens": added},
        tokenizer_config={"eos_token": eos[0]},
        generation={"eos_token_id": eos[1]},
    )
    (tmp_path / "tokenizer.model").write_bytes(b"")
    assert ids(open_checkpoint(tmp_path)) == expected


def test_without_a_vocab_size_the_embedding_counts(tmp_path: Path) -> None:
    assert opened(tmp_path / "fits", config={"vocab_size": None}) == []
    tensors = {**model_tensors(), "model.embed_tokens.weight": ("BF16", (5, 4))}
    assert opened(tmp_path / "small", config={"vocab_size": None}, tensors=tensors) == ["GP301"]


def test_an_encoder_has_no_generation_findings(tmp_path: Path) -> None:
    tensors = {
        "embeddings.word_embeddings.weight": ("F32", (8, 4)),
        **{f"encoder.layer.{n}.output.dense.weight": ("F32", (4, 4)) for n in range(4)},
    }
    folder = make_checkpoint(
        tmp_path,
        config={"architectures": ["BertModel"], "model_type": "bert", "dtype": "float32"},
        tensors=tensors,
        generation=None,
    )
    checkpoint = open_checkpoint(folder)
    assert checkpoint.embeds
    assert [finding.id for finding in checkpoint.findings] == ["GP117"], "no pooling configuration"
    (folder / "modules.json").write_text("[]")
    assert open_checkpoint(folder).findings == ()


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda folder: (folder / "config.json").unlink(), CheckpointLayoutError),
        (lambda folder: (folder / "config.json").write_text("{,}"), CheckpointFileError),
        (lambda folder: (folder / "generation_config.json").write_text("[]"), CheckpointFileError),
        (lambda folder: (folder / "tokenizer.json").unlink(), CheckpointFileError),
        (lambda folder: (folder / "tokenizer.json").write_bytes(b"\xff"), CheckpointFileError),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), TensorFileError),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("{"), TensorFileError),
        (lambda folder: (folder / shard(folder)[0]).unlink(), TensorFileError),
        (
            lambda folder: write_safetensors(
                folder / "model.safetensors", without("model.layers.1.mlp.up_proj.weight")
            ),
            TensorFileError,
        ),
    ],
)
def test_every_damage_is_one_of_our_errors(tmp_path: Path, damage: Any, error: type[Exception]) -> None:
    make_checkpoint(tmp_path)
    damage(tmp_path)
    with pytest.raises(error) as caught:
        open_checkpoint(tmp_path)
    assert type(caught.value) is error
    assert str(tmp_path) in str(caught.value)


def test_bitsandbytes_is_a_conversion_error(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, config={"quantization_config": {"quant_method": "bitsandbytes"}},
                             tensors={**model_tensors(), "w": ("U8", (2,))})  # fmt: skip
    with pytest.raises(UnsupportedWeightsError):
        open_checkpoint(folder)


def test_every_file_may_be_a_link(tmp_path: Path) -> None:
    blobs, snapshot = make_checkpoint(tmp_path / "blobs"), tmp_path / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(blobs.iterdir())):
        path.rename(blobs / f"{number:040x}")
        (snapshot / path.name).symlink_to(Path("../../blobs") / f"{number:040x}")
    assert open_checkpoint(snapshot).findings == ()


def test_only_the_header_of_a_large_file_is_read(tmp_path: Path) -> None:
    # 8 GB of holes: reading them would take seconds and fail the limit on memory of most machines
    folder = make_checkpoint(tmp_path, tensors={"tiny": ("U8", (1,))})
    path = folder / "model.safetensors"
    header = b'{"model.layers.0.w":{"dtype":"F32","shape":[2147483648],"data_offsets":[0,8589934592]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with path.open("r+b") as file:
        file.truncate(8 + len(header) + 8589934592)
    write_json(folder / "config.json", {"architectures": ["X"], "num_hidden_layers": 1})
    assert open_checkpoint(folder).tensors.total_bytes == 8589934592


# --- the package


def test_every_finding_id_is_raised_somewhere_and_declared_once() -> None:
    folder = Path(ggufpack.checkpoint.__file__).parent
    used: set[str] = set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "make_finding":
                assert isinstance(node.args[0], ast.Constant)
                used.add(str(node.args[0].value))
    assert used == set(FINDING_KINDS)
    table = (folder / "findings.py").read_text()
    assert all(table.count(f'"{finding_id}"') == 1 for finding_id in FINDING_KINDS)


def test_an_undeclared_id_cannot_be_raised() -> None:
    with pytest.raises(KeyError):
        make_finding("GP199", "x")


def test_importing_it_is_light() -> None:
    code = (
        "import sys; import ggufpack.checkpoint; "
        "heavy = {'numpy', 'torch', 'transformers', 'tokenizers', 'safetensors', 'ollama', 'jinja2'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
