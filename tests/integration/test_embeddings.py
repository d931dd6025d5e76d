"""all-MiniLM-L6-v2, a real embedding model: built, registered, its vectors compared with the source's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ggufpack
from ggufpack import vendoring
from ggufpack.chat_template.prompt import prepare_prompt
from ggufpack.checkpoint import open_checkpoint
from ggufpack.errors import CheckpointError
from ggufpack.registry import OllamaServer
from ggufpack.verification.fidelity.embedding import EmbeddingCheck
from ggufpack.verification.fidelity.measure import FidelityOptions
from tests.support.checkpoints import link_checkpoint
from tests.support.ollama_server import RunningOllama
from tests.support.sabotage_encoder import ENCODER_SABOTAGES, pooling_missing, words_swapped

pytestmark = pytest.mark.engine
TinyModel = Callable[[str], Path]

TYPES = ("F16", "Q8_0", "Q4_K_M")
# a few short texts, so that each broken file takes seconds
TEXTS = (
    "The river was low that summer, and the boats lay on the stones.",
    "Bearing 7 moved by 3.2 mm within six months; the manufacturer allows 4 mm over its whole life.",
    "def mean(values): return sum(values) / len(values)",
    "Der Zug nach Köln fährt um 9 Uhr von Gleis 4 ab.",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embeddings")


@pytest.fixture(scope="module")
def texts(folder: Path) -> Path:
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def server(ollama_server: RunningOllama) -> Iterator[OllamaServer]:
    server = OllamaServer(ollama_server.host)
    yield server
    for name in server.names():
        if name.startswith("minilm"):
            server.delete(name)
    server.close()


@pytest.fixture(scope="module")
def built(minilm: Path, server: OllamaServer, folder: Path) -> ggufpack.BuildResult:
    """In three types, on the built-in texts."""
    return ggufpack.build(
        minilm,
        name="minilm",
        quantization=",".join(TYPES),
        output=folder,
        host=server.host,
        verify="fidelity",
        device="cpu",
    )


@pytest.fixture(scope="module")
def files(built: ggufpack.BuildResult) -> dict[str, Path]:
    return {file.quantization: file.path for file in built.package.files}


def test_the_servers_vectors_are_the_trained_models(built: ggufpack.BuildResult) -> None:
    assert built.status == "verified"
    found = {proof.quantization: proof.embedding for proof in built.verifications}
    for one in found.values():
        assert one is not None
        assert (one.verdict, one.dimensions, one.count) == ("sound", 384, 18)
        assert one.engine.startswith("Ollama")
        assert one.reference.startswith("sentence-transformers")
        # what it has to be: the trained weights, rounded as the file says
        assert one.expected_min >= max(0.999, one.limit)
        assert one.cosine_min <= one.cosine_mean
        assert one.similarity_rank is not None
    f16, q8, q4 = (found[name] for name in TYPES)
    assert f16 is not None
    assert q8 is not None
    assert q4 is not None
    assert f16.cosine_min >= 0.999
    assert f16.cosine_min > q8.cosine_min > q4.cosine_min
    assert f16.similarity_difference < q8.similarity_difference < q4.similarity_difference < 0.1
    assert f16.decoded_min is None, "its arithmetic hides nothing"
    assert q8.decoded_min is not None
    assert q8.decoded_limit is not None
    assert q4.decoded_min is not None
    assert q8.decoded_min >= q8.decoded_limit > 0.9999
    assert q4.decoded_min > 0.9999


def test_a_long_text_is_cut_where_the_trained_model_cuts_it(built: ggufpack.BuildResult) -> None:
    """max_seq_length is 256 and max_position_embeddings 512: num_ctx has to be the former."""
    for proof in built.verifications:
        assert proof.embedding is not None
        assert proof.embedding.truncated is not None
        assert proof.embedding.truncated >= proof.embedding.limit
    assert "GP627" not in {finding.id for finding in built.findings}


def test_a_server_that_reads_more_of_a_long_text_is_told(
    built: ggufpack.BuildResult, server: OllamaServer, minilm: Path, texts: Path
) -> None:
    """As every GGUF of this model that keeps num_ctx at the 512 of config.json."""
    file = built.package.files[0]
    server.create("minilm-long", {file.path.name: f"sha256:{file.sha256}"}, {"parameters": {"num_ctx": 512}})
    result = ggufpack.verify(
        "minilm-long", minilm, host=server.host, gguf=file.path, calibration=texts, device="cpu"
    )
    (proof,) = result.verifications
    assert proof.embedding is not None
    assert proof.embedding.truncated is not None
    assert proof.embedding.truncated < 0.99 < proof.embedding.cosine_min
    assert "GP627" in {finding.id for finding in result.findings}


def test_a_text_that_llama_cpp_cuts_otherwise_is_told_apart(built: ggufpack.BuildResult) -> None:
    (proof, *_) = built.verifications
    assert proof.embedding is not None
    assert [text.name for text in proof.embedding.by_text if text.cut] == ["hindi"]
    assert proof.embedding.by_text[0].cosine < 0.99
    assert proof.tokenizer is not None
    assert proof.tokenizer.misses
    assert not proof.tokenizer.ordinary_misses
    assert {"GP614", "GP628"} <= {finding.id for finding in built.findings}


def test_it_is_registered_as_an_embedding_model(built: ggufpack.BuildResult, server: OllamaServer) -> None:
    shown = server.show("minilm:f16")
    assert shown.capabilities == ("embedding",)
    assert not shown.has_template_layer
    assert dict(shown.parameters) == {"num_ctx": (256,)}
    text = (built.package.folder / "Modelfile.F16").read_text(encoding="utf-8")
    assert text.split() == ["FROM", "./minilm-F16.gguf", "PARAMETER", "num_ctx", "256"]
    assert not [one for one in built.findings if one.id.startswith("GP4") and one.severity != "info"]


def test_the_record_and_the_page_hold_it(built: ggufpack.BuildResult) -> None:
    record = json.loads(built.record.read_text())
    proof = built.verifications[0].embedding
    assert proof is not None
    assert record["result"]["verifications"][0]["embedding"]["cosine_min"] == proof.cosine_min


@pytest.fixture(scope="module")
def check(minilm: Path, texts: Path) -> Iterator[EmbeddingCheck]:
    checkpoint = open_checkpoint(minilm)
    prompt = prepare_prompt(checkpoint, "auto", None)
    options = FidelityOptions(texts, "cpu")
    with EmbeddingCheck(checkpoint, prompt, vendoring.require(), options) as entered:
        yield entered


def test_without_a_server_the_embedded_engine_makes_the_vectors(
    check: EmbeddingCheck, files: dict[str, Path]
) -> None:
    found, parity = check.measure(files["F16"], None, None)
    assert found.verdict == "sound"
    assert found.engine.startswith("llama.cpp in xllamacpp")
    assert found.count == len(TEXTS)
    assert found.cosine_min > 0.9999
    assert found.truncated is None
    assert not parity.ordinary_misses


def test_without_a_server_one_embedding_is_the_smoke_test(files: dict[str, Path], minilm: Path) -> None:
    result = ggufpack.verify(files["F16"], minilm, level="smoke")
    assert result.passed
    (proof,) = result.verifications
    assert proof.smoke is not None
    assert (proof.smoke.text, proof.embedding) == ("384 dimensions", None)
    assert "GP613" not in {finding.id for finding in result.findings}


@pytest.mark.parametrize("name", ENCODER_SABOTAGES)
def test_a_broken_file_is_accused(
    name: str, check: EmbeddingCheck, files: dict[str, Path], tmp_path: Path
) -> None:
    ENCODER_SABOTAGES[name](files["F16"], tmp_path / "broken.gguf")
    found, _ = check.measure(tmp_path / "broken.gguf", None, None)
    assert found.verdict == "broken"
    assert found.expected_min < found.limit


def test_a_small_mistake_below_the_engines_rounding_is_accused(
    check: EmbeddingCheck, files: dict[str, Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    ENCODER_SABOTAGES["scale of nineteen twentieths"](files["Q8_0"], broken)
    found, _ = check.measure(broken, None, None)
    assert found.verdict == "broken"
    assert found.expected_min > found.limit, "as it is, rounding hides it"
    assert found.decoded_min is not None
    assert found.decoded_limit is not None
    assert found.decoded_min < found.decoded_limit


@pytest.mark.parametrize(
    ("write", "finding"), [(words_swapped, "GP614"), (pooling_missing, "GP610")], ids=["words", "pooling"]
)
def test_other_mistakes_fail_with_their_own_finding(
    write: Any, finding: str, files: dict[str, Path], minilm: Path, texts: Path, tmp_path: Path
) -> None:
    write(files["F16"], tmp_path / "broken.gguf")
    result = ggufpack.verify(tmp_path / "broken.gguf", minilm, calibration=texts, device="cpu")
    assert not result.passed
    assert finding in {one.id for one in result.findings if one.severity == "error"}


def test_without_modules_json_nothing_is_compared(
    files: dict[str, Path], minilm: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(minilm, checkpoint)
    (checkpoint / "modules.json").unlink()
    result = ggufpack.verify(files["F16"], checkpoint, device="cpu")
    (said,) = [one for one in result.findings if one.id == "GP610"]
    assert said.severity == "unchecked"
    assert "modules.json" in said.message
    (proof,) = result.verifications
    assert proof.smoke is not None
    assert proof.embedding is None


def test_a_module_that_a_gguf_cannot_hold_stops_the_build(minilm: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(minilm, checkpoint)
    path = checkpoint / "modules.json"
    modules = json.loads(path.read_text())
    modules.insert(
        2, {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    )
    path.write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match="Dense") as caught:
        ggufpack.build(checkpoint, output=tmp_path / "out", register=False, verify="none")
    assert caught.value.finding == "GP140"
    assert not (tmp_path / "out").exists()


def test_a_decoder_that_was_trained_to_embed(
    tiny_model: TinyModel, server: OllamaServer, texts: Path, tmp_path: Path
) -> None:
    """As Qwen3-Embedding: a decoder with its chat template, and the last token's vector."""
    folder = link_checkpoint(tiny_model("qwen3"), tmp_path / "decoder")
    steps = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (kind, path) in enumerate(steps)
    ]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 128}', encoding="utf-8")
    (folder / "1_Pooling").mkdir()
    pooling = {
        "word_embedding_dimension": 256,
        "pooling_mode_lasttoken": True,
        "pooling_mode_mean_tokens": False,
    }
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")

    built = ggufpack.build(
        folder,
        name="minilm-decoder",
        quantization="F16",
        output=tmp_path / "out",
        host=server.host,
        verify="fidelity",
        calibration=texts,
        device="cpu",
    )
    assert (built.status, built.template_strategy) == ("verified", "none")
    (proof,) = built.verifications
    assert proof.embedding is not None
    assert proof.embedding.cosine_min >= 0.999
    shown = server.show("minilm-decoder:f16")
    assert "embedding" in shown.capabilities
    assert not {"completion", "tools"} & set(shown.capabilities)
