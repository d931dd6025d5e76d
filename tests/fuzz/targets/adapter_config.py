"""adapter_config.json: refused, or ranks and scalings of any module are finite numbers, found soon."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

from ggufpack.checkpoint.adapter_config import read_adapter_config
from ggufpack.errors import AdapterError, CheckpointFileError
from tests.fuzz import scratch

IS_JSON = True
WORDS = (
    b'"rank_pattern"',
    b'"alpha_pattern"',
    b'"modules_to_save"',
    b'"trainable_token_indices"',
    b"(a*)*",
    b"(?i)",
)
_MODULES = ("model.layers.0.self_attn.q_proj", "a" * 40 + "!", "a." * 30)


def one_input(data: bytes) -> None:
    path = scratch.put("adapter_config.json", data)
    try:
        config = read_adapter_config(path.parent)
    except (AdapterError, CheckpointFileError) as error:
        str(error).encode()
        return
    for module in _MODULES:
        assert config.rank_of(module) > 0
        assert math.isfinite(config.scaling(module))


def seeds() -> Iterator[bytes]:
    plain = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "base_model_name_or_path": "base"}
    yield json.dumps(plain).encode()
    yield json.dumps(
        {
            **plain,
            "use_rslora": True,
            "rank_pattern": {"q_proj": 4, r".*layers\.\d+\.(k|v)_proj": 2},
            "alpha_pattern": {"model.layers.0.self_attn.q_proj": 3.5},
            "modules_to_save": ["lm_head"],
            "trainable_token_indices": {"embed_tokens": [1, 2]},
        }
    ).encode()
