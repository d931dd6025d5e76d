"""config.json, generation_config.json and trainer's JSON: read, or refused with a sentence; texts that came
out of it can be written as UTF-8."""

from __future__ import annotations

import json
from collections.abc import Iterator

from ggufpack.checkpoint.config import check_weight_format, read_config
from ggufpack.checkpoint.generation import read_generation
from ggufpack.errors import CheckpointFileError, UnsupportedWeightsError
from tests.fuzz import scratch

IS_JSON = True
WORDS = tuple(
    f'"{word}"'.encode()
    for word in (
        *(
            "architectures",
            "model_type",
            "max_position_embeddings",
            "vocab_size",
            "torch_dtype",
            "text_config",
        ),
        *(
            "quantization_config",
            "quant_method",
            "rope_scaling",
            "rope_type",
            "yarn",
            "factor",
            "eos_token_id",
        ),
        *("original_max_position_embeddings", "temperature", "top_k", "do_sample", "tie_word_embeddings"),
    )
)


def one_input(data: bytes) -> None:
    """One file as both, as folders of models trained elsewhere may have it."""
    path = scratch.put("config.json", data)
    scratch.put("generation_config.json", data)
    try:
        config, findings = read_config(path.parent)
        generation, more = read_generation(path.parent, config.text, path)
    except CheckpointFileError as error:
        assert error.path is not None
        str(error).encode()
        return
    for finding in (*findings, *more):
        finding.message.encode()
    json.dumps(dict(config.raw), ensure_ascii=False).encode()
    assert config.context_length is None or config.context_length > 0
    assert generation.temperature is None or generation.temperature >= 0
    try:
        check_weight_format(config, {"a": "BF16", "a.SCB": "U8"} if config.tied else {"a": "BF16"})
    except UnsupportedWeightsError as error:
        str(error).encode()


def seeds() -> Iterator[bytes]:
    plain = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "max_position_embeddings": 2048,
        "vocab_size": 8,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "eos_token_id": [2, 7],
        "temperature": 0.7,
        "top_k": 40,
        "do_sample": True,
    }
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    yield json.dumps(plain).encode()
    yield json.dumps({**plain, "rope_scaling": yarn, "pad_token_id": 1}).encode()
    yield json.dumps({"architectures": ["A"], "text_config": {**plain, "n_ctx": 512.0}}).encode()
    yield json.dumps({**plain, "quantization_config": {"quant_method": "fp8"}}).encode()
