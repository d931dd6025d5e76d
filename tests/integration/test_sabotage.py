"""The broken files of ``support.sabotage``: llama.cpp loads each, and each does something else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ggufpack.engine import embedded
from ggufpack.engine.embedded import EmbeddedEngine
from ggufpack.verification.fidelity.builtin import PLAIN
from tests.support import sabotage
from tests.support.sabotage import SABOTAGES, TOKENIZER_SABOTAGES, SabotageError

pytestmark = pytest.mark.engine

# the built-in letter, and what a wrong pre-tokenizer cuts otherwise
TEXT = PLAIN[0][2] + " (the price of it: 12345 dollars, don't go to the sea)"
# ids, so that the tokenizer has no part in the answer
FIXED = [40, 300, 17, 900, 300, 61, 1200, 305, 77, 300, 18, 450, 2000, 33, 700, 300]
# untied, with Q4_K and Q6_K; tied, with rope factors and a vocabulary that is slow to read
MODELS = {"llama": "Q4_K_M", "llama3": "Q5_0"}
OF_TIED = ("head shuffled", "head of the base model", "llama3 rope factors", "heads of half the size")
CASES = [*(("llama", name) for name in SABOTAGES), *(("llama3", name) for name in OF_TIED)]


def tokens_and_answer(gguf: Path, text: str = TEXT) -> tuple[list[int], list[tuple[int, float]]]:
    """The text's token ids, and the ten most probable tokens after ``FIXED`` with their log probabilities."""
    with EmbeddedEngine(gguf, n_ctx=512) as engine:
        said = embedded._post(
            engine._socket, "/tokenize", {"content": text, "add_special": True, "parse_special": True}
        )
        tokens: list[int] = said["tokens"]
        # more than one: the server keeps back a token that ends within a character
        request = {"prompt": FIXED, "n_predict": 8, "n_probs": 10, "temperature": 0.0, "ignore_eos": True}
        answer = embedded._post(engine._socket, "/completion", request)
    first = answer["completion_probabilities"][0]
    return tokens, [(choice["id"], choice["logprob"]) for choice in first["top_logprobs"]]


@dataclass(frozen=True)
class Sound:
    """A sound file, and what llama.cpp says with it."""

    gguf: Path
    text: str
    tokens: list[int]
    answer: list[tuple[int, float]]


@pytest.fixture(scope="module")
def sound(
    tiny_model: Callable[[str], Path], oracle_gguf: Callable[[Path, str], Path]
) -> Callable[[str], Sound]:
    @cache
    def make(model: str) -> Sound:
        gguf = oracle_gguf(tiny_model(model), MODELS[model])
        content = sabotage.read(gguf)
        types = content.tokenizer("token_type")
        special = [token for token, kind in zip(content.tokenizer("tokens"), types, strict=True) if kind == 3]
        text = TEXT + special[-1]
        return Sound(gguf, text, *tokens_and_answer(gguf, text))

    return make


@pytest.mark.parametrize(("model", "name"), CASES)
def test_it_loads_and_does_something_else(
    model: str, name: str, sound: Callable[[str], Sound], tmp_path: Path
) -> None:
    good = sound(model)
    SABOTAGES[name](good.gguf, tmp_path / "broken.gguf")
    tokens, answer = tokens_and_answer(tmp_path / "broken.gguf", good.text)
    if name in TOKENIZER_SABOTAGES:
        assert tokens != good.tokens
        assert answer == good.answer
    else:
        assert tokens == good.tokens
        assert answer != good.answer


def test_a_copy_without_a_mistake_is_the_same(sound: Callable[[str], Sound], tmp_path: Path) -> None:
    good = sound("llama")
    content = sabotage.read(good.gguf)
    sabotage.write(content, tmp_path / "copy.gguf")
    copy = sabotage.read(tmp_path / "copy.gguf")
    assert copy.keys == content.keys
    assert list(copy.tensors) == list(content.tensors)
    for name, tensor in content.tensors.items():
        assert copy.tensors[name].type == tensor.type
        assert np.array_equal(copy.tensors[name].rows, tensor.rows)
    assert tokens_and_answer(tmp_path / "copy.gguf", good.text) == (good.tokens, good.answer)


def test_unpermuting_gives_the_checkpoints_own_rows(
    tiny_model: Callable[[str], Path], oracle_gguf: Callable[[Path, str], Path], tmp_path: Path
) -> None:
    from safetensors import safe_open

    checkpoint = tiny_model("llama")
    SABOTAGES["q and k not permuted"](oracle_gguf(checkpoint, "F32"), tmp_path / "broken.gguf")
    broken = sabotage.read(tmp_path / "broken.gguf")
    with safe_open(checkpoint / "model.safetensors", "pt") as file:
        for part in "qk":
            own = file.get_tensor(f"model.layers.1.self_attn.{part}_proj.weight").float().numpy()
            assert np.array_equal(broken.tensors[f"blk.1.attn_{part}.weight"].rows, own)


def test_what_a_file_does_not_have_is_said(
    tiny_model: Callable[[str], Path], oracle_gguf: Callable[[Path, str], Path], tmp_path: Path
) -> None:
    sentencepiece = oracle_gguf(tiny_model("llama-spm"), "Q8_0")
    with pytest.raises(SabotageError, match=r"no tokenizer\.ggml\.merges"):
        SABOTAGES["merges swapped"](sentencepiece, tmp_path / "broken.gguf")


def test_every_mistake_is_explained() -> None:
    assert len(SABOTAGES) >= 14
    assert all(writer.__doc__ and len(writer.__doc__) > 40 for writer in SABOTAGES.values())
