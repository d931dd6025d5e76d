"""Broken packages are accused and sound ones are not: every mistake of ``support.sabotage``, many models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from gguf import GGUFValueType

from ggufpack.checkpoint import open_checkpoint
from tests.support import sabotage
from tests.support.checkpoints import change_config, link_checkpoint, smollm2_checkpoint, tiny_checkpoint
from tests.support.fidelity import FEW, Bench, bench
from tests.support.sabotage import SABOTAGES, TOKENIZER_SABOTAGES, Value

pytestmark = pytest.mark.engine

#: its chat template begins with its BOS, and engines take one of two away: no prompt changes
NOT_IN_SMOLLM2 = "bos flipped"
SMALL = {
    "scale of nine tenths",
    "damaged scales",
    "llama3 rope factors",
    "rope base half",
    "norm eps hundredfold",
}
#: tiny models, one of each way that tensors are named, joined and turned
SOUND = (
    *("llama", "llama-spm", "mistral", "gemma2", "gemma3", "olmo2", "gpt2", "falcon", "lfm2"),
    *("mixtral", "granitemoe", "qwen3moe", "gpt-oss", "deepseek2", "deepseek3", "mamba", "jamba"),
)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "few.txt"
    path.write_text(FEW, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def smol(tmp_path_factory: pytest.TempPathFactory, few: Path) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("smollm2") / "smollm2"
    with bench(smollm2_checkpoint(), ("F16", "Q8_0", "Q4_K_M", "Q2_K"), folder, few) as made:
        yield made


@dataclass(frozen=True)
class Accusation:
    """What accuses a file, and what is said of its logits."""

    by: set[str]
    detail: str


@pytest.fixture(scope="module")
def accused(smol: Bench, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Accusation]:
    """What is said of each mistake in the Q4_K_M file."""
    broken = tmp_path_factory.mktemp("broken") / "broken.gguf"

    def accuse(name: str) -> Accusation:
        SABOTAGES[name](smol.files["Q4_K_M"], broken)
        fidelity, tokenizer = smol.prove(broken)
        logits = {"logits"} if fidelity.verdict == "broken" else set()
        return Accusation(logits | (set() if tokenizer else {"tokenizer"}), fidelity.detail)

    return accuse


@pytest.mark.parametrize("name", [name for name in SABOTAGES if name != NOT_IN_SMOLLM2])
def test_a_mistake_is_accused_by_what_it_is_in(name: str, accused: Callable[[str], Accusation]) -> None:
    accusation = accused(name)
    assert accusation.by == {"tokenizer" if name in TOKENIZER_SABOTAGES else "logits"}
    if name in SMALL:
        assert "decoded" in accusation.detail, "the rounding of the engine hides it"


def test_a_bos_that_no_prompt_of_this_model_shows_is_not_accused(
    accused: Callable[[str], Accusation],
) -> None:
    assert accused(NOT_IN_SMOLLM2).by == set()


def test_a_bos_that_was_not_trained_is_accused(few: Path, tmp_path: Path) -> None:
    with bench(tiny_checkpoint("llama-spm"), ("Q8_0",), tmp_path / "x", few) as made:
        SABOTAGES["bos flipped"](made.files["Q8_0"], tmp_path / "broken.gguf")
        fidelity, tokenizer = made.prove(tmp_path / "broken.gguf")
    assert fidelity.verdict == "sound"
    assert not tokenizer


@pytest.mark.parametrize("quantization", ["F16", "Q8_0", "Q4_K_M", "Q2_K"])
def test_a_sound_file_is_not_accused(quantization: str, smol: Bench) -> None:
    fidelity, tokenizer = smol.prove(smol.files[quantization])
    assert fidelity.verdict == "sound", fidelity.detail
    assert fidelity.error < 0.5 * fidelity.error_limit
    assert tokenizer
    assert fidelity.expected_kl is not None
    assert fidelity.not_checked == ""


@pytest.mark.parametrize("arch", SOUND)
def test_a_sound_model_is_not_accused(arch: str, few: Path, tmp_path: Path) -> None:
    with bench(tiny_checkpoint(arch), ("F16", "Q4_K_M"), tmp_path / arch, few) as made:
        for gguf in made.files.values():
            fidelity, tokenizer = made.prove(gguf)
            assert fidelity.verdict == "sound", fidelity.detail
            assert fidelity.error < 0.5 * fidelity.error_limit
            assert fidelity.expected_kl is not None, "every tensor's rounding is repeated"
            assert tokenizer


def test_a_file_with_an_importance_matrix_has_a_wider_line(smol: Bench, tmp_path: Path) -> None:
    content = sabotage.read(smol.files["Q4_K_M"])
    content.keys["quantize.imatrix.file"] = Value(GGUFValueType.STRING, "imatrix.gguf")
    sabotage.write(content, tmp_path / "sound.gguf")
    SABOTAGES["norms swapped"](tmp_path / "sound.gguf", tmp_path / "broken.gguf")
    sound, _ = smol.prove(tmp_path / "sound.gguf")
    broken, _ = smol.prove(tmp_path / "broken.gguf")
    assert sound.expected_kl is None
    assert sound.verdict == "sound"
    assert sound.error_limit > 0.2
    assert broken.verdict == "broken"


def test_experts_that_are_not_trained_so_are_accused(few: Path, tmp_path: Path) -> None:
    """llama.cpp always normalises the weights of Qwen 3's experts; this file says it must not."""
    checkpoint = link_checkpoint(tiny_checkpoint("qwen3moe"), tmp_path / "checkpoint")
    change_config(checkpoint, norm_topk_prob=False)
    assert "GP119" in {finding.id for finding in open_checkpoint(checkpoint).findings}
    with bench(checkpoint, ("F16",), tmp_path / "x", few, allow=("GP119",)) as made:
        fidelity, _ = made.prove(made.files["F16"])
    assert fidelity.verdict == "broken"


def test_what_transformers_does_not_write_is_added(few: Path, tmp_path: Path) -> None:
    """DeepSeek-V3 chooses by a sigmoid; without a key llama.cpp would take softmax."""
    checkpoint = link_checkpoint(tiny_checkpoint("deepseek3"), tmp_path / "checkpoint")
    change_config(checkpoint, scoring_func=None)
    assert "GP118" in {finding.id for finding in open_checkpoint(checkpoint).findings}
    with bench(checkpoint, ("F16",), tmp_path / "x", few) as made:
        fidelity, _ = made.prove(made.files["F16"])
    assert fidelity.verdict == "sound", fidelity.detail
