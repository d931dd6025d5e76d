"""config.json and generation_config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ggufpack.checkpoint.config import check_weight_format, read_config
from ggufpack.checkpoint.generation import read_generation
from ggufpack.errors import CheckpointFileError, UnsupportedWeightsError
from ggufpack.spec import Finding, Severity

from .builders import CONFIG, write_json


def config_of(folder: Path, **changes: Any) -> Any:
    content = {key: value for key, value in {**CONFIG, **changes}.items() if value is not ...}
    write_json(folder / "config.json", content)
    return read_config(folder)


def ids(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.id for finding in findings]


def test_what_it_says(tmp_path: Path) -> None:
    config, findings = config_of(tmp_path)
    assert findings == ()
    assert (config.architecture, config.model_type) == ("LlamaForCausalLM", "llama")
    assert (config.context_length, config.vocab_size, config.dtype, config.tied) == (
        2048,
        8,
        "bfloat16",
        False,
    )
    assert not config.embeds


@pytest.mark.parametrize("architectures", [None, [], "LlamaForCausalLM", [""], [7], ...])
def test_an_architecture_is_required(tmp_path: Path, architectures: object) -> None:
    with pytest.raises(CheckpointFileError, match="names no architecture") as caught:
        config_of(tmp_path, architectures=architectures)
    assert caught.value.key == "architectures"


@pytest.mark.parametrize("part", ["text_config", "llm_config", "lm_config", "language_config"])
def test_the_text_part_counts(tmp_path: Path, part: str) -> None:
    config, _ = config_of(
        tmp_path,
        vocab_size=...,
        model_type="gemma3",
        **{part: {"vocab_size": 9, "max_position_embeddings": 64, "model_type": "gemma3_text"}},
    )
    assert (config.vocab_size, config.context_length, config.model_type) == (9, 64, "gemma3")


def test_the_text_part_of_an_omni_model(tmp_path: Path) -> None:
    config, _ = config_of(tmp_path, thinker_config={"text_config": {"vocab_size": 77}})
    assert config.vocab_size == 77


@pytest.mark.parametrize(
    "key", ["n_ctx", "n_positions", "max_sequence_length", "model_max_length", "seq_length", "max_seq_len"]
)
def test_other_names_of_the_context_length(tmp_path: Path, key: str) -> None:
    config, findings = config_of(tmp_path, max_position_embeddings=..., **{key: 512})
    assert config.context_length == 512
    assert findings == ()


def test_max_position_embeddings_goes_first(tmp_path: Path) -> None:
    assert config_of(tmp_path, n_ctx=5, max_length=20)[0].context_length == 2048


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 256}, []),
        ({"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 256}, []),
        ({"rope_type": "default", "rope_theta": 1e4}, []),
        # Qwen 2.5's recipe: max_position_embeddings is the length before scaling
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}, ["GP114"]),
        ({"rope_type": "linear", "factor": 2.0}, ["GP114"]),
        ({"rope_type": "linear", "factor": "two"}, []),
    ],
)
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_rope_scaling_never_multiplies_the_length(
    tmp_path: Path, key: str, rope: dict[str, Any], expected: list[str]
) -> None:
    config, findings = config_of(tmp_path, **{key: rope})
    assert config.context_length == 2048
    assert ids(findings) == expected


def test_a_sliding_window_does_not_shorten_the_context(tmp_path: Path) -> None:
    assert config_of(tmp_path, sliding_window=128)[0].context_length == 2048


def test_robertas_positions_begin_after_the_padding_id(tmp_path: Path) -> None:
    changes = {"max_position_embeddings": 514, "pad_token_id": 1}
    assert config_of(tmp_path, architectures=["RobertaModel"], **changes)[0].context_length == 512
    assert config_of(tmp_path, architectures=["BertModel"], **changes)[0].context_length == 514


def test_an_unknown_context_length_is_a_finding(tmp_path: Path) -> None:
    config, findings = config_of(tmp_path, max_position_embeddings=...)
    assert config.context_length is None
    assert ids(findings) == ["GP113"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vocab_size", "8"),
        ("vocab_size", 0),
        ("vocab_size", True),
        ("tie_word_embeddings", "no"),
        ("dtype", 16),
    ],
)
def test_wrong_types_are_findings_with_the_key(tmp_path: Path, key: str, value: object) -> None:
    config, findings = config_of(tmp_path, **{key: value})
    assert [(finding.id, finding.key) for finding in findings] == [("GP116", key)]
    assert {"vocab_size": config.vocab_size, "tie_word_embeddings": config.tied, "dtype": config.dtype}[
        key
    ] is None


def test_torch_dtype_is_the_old_name(tmp_path: Path) -> None:
    assert config_of(tmp_path, dtype=..., torch_dtype="torch.float16")[0].dtype == "float16"


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [("BertModel", True), ("ModernBertForMaskedLM", True), ("XLMRobertaModel", True),
     ("NomicBertModel", True), ("LlamaForCausalLM", False), ("BloomModel", False),
     ("GPT2LMHeadModel", False), ("Qwen3Model", False)],
)  # fmt: skip
def test_encoders(tmp_path: Path, architecture: str, encoder: bool) -> None:
    assert config_of(tmp_path, architectures=[architecture])[0].embeds is encoder


def test_a_decoder_that_was_trained_to_embed(tmp_path: Path) -> None:
    steps = [("Transformer", ""), ("Pooling", "1_Pooling")]
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in steps]
    (tmp_path / "modules.json").write_text(json.dumps(modules[1:]))
    assert not config_of(tmp_path)[0].embeds
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert config_of(tmp_path)[0].embeds


BF16 = {"model.norm.weight": "BF16"}


@pytest.mark.parametrize(
    ("changes", "dtypes", "says"),
    [
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            {"w": "U8"},
            "bitsandbytes",
        ),
        ({"quantization_config": {"load_in_8bit": True}}, {"w": "I8"}, "bitsandbytes"),
        ({}, {"w": "U8", "w.quant_state.bitsandbytes__nf4": "U8"}, "bitsandbytes"),
        ({}, {"w": "I8", "w.SCB": "F32"}, "bitsandbytes"),
        ({"quantization_config": {"quant_method": "gptq"}}, {"w.qweight": "I32"}, "gptq"),
        ({"quantization_config": {"quant_method": "AWQ"}}, {"w.qweight": "I32"}, "awq"),
        ({"quantization_config": {}}, BF16, "an unknown method"),
        ({"quantization": {"group_size": 64, "bits": 4}}, {"w": "U32"}, "MLX"),
    ],
)
def test_stored_quantisation_is_refused(
    tmp_path: Path, changes: dict[str, Any], dtypes: dict[str, str], says: str
) -> None:
    config, _ = config_of(tmp_path, **changes)
    with pytest.raises(UnsupportedWeightsError, match=f"quantised by {says}") as caught:
        check_weight_format(config, dtypes)
    assert caught.value.exit_code == 4
    assert caught.value.action


def test_a_left_over_bitsandbytes_config_of_merged_weights_says_so(tmp_path: Path) -> None:
    config, _ = config_of(tmp_path, quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(UnsupportedWeightsError, match="and no tensor is") as caught:
        check_weight_format(config, BF16)
    assert "Remove quantization_config" in (caught.value.action or "")


@pytest.mark.parametrize("method", ["fp8", "mxfp4", "compressed-tensors"])
def test_what_the_converter_dequantises_passes_with_a_note(tmp_path: Path, method: str) -> None:
    config, findings = config_of(tmp_path, quantization_config={"quant_method": method})
    check_weight_format(config, {"w": "F8_E4M3"})
    assert config.quantization == method
    assert ids(findings) == ["GP115"]


# --- generation_config.json


def generation_of(folder: Path, content: object, **config: Any) -> Any:
    if content is not None:
        write_json(folder / "generation_config.json", content)
    return read_generation(folder, config, folder / "config.json")


def test_generation_parameters(tmp_path: Path) -> None:
    generation, findings = generation_of(
        tmp_path,
        {"temperature": 1, "top_k": 20, "top_p": 0.8, "min_p": 0.05, "typical_p": 0.9,
         "repetition_penalty": 1.05, "do_sample": True, "max_new_tokens": 64,
         "eos_token_id": [5, 6, 5], "bos_token_id": 0, "pad_token_id": 6},
    )  # fmt: skip
    assert findings == ()
    assert generation.temperature == 1.0
    assert (generation.top_k, generation.top_p, generation.min_p, generation.typical_p) == (
        20,
        0.8,
        0.05,
        0.9,
    )
    assert (generation.repetition_penalty, generation.do_sample, generation.max_new_tokens) == (
        1.05,
        True,
        64,
    )
    assert generation.eos_token_ids == (5, 6)
    # an id of 0 is an id
    assert (generation.bos_token_id, generation.pad_token_id) == (0, 6)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", "hot"),
        ("temperature", -0.1),
        ("temperature", True),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_p", 1.5),
        ("top_k", 2.5),
        ("top_k", -1),
        ("min_p", []),
        ("repetition_penalty", {}),
        ("do_sample", 1),
        ("eos_token_id", "</s>"),
        ("eos_token_id", [1, "2"]),
        ("bos_token_id", True),
        ("max_new_tokens", 0),
    ],
)
def test_wrong_values_are_left_out_and_named(tmp_path: Path, key: str, value: object) -> None:
    generation, findings = generation_of(tmp_path, {"eos_token_id": 3, key: value})
    wrong = [finding for finding in findings if finding.id == "GP112"]
    assert [(finding.key, finding.severity) for finding in wrong] == [(key, Severity.ERROR)]
    assert wrong[0].path == tmp_path / "generation_config.json"
    name = {"eos_token_id": "eos_token_ids"}.get(key, key)
    assert getattr(generation, name) in (None, ())


def test_a_malformed_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointFileError, match=r"generation_config\.json"):
        read_generation(tmp_path, {}, tmp_path / "config.json")


def test_without_the_file_config_json_stands_in(tmp_path: Path) -> None:
    generation, findings = generation_of(tmp_path, None, eos_token_id=2, temperature=0.5)
    assert (generation.eos_token_ids, generation.temperature) == ((2,), 0.5)
    assert generation.path == tmp_path / "config.json"
    assert ids(findings) == ["GP110"]


def test_an_eos_id_that_only_config_json_has_is_taken_with_a_finding(tmp_path: Path) -> None:
    generation, findings = generation_of(tmp_path, {"temperature": 0.5}, eos_token_id=2, temperature=0.9)
    assert (generation.eos_token_ids, generation.temperature) == ((2,), 0.5)
    assert ids(findings) == ["GP111"]
    assert "config.json is taken" in findings[0].message


def test_no_eos_id_anywhere(tmp_path: Path) -> None:
    generation, findings = generation_of(tmp_path, {})
    assert generation.eos_token_ids == ()
    assert ids(findings) == ["GP111"]


def test_an_encoder_needs_none_of_it(tmp_path: Path) -> None:
    _, findings = read_generation(tmp_path, {}, tmp_path / "config.json", generates=False)
    assert findings == ()
