"""Counting with the checkpoint's own tokenizer.json: no torch, no transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from ggufpack.errors import CheckpointFileError
from ggufpack.verification.prompts import TokenCounter


def token_counter(tokenizer_json: Path, *, completion: bool = False) -> TokenCounter:
    """A function that counts the tokens of a prompt: see ``token_encoder``."""
    encode = token_encoder(tokenizer_json, completion=completion)
    return lambda text: len(encode(text))


def token_encoder(tokenizer_json: Path, *, completion: bool = False) -> Callable[[str], list[int]]:
    """A function that gives the token ids of a prompt. Special tokens in the text are one each.

    Nothing is added to a rendered conversation: a chat template writes its BOS itself, and
    ``apply_chat_template`` tokenizes with ``add_special_tokens=False`` (transformers
    tokenization_utils_base.py).

    Args:
        tokenizer_json: the checkpoint's.
        completion: the prompt is plain text, which training encodes with the tokenizer's own BOS.

    Raises:
        CheckpointFileError: the file cannot be read.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_json))
    except Exception as error:
        raise CheckpointFileError(
            f"{tokenizer_json} cannot be read by tokenizers ({error})", path=tokenizer_json
        ) from error
    # settings of the training run's batches, not of a prompt
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: list(tokenizer.encode(text, add_special_tokens=completion).ids)


def special_texts(tokenizer_json: Path) -> tuple[str, ...]:
    """The texts of the special tokens, sorted: what a reader of an answer must not see.

    Raises:
        CheckpointFileError: the file cannot be read.
    """
    try:
        added = json.loads(tokenizer_json.read_text(encoding="utf-8")).get("added_tokens") or []
        return tuple(sorted(token["content"] for token in added if token.get("special")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointFileError(
            f"{tokenizer_json} cannot be read ({error!r})", path=tokenizer_json
        ) from error
