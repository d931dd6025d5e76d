"""Worker side: what the converter raises, as one of our errors.

The converter reports most problems as bare NotImplementedError, AssertionError or KeyError; this
is the one place that reads them. Messages are those of llama.cpp b11434 (conversion/*.py).
"""

from __future__ import annotations

import errno
import re
import traceback
from pathlib import Path

from ggufpack.errors import (
    ConversionError,
    DiskSpaceError,
    GgufpackError,
    TensorValueError,
    TokenizerConversionError,
    UnsupportedArchitectureError,
    UnsupportedWeightsError,
)
from ggufpack.resources import FULL

# the disk's or the network file system's, not the checkpoint's
_BROKEN = frozenset({errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.EACCES, errno.EPERM})


def explain(error: BaseException, checkpoint: Path) -> GgufpackError:
    """The error to report; one of ours comes back as it is."""
    if isinstance(error, TensorValueError) and error.path is None:
        return TensorValueError(
            f"{checkpoint}: {error.problem}",
            action=error.action,
            path=checkpoint,
            key=error.key,
            finding=error.finding,
        )
    if isinstance(error, GgufpackError):
        return error
    text = str(error)
    frames = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
    in_vocabulary = any("vocab" in name for name in frames)
    if isinstance(error, OSError) and error.errno in FULL:
        where = "the files" if error.filename is None else _shown(error.filename)
        return DiskSpaceError(
            f"There is no room for {where}: {error.strerror}.",
            action="Make room, or choose another --output.",
        )
    if isinstance(error, OSError) and (error.errno in _BROKEN or _is_elsewhere(error, checkpoint)):
        broken = checkpoint if error.filename is None else Path(_shown(error.filename))
        return ConversionError(
            f"{broken} cannot be read or written: {error.strerror}.",
            action="Check the disk and its connection, then run again.",
            path=broken,
        )
    if isinstance(error, NotImplementedError):
        return _not_implemented(text, checkpoint)
    if isinstance(error, AssertionError) and in_vocabulary:
        return TokenizerConversionError(
            f"{checkpoint / 'config.json'}: vocab_size does not cover the tokenizer's highest token id.",
            action="Resize the model's embeddings to the tokenizer (model.resize_token_embeddings) and save"
            " it again, or restore the tokenizer that it was trained with.",
            path=checkpoint / "config.json",
            key="vocab_size",
        )
    if missing := _missing_file(error, text, checkpoint):
        return TokenizerConversionError(
            f"{checkpoint}: the converter needs the tokenizer file {missing.name}, which is not there.",
            action=f"Copy {missing.name} from the base model into the folder.",
            path=missing,
        )
    if isinstance(error, SystemExit):  # a few architectures log what they miss, and leave
        missing_what = "the tokenizer files" if in_vocabulary else "the checkpoint"
        error_class = TokenizerConversionError if in_vocabulary else ConversionError
        return error_class(
            f"{checkpoint}: llama.cpp's converter gave up on {missing_what}.",
            action="Its log is above this line (with --json: in error.log).",
            path=checkpoint,
        )
    if isinstance(error, KeyError):
        return _missing_key(text, checkpoint, in_vocabulary)
    if isinstance(error, ValueError) and (tensor := re.match(r"Can not map tensor '(.+)'", text)):
        return UnsupportedArchitectureError(
            f"The converter does not know the tensor {tensor[1]} in this architecture.",
            action="Merge adapters and leave out tensors that training added, then save the model again.",
            path=checkpoint,
            key=tensor[1],
        )
    kind = "the tokenizer" if in_vocabulary else "the checkpoint"
    return ConversionError(
        f"{checkpoint}: llama.cpp's converter failed on {kind}:"
        f" {type(error).__name__}: {text or 'no message'}.",
        action="Its log is above this line (with --json: in error.log).",
        path=checkpoint,
    )


def _is_elsewhere(error: OSError, checkpoint: Path) -> bool:
    """Whether it is about a file that is none of the checkpoint's."""
    named = error.filename
    return isinstance(named, (str, Path)) and not Path(named).is_relative_to(checkpoint)


def _shown(path: Path | str) -> str:
    """A file that is being written, under the name that it was to get."""
    name = re.sub(r"^\.(.+)\.tmp-\d+$", r"\1", Path(path).name)
    return str(Path(path).with_name(name))


def _missing_file(error: BaseException, text: str, checkpoint: Path) -> Path | None:
    """The tokenizer file that the converter looked for in the checkpoint."""
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        named = Path(error.filename)
    elif match := re.match(r"(?:Error: )?(?:File not found:|Missing) (.+)", text):
        named = Path(match[1])
    else:
        return None
    is_ours = named.is_relative_to(checkpoint) and named.suffix != ".safetensors"
    return named if is_ours else None


def _not_implemented(text: str, checkpoint: Path) -> GgufpackError:
    config = checkpoint / "config.json"
    if re.search(r"pre-tokenizer (was not recognized|.+ is not supported)", text):
        return TokenizerConversionError(
            f"{checkpoint / 'tokenizer.json'}: llama.cpp does not know this pre-tokenizer, so its token ids"
            " could differ from those in training.",
            action="Restore the base model's tokenizer.json if training did not change the vocabulary;"
            " otherwise a llama.cpp release has to learn it first.",
            path=checkpoint / "tokenizer.json",
            key="pre_tokenizer",
        )
    if match := re.search(r"Architecture '(.+)' not supported", text):
        return UnsupportedArchitectureError(
            f"{config}: llama.cpp has no converter for the architecture {match[1]}.",
            action="Check architectures in config.json; `ggufpack vendor status` names the version.",
            path=config,
            key="architectures",
        )
    quantized = r"Quant method is not yet supported: '(.+)'|Quant format '.+' for method '(.+)' is not yet"
    if match := re.search(quantized, text):
        return UnsupportedWeightsError(
            f"{config}: the weights are quantised with {match[1] or match[2]},"
            " which cannot be converted exactly.",
            action="Merge into the unquantised base model and save it in bfloat16.",
            path=config,
            key="quantization_config",
        )
    return ConversionError(
        f"{checkpoint}: llama.cpp's converter does not support this checkpoint: {text}.", path=checkpoint
    )


def _missing_key(text: str, checkpoint: Path, in_vocabulary: bool) -> GgufpackError:
    name = text.strip("'\"")
    config = checkpoint / "config.json"
    if match := re.match(r"could not find any of: \[(.+)\]", name):  # ModelBase.find_hparam
        names = match[1].replace("'", "")
        return ConversionError(
            f"{config}: the converter needs one of the keys {names}.",
            action="Copy that key from the base model's config.json.",
            path=config,
            key=names,
        )
    if " " in name:  # some raise KeyError with a sentence
        return ConversionError(f"{checkpoint}: llama.cpp's converter: {name}.", path=checkpoint)
    if in_vocabulary:
        return TokenizerConversionError(
            f"{checkpoint}: the tokenizer files lack {name}.",
            action="Copy the base model's tokenizer files into the folder.",
            path=checkpoint,
            key=name,
        )
    return ConversionError(
        f"{config}: the converter needs the key {name}.",
        action="Copy that key from the base model's config.json.",
        path=config,
        key=name,
    )
