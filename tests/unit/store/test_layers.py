"""What a server's create makes; that a server agrees is asked in tests/integration/test_store.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ggufpack.gguf_header import GgufHeader, GgufTensor
from ggufpack.store.layers import StoreModel, human_number, store_model
from ggufpack.store.manifest import Blob

WEIGHTS = Blob("ab" * 32, 4096)


def model(
    keys: Mapping[str, Any], request: Mapping[str, Any], tensor: str = "blk.0.attn_q.weight"
) -> StoreModel:
    tensors = (GgufTensor(tensor, (1000, 2000), 8, "Q8_0", 0, 0),)
    header = GgufHeader(Path("somewhere/name-Q8_0.gguf"), WEIGHTS.size, 3, keys, tensors)
    return store_model(header, WEIGHTS, request)


def config_of(made: StoreModel) -> dict[str, Any]:
    return dict(json.loads(made.texts[-1][1]))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (999, "999"),
        (1500, "2K"),
        (2_000_000, "2M"),
        (134_515_008, "134.52M"),
        (999_999_999, "1000.00M"),
        (1_235_814_400, "1.2B"),
        (7_000_000_000, "7B"),
    ],
)
def test_human_number(count: int, text: str) -> None:
    assert human_number(count) == text


def test_the_config_and_the_order_of_layers() -> None:
    keys = {"general.architecture": "qwen2", "general.file_type": 7}
    request = {
        "messages": [{"role": "user", "content": "hi"}],
        "parameters": {"num_ctx": 4096},
        "license": ["one", "two"],
        "system": "be",
        "template": "{{ .Prompt }}",
        "requires": "0.30.0",
    }
    made = model(keys, request)
    assert made.texts[-1][1] == (
        b'{"model_format":"gguf","model_family":"qwen2","model_families":["qwen2"],"model_type":"2M",'
        b'"file_type":"Q8_0","requires":"0.30.0","architecture":"amd64","os":"linux"}\n'
    )
    manifest = json.loads(made.manifest)
    kinds = [layer["mediaType"].rpartition(".")[2] for layer in manifest["layers"]]
    assert kinds == ["model", "template", "system", "license", "license", "params", "messages"]
    assert made.texts[4][1] == b'{"num_ctx":4096,"stop":[]}\n'
    assert manifest["layers"][0] == {
        "mediaType": "application/vnd.ollama.image.model",
        "digest": f"sha256:{WEIGHTS.sha256}",
        "size": 4096,
    }
    assert made.manifest.endswith(b"}\n")
    assert b": " not in made.manifest


def test_f32_has_no_file_type_for_the_server() -> None:
    assert config_of(model({"general.architecture": "llama", "general.file_type": 0}, {}))["file_type"] == (
        "unknown"
    )


def test_architectures_whose_prompts_ollama_makes_itself() -> None:
    made = model({"general.architecture": "nemotron_h"}, {"parser": "mine"})
    assert made.renderer == config_of(made)["renderer"] == "nemotron-3-nano"
    assert config_of(made)["parser"] == "mine"
    assert model({"general.architecture": "llama"}, {}).renderer == ""


def test_a_model_that_the_server_does_not_copy_keeps_its_file_s_name() -> None:
    made = model({"general.architecture": "llama"}, {}, tensor="v.patch_embd.weight")
    assert json.loads(made.manifest)["layers"][0]["from"] == "name-Q8_0.gguf"
