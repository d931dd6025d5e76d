"""config.json: what the model is, how long its context is, how its weights are stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufpack.checkpoint.findings import make_finding
from ggufpack.checkpoint.jsonfiles import read_object, type_name
from ggufpack.checkpoint.layout import CONFIG
from ggufpack.checkpoint.sentence import pools_embeddings
from ggufpack.errors import CheckpointFileError, UnsupportedWeightsError
from ggufpack.spec import Finding

# Names of the text part of a multimodal configuration (conversion/base.py, load_hparams).
_TEXT_PARTS = ("text_config", "llm_config", "lm_config", "language_config", "lfm")

# TextModel.set_gguf_parameters (conversion/base.py), then what single architectures use instead:
# seq_length (chatglm, bloom), max_seq_len (dbrx, mpt).
_CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_ctx",
    "n_positions",
    "max_length",
    "max_sequence_length",
    "model_max_length",
    "seq_length",
    "max_seq_len",
)

# llama.cpp's encoders (conversion/bert.py, and the bidirectional variants in llama.py, lfm2.py,
# gemma.py, t5.py): they embed text and do not generate it.
ENCODER_ARCHITECTURES = frozenset(
    {
        "BertModel",
        "BertForMaskedLM",
        "BertForSequenceClassification",
        "CamembertModel",
        "DistilBertModel",
        "DistilBertForMaskedLM",
        "DistilBertForSequenceClassification",
        "RobertaModel",
        "RobertaForSequenceClassification",
        "XLMRobertaModel",
        "XLMRobertaForSequenceClassification",
        "NomicBertModel",
        "NeoBERT",
        "NeoBERTLMHead",
        "NeoBERTForSequenceClassification",
        "EuroBertModel",
        "JinaEmbeddingsV5Model",
        "JinaBertModel",
        "JinaBertForMaskedLM",
        "ModernBertModel",
        "ModernBertForMaskedLM",
        "ModernBertForSequenceClassification",
        "Gemma3TextModel",
        "LlamaBidirectionalModel",
        "Lfm2BidirectionalModel",
        "T5EncoderModel",
    }
)
# Position embeddings of these begin after the padding id (conversion/bert.py, _position_offset).
_OFFSET_POSITIONS = ("Roberta", "XLMRoberta")

# ModelBase.dequant_model (conversion/base.py) reads these; of "compressed-tensors" some formats.
_DEQUANTIZED_BY_CONVERTER = frozenset({"fp8", "mxfp4", "bitnet", "compressed-tensors", "modelopt"})
_BITSANDBYTES = frozenset({"bitsandbytes", "bnb", "bitsandbytes_4bit", "bitsandbytes_8bit"})
_BITSANDBYTES_TENSORS = (".SCB", ".absmax", ".quant_map", ".nested_absmax")


@dataclass(frozen=True)
class ModelConfig:
    """What config.json says.

    Attributes:
        path: the file.
        raw: its content.
        text: its content with the text part merged over the top level, as the converter has it.
        architecture: first of ``architectures``.
        context_length: tokens; ``None`` when the file does not say.
        vocab_size: tokens; ``None`` when the file does not say (transformers then has a default).
        dtype: ``"bfloat16"``, ``"float16"``, …; ``None`` when the file does not say.
        tied: ``tie_word_embeddings``; ``None`` when the class default applies.
        quantization: ``quant_method`` of weights that the converter dequantises, else ``None``.
        embeds: whether the model embeds text and does not generate it: by its architecture, or, as
            decoders that were trained to embed, by sentence-transformers' files.
    """

    path: Path
    raw: Mapping[str, Any]
    text: Mapping[str, Any]
    architecture: str
    model_type: str
    context_length: int | None
    vocab_size: int | None
    dtype: str | None
    tied: bool | None
    quantization: str | None
    embeds: bool


def read_config(folder: Path) -> tuple[ModelConfig, tuple[Finding, ...]]:
    """Read ``config.json``.

    Raises:
        CheckpointFileError: unreadable, or without ``architectures``; or modules.json is damaged.
    """
    path = folder / CONFIG
    raw = read_object(path)
    text = {**raw, **_text_part(raw)}
    values = _Values(text, path)
    architecture = _architecture(raw, path)
    context = _context_length(values, architecture)
    config = ModelConfig(
        path=path,
        raw=raw,
        text=text,
        architecture=architecture,
        model_type=values.text("model_type")
        if "model_type" not in raw
        else _Values(raw, path).text("model_type"),
        context_length=context,
        vocab_size=values.size("vocab_size"),
        dtype=(values.text("dtype") or values.text("torch_dtype")).removeprefix("torch.") or None,
        tied=values.boolean("tie_word_embeddings"),
        quantization=_quantization(raw),
        embeds=architecture in ENCODER_ARCHITECTURES or pools_embeddings(folder),
    )
    findings = values.findings + _context_findings(config)
    if config.quantization:
        findings.append(
            make_finding(
                "GP115",
                f"The weights are stored as {config.quantization} and are dequantised before conversion.",
                path=path,
                key="quantization_config",
            )
        )
    return config, tuple(findings)


def check_weight_format(config: ModelConfig, dtypes: Mapping[str, str]) -> None:
    """Refuse weights that must be merged or dequantised first.

    Args:
        config: as read.
        dtypes: tensor name → safetensors dtype.

    Raises:
        UnsupportedWeightsError: bitsandbytes, GPTQ, AWQ, MLX and other stored quantisations.
    """
    quantization = config.raw.get("quantization_config")
    method = _method(quantization) if isinstance(quantization, dict) else ""
    stored = any(_is_bitsandbytes(name) for name in dtypes)
    if method in _BITSANDBYTES or stored:
        if not stored and not any(dtype in ("U8", "I8") for dtype in dtypes.values()):
            raise UnsupportedWeightsError(
                f"{config.path} says that the weights are quantised by bitsandbytes, and no tensor is.",
                action="Remove quantization_config from config.json: the weights were merged already.",
                path=config.path,
                key="quantization_config",
            )
        raise _unsupported(
            config, "bitsandbytes", "Load the base model in bfloat16, merge the adapter and save that."
        )
    if isinstance(config.raw.get("quantization"), dict) and not isinstance(quantization, dict):
        raise _unsupported(config, "MLX", "Save it with mlx_lm.fuse --de-quantize.", key="quantization")
    if isinstance(quantization, dict) and method not in _DEQUANTIZED_BY_CONVERTER:
        raise _unsupported(
            config, method or "an unknown method", "Package the unquantised checkpoint that it was made from."
        )


def _is_bitsandbytes(name: str) -> bool:
    return ".quant_state.bitsandbytes__" in name or name.endswith(_BITSANDBYTES_TENSORS)


def _unsupported(
    config: ModelConfig, method: str, action: str, key: str = "quantization_config"
) -> UnsupportedWeightsError:
    return UnsupportedWeightsError(
        f"The weights in {config.path.parent} are quantised by {method}, "
        "so what they were trained as is lost to a conversion.",
        action=action,
        path=config.path,
        key=key,
    )


def _method(quantization: Mapping[str, Any]) -> str:
    method = quantization.get("quant_method")
    if isinstance(method, str):
        return method.lower()
    # bitsandbytes' first releases wrote no method
    return "bitsandbytes" if quantization.get("load_in_4bit") or quantization.get("load_in_8bit") else ""


def _quantization(raw: Mapping[str, Any]) -> str | None:
    quantization = raw.get("quantization_config")
    method = _method(quantization) if isinstance(quantization, dict) else ""
    return method if method in _DEQUANTIZED_BY_CONVERTER else None


def _text_part(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    thinker = raw.get("thinker_config")
    if isinstance(thinker, dict) and isinstance(thinker.get("text_config"), dict):
        part: Mapping[str, Any] = thinker["text_config"]
        return part
    return next((raw[key] for key in _TEXT_PARTS if isinstance(raw.get(key), dict)), {})


def _architecture(raw: Mapping[str, Any], path: Path) -> str:
    names = raw.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str) and names[0]:
        return names[0]
    raise CheckpointFileError(
        f"{path} names no architecture.",
        action='Copy "architectures" from the config.json of the base model.',
        path=path,
        key="architectures",
    )


def _context_length(values: _Values, architecture: str) -> int | None:
    """Tokens that the model was configured for: the first of ``_CONTEXT_KEYS`` that is there.

    The number is taken as it stands, with or without RoPE scaling: both transformers and llama.cpp
    treat ``max_position_embeddings`` as the length *after* scaling (``llama3``, ``longrope``) and
    never multiply it by ``factor``. A sliding window does not shorten it. RoBERTa's positions begin
    after the padding id, which the converter takes off.
    """
    length = next((size for key in _CONTEXT_KEYS if (size := values.size(key))), None)
    padding = values.mapping.get("pad_token_id")
    if length and architecture.startswith(_OFFSET_POSITIONS) and type(padding) is int:
        length -= 1 + padding
    return length if length and length > 0 else None


def _context_findings(config: ModelConfig) -> list[Finding]:
    if config.context_length is None:
        return [
            make_finding(
                "GP113",
                f"{config.path.name} does not say how long the context is.",
                path=config.path,
                key="max_position_embeddings",
                action="Give num_ctx yourself.",
            )
        ]
    rope = config.text.get("rope_parameters") or config.text.get("rope_scaling")
    if not isinstance(rope, dict):
        return []
    kind, factor = rope.get("rope_type", rope.get("type")), rope.get("factor")
    original = rope.get("original_max_position_embeddings", config.context_length)
    # Qwen 2.5's documented YaRN recipe leaves max_position_embeddings at the unscaled length
    if kind in ("yarn", "linear", "dynamic") and _is_number(factor) and _is_number(original):
        reach = int(original * factor)
        if reach > config.context_length:
            return [
                make_finding(
                    "GP114",
                    f"RoPE scaling ({kind}, factor {factor}) reaches {reach:,} tokens, and "
                    f"config.json says {config.context_length:,}, which is used.",
                    path=config.path,
                    key="rope_scaling",
                    action="Give num_ctx yourself if the model was trained for the longer context.",
                )
            ]
    return []


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e9


class _Values:
    """Typed access to a configuration; a value of the wrong type becomes a finding, once."""

    def __init__(self, mapping: Mapping[str, Any], path: Path) -> None:
        self.mapping = mapping
        self.path = path
        self.findings: list[Finding] = []

    def size(self, key: str) -> int | None:
        value = self.mapping.get(key)
        if value is None or (type(value) is int and value > 0):
            return value
        # 1e30 stands for "no limit" in model_max_length
        if isinstance(value, float) and value.is_integer() and 0 < value < 2**40:
            return int(value)
        self._wrong(key, value, "a positive integer")
        return None

    def text(self, key: str) -> str:
        value = self.mapping.get(key)
        if value is None or isinstance(value, str):
            return value or ""
        self._wrong(key, value, "a string")
        return ""

    def boolean(self, key: str) -> bool | None:
        value = self.mapping.get(key)
        if value is None or isinstance(value, bool):
            return value
        self._wrong(key, value, "a boolean")
        return None

    def _wrong(self, key: str, value: object, expected: str) -> None:
        self.findings.append(
            make_finding(
                "GP116",
                f"{self.path.name}: {key} must be {expected} and is {type_name(value)}; it is ignored.",
                path=self.path,
                key=key,
                action="Correct config.json.",
            )
        )
