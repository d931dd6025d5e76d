"""The broken files of ``support.sabotage``: llama.cpp loads each, and each does something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ggufpack.engine.embedded import EmbeddedEngine
from tests.support import sabotage
from tests.support.sabotage import SABOTAGES, TOKENIZER_SABOTAGES, SabotageError

pytestmark = pytest.mark.engine

# words, digits, a special token, and something far back for the rope
TEXT = "<|im_start|>user\nIn 2024, the owner of the boat said to the captain of it in 1984: go to the sea"
# ids, so that the tokenizer has no part in the answer
FIXED = [40, 300, 17, 900, 300, 61, 1200, 305, 77, 300, 18, 450, 2000, 33, 700, 300]
# untied with Q4_K and Q6_K; tied, with rope factors
MODELS = {"llama": "Q4_K_M", "llama3": "Q5_0"}


def tokens_and_answer(gguf: Path) -> tuple[list[int], list[tuple[int, float]]]:
    """The text's token ids, and the ten most probable next tokens with their log probabilities."""
    with EmbeddedEngine(gguf, n_ctx=512) as engine:
        said = engine._post("/tokenize", {"content": TEXT, "add_special": True, "parse_special": True})
        tokens: list[int] = said["tokens"]
        request = {"prompt": FIXED, "n_predict": 1, "n_probs": 10, "temperature": 0.0, "cache_prompt": False}
        answer = engine._post("/completion", request)
    [first] = answer["completion_probabilities"]
    return tokens, [(choice["id"], choice["logprob"]) for choice in first["top_logprobs"]]


@pytest.fixture(scope="module", params=MODELS)
def sound(
    request: pytest.FixtureRequest,
    tiny_model: Callable[[str], Path],
    oracle_gguf: Callable[[Path, str], Path],
) -> Path:
    return oracle_gguf(tiny_model(request.param), MODELS[request.param])


@pytest.fixture(scope="module")
def sound_answer(sound: Path) -> tuple[list[int], list[tuple[int, float]]]:
    return tokens_and_answer(sound)


@pytest.mark.parametrize("name", SABOTAGES)
def test_it_loads_and_does_something_else(
    name: str, sound: Path, sound_answer: tuple[list[int], list[tuple[int, float]]], tmp_path: Path
) -> None:
    SABOTAGES[name](sound, tmp_path / "broken.gguf")
    tokens, answer = tokens_and_answer(tmp_path / "broken.gguf")
    if name in TOKENIZER_SABOTAGES:
        assert tokens != sound_answer[0]
        assert answer == sound_answer[1]
    else:
        assert tokens == sound_answer[0]
        assert answer != sound_answer[1]


def test_a_copy_without_a_mistake_is_the_same(
    sound: Path, sound_answer: tuple[list[int], list[tuple[int, float]]], tmp_path: Path
) -> None:
    content = sabotage.read(sound)
    sabotage.write(content, tmp_path / "copy.gguf")
    copy = sabotage.read(tmp_path / "copy.gguf")
    assert copy.keys == content.keys
    assert list(copy.tensors) == list(content.tensors)
    for name, tensor in content.tensors.items():
        assert copy.tensors[name].type == tensor.type
        assert np.array_equal(copy.tensors[name].rows, tensor.rows)
    assert tokens_and_answer(tmp_path / "copy.gguf") == sound_answer


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
