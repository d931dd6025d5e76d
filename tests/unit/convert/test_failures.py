"""What llama.cpp's converter raises, on synthetic exceptions; the real ones are in test_worker.py."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from ggufpack.convert.failures import explain
from ggufpack.errors import (
    ConversionError,
    DiskSpaceError,
    GgufpackError,
    TensorValueError,
    TokenizerConversionError,
    UnsupportedArchitectureError,
    UnsupportedWeightsError,
    WorkerError,
)

FOLDER = Path("/models/mine")
CONFIG = FOLDER / "config.json"


def set_vocab(error: BaseException) -> None:
    """A frame by the name of the converter's own."""
    raise error


def elsewhere(error: BaseException) -> None:
    raise error


def explained(error: BaseException, where: Callable[[BaseException], None] = elsewhere) -> GgufpackError:
    try:
        where(error)
    except BaseException as raised:  # noqa: BLE001 - SystemExit is one of them
        return explain(raised, FOLDER)
    raise AssertionError


def missing(name: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, "No such file or directory", str(FOLDER / name))


@pytest.mark.parametrize(
    ("error", "expected", "path", "key", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), DiskSpaceError, None, None, "no room"),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded", "/out/.x.gguf.tmp-12"),
            *(DiskSpaceError, None, None, "no room for /out/x.gguf: Disk quota exceeded"),
        ),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "/out"),
            *(ConversionError, Path("/out"), None, "/out cannot be read or written: No such file"),
        ),
        (
            OSError(errno.EIO, "Input/output error", "/out/.x.gguf.tmp-12"),
            *(ConversionError, Path("/out/x.gguf"), None, "/out/x.gguf cannot be read or written"),
        ),
        (
            NotImplementedError("BPE pre-tokenizer was not recognized - update get_vocab_base_pre()"),
            *(TokenizerConversionError, FOLDER / "tokenizer.json", "pre_tokenizer", "does not know"),
        ),
        (
            NotImplementedError("Deepseek pre-tokenizer 'qwen9' is not supported yet!"),
            *(TokenizerConversionError, FOLDER / "tokenizer.json", "pre_tokenizer", "does not know"),
        ),
        (
            NotImplementedError("Architecture 'NewForCausalLM' not supported!"),
            *(UnsupportedArchitectureError, CONFIG, "architectures", "architecture NewForCausalLM."),
        ),
        (
            NotImplementedError("Quant method is not yet supported: 'bitsandbytes'"),
            *(UnsupportedWeightsError, CONFIG, "quantization_config", "quantised with bitsandbytes,"),
        ),
        (
            NotImplementedError("Quant format 'x' for method 'compressed-tensors' is not yet supported"),
            *(UnsupportedWeightsError, CONFIG, "quantization_config", "quantised with compressed-tensors,"),
        ),
        (
            NotImplementedError("The rope scaling type odd is not supported yet"),
            *(ConversionError, FOLDER, None, "The rope scaling type odd is not supported yet."),
        ),
        (missing("tokenizer.model"), TokenizerConversionError, FOLDER / "tokenizer.model", None, "not there"),
        (
            FileNotFoundError(f"File not found: {FOLDER / 'vocab.txt'}"),
            *(TokenizerConversionError, FOLDER / "vocab.txt", None, "vocab.txt, which is not there"),
        ),
        (
            ValueError(f"Error: Missing {FOLDER / 'tokenizer.model'}"),
            *(TokenizerConversionError, FOLDER / "tokenizer.model", None, "tokenizer.model, which is not"),
        ),
        (
            ValueError("Missing or incomplete model files: ['model-00002-of-00002.safetensors']"),
            *(ConversionError, FOLDER, None, "Missing or incomplete model files"),
        ),
        (missing("model.safetensors"), ConversionError, FOLDER, None, "FileNotFoundError"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "/elsewhere/x"),
            *(ConversionError, Path("/elsewhere/x"), None, "/elsewhere/x cannot be read or written"),
        ),
        (KeyError("rms_norm_eps"), ConversionError, CONFIG, "rms_norm_eps", "needs the key rms_norm_eps."),
        (
            KeyError("could not find any of: ['n_head', 'num_attention_heads']"),
            *(ConversionError, CONFIG, "n_head, num_attention_heads", "one of the keys n_head, num_att"),
        ),
        (
            KeyError("Missing the required key rope_scaling.type"),
            *(ConversionError, FOLDER, None, "converter: Missing the required key rope_scaling.type."),
        ),
        (
            ValueError("Can not map tensor 'model.value_head.weight'"),
            *(UnsupportedArchitectureError, FOLDER, "model.value_head.weight", "the tensor model.value_head"),
        ),
        (SystemExit(1), ConversionError, FOLDER, None, "gave up on the checkpoint."),
        (AssertionError(), ConversionError, FOLDER, None, "the checkpoint: AssertionError: no message."),
    ],
    ids=lambda value: f"{type(value).__name__}-{value}"[:60] if isinstance(value, BaseException) else "",
)
def test_each_failure_is_one_of_ours(
    error: BaseException, expected: type[GgufpackError], path: Path | None, key: str | None, words: str
) -> None:
    found = explained(error)
    assert type(found) is expected
    assert (found.path, found.key) == (path, key)
    assert words in found.problem
    assert found.problem.endswith(".")
    assert found.exit_code == 4


@pytest.mark.parametrize(
    ("error", "key", "words"),
    [
        (AssertionError(), "vocab_size", "vocab_size does not cover"),
        (KeyError("unk_token"), "unk_token", "the tokenizer files lack unk_token."),
        (SystemExit(1), None, "gave up on the tokenizer files."),
    ],
    ids=["assert", "key", "exit"],
)
def test_in_the_vocabulary_it_is_the_tokenizers(error: BaseException, key: str | None, words: str) -> None:
    found = explained(error, set_vocab)
    assert type(found) is TokenizerConversionError
    assert found.key == key
    assert words in found.problem


def test_what_nobody_knows_names_the_part() -> None:
    assert "failed on the tokenizer: TypeError: odd." in explained(TypeError("odd"), set_vocab).problem
    assert "failed on the checkpoint: TypeError: odd." in explained(TypeError("odd")).problem


def test_ours_stays_as_it_is() -> None:
    ours = WorkerError("It stopped.")
    assert explained(ours, set_vocab) is ours


def test_a_bad_value_names_the_checkpoint_too() -> None:
    error = explained(TensorValueError("blk.0 is NaN.", finding="GP250"))
    assert type(error) is TensorValueError
    assert error.problem.endswith(": blk.0 is NaN.")
    assert (error.finding, error.path is None) == ("GP250", False)
