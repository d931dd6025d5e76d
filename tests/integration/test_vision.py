"""A tiny Gemma 3 with a vision tower: converted as llama.cpp does it, registered, and shown images."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from math import exp, log
from pathlib import Path
from typing import Any

import pytest

import ggufpack
from ggufpack.packages import sha256_of
from ggufpack.pipeline import plan
from ggufpack.registry import OllamaServer
from ggufpack.spec import BuildSpec
from ggufpack.store.package import read_package
from tests.support import oracle, vision
from tests.support.ollama_server import RunningOllama
from tests.support.tokenizers import IMAGE_TOKENS

GREEDY = {"temperature": 0.0, "seed": 0, "num_predict": 1, "repeat_penalty": 1.0}
QUESTION = "What is in the picture?"
MESSAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    return vision.vision_checkpoint()


@pytest.fixture(scope="module")
def server(ollama_server: RunningOllama) -> Iterator[OllamaServer]:
    server = OllamaServer(ollama_server.host)
    yield server
    for name in server.names():
        if name.startswith("tiny-vision"):
            server.delete(name)
    server.close()


@pytest.fixture(scope="module")
def built(checkpoint: Path, server: OllamaServer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return ggufpack.build(
        checkpoint,
        name="tiny-vision",
        quantization="F16",
        output=tmp_path_factory.mktemp("vision"),
        host=server.host,
        verify="prompts",
    )


def asked(content: str, *images: bytes) -> list[dict[str, Any]]:
    message: dict[str, Any] = {"role": "user", "content": content}
    if images:
        message["images"] = [base64.b64encode(image).decode() for image in images]
    return [message]


def candidates(server: OllamaServer, image: bytes) -> dict[str, float]:
    """Probabilities of the first token of an answer."""
    answer = server.chat("tiny-vision:latest", asked(QUESTION, image), GREEDY, top_logprobs=20)
    return {row["token"]: exp(row["logprob"]) for row in answer.raw["logprobs"][0]["top_logprobs"]}


def distance(one: dict[str, float], other: dict[str, float]) -> float:
    return max(abs(one.get(token, 0.0) - other.get(token, 0.0)) for token in one.keys() | other.keys())


def ids(findings: Sequence[Any]) -> set[str]:
    return {finding.id for finding in findings}


def test_the_file_is_the_converters_to_the_byte(built: Any, checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "mmproj.gguf"
    oracle.convert(checkpoint, target, "auto", projector=True)
    tower = built.package.projector
    assert (tower.path.name, tower.quantization) == ("tiny-vision-mmproj-BF16.gguf", "BF16")
    assert sha256_of(tower.path) == tower.sha256 == sha256_of(target)


def test_the_package_names_it_and_the_server_takes_images(built: Any, server: OllamaServer) -> None:
    modelfile = (built.package.folder / "Modelfile").read_text(encoding="utf-8")
    assert modelfile.startswith("FROM ./tiny-vision-F16.gguf\nFROM ./tiny-vision-mmproj-BF16.gguf\n")
    record = json.loads(built.record.read_text(encoding="utf-8"))
    assert record["result"]["projector"]["path"] == "tiny-vision-mmproj-BF16.gguf"
    assert "vision" in server.show("tiny-vision:latest").capabilities
    assert "GP132" in ids(built.findings)


def test_the_store_writes_the_servers_manifest(
    built: Any, server: OllamaServer, ollama_server: RunningOllama
) -> None:
    from ggufpack.store.folder import StoreFolder
    from ggufpack.store.package import add_packages

    store = StoreFolder(built.package.folder.parent / "store")
    (stored,) = add_packages(store, read_package(built.package.folder))
    (manifest,) = ollama_server.store.glob("manifests/*/library/tiny-vision/f16")
    assert stored.digest == sha256_of(manifest)


def test_ollamas_own_client_reads_the_modelfile(built: Any, ollama_server: RunningOllama) -> None:
    command = [str(ollama_server.program.path), "create", "tiny-vision-cli", "-f", "Modelfile"]
    environment = {"OLLAMA_HOST": ollama_server.host, "HOME": str(built.package.folder.parent)}
    subprocess.run(command, cwd=built.package.folder, env=environment, check=True, capture_output=True)
    server = OllamaServer(ollama_server.host)
    assert "vision" in server.show("tiny-vision-cli").capabilities
    server.close()


def test_an_image_stands_where_the_template_has_it(
    built: Any, checkpoint: Path, server: OllamaServer
) -> None:
    import transformers

    image = vision.stripes()
    rendered = server.render_chat("tiny-vision:latest", asked(QUESTION, image))
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    trained = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert rendered.count("[img-0]") == trained.count("<start_of_image>") == 1
    assert rendered.replace("[img-0]", "<start_of_image>") == trained.removeprefix("<s>")


def test_images_enter(built: Any, server: OllamaServer) -> None:
    stripes = candidates(server, vision.stripes())
    again = candidates(server, vision.stripes())
    other = candidates(server, vision.red_and_blue())
    assert distance(stripes, again) < 1e-3
    assert distance(stripes, other) > 10 * max(distance(stripes, again), 1e-4)


def trained(checkpoint: Path, image: bytes, around: str) -> tuple[dict[str, list[float]], int]:
    """transformers' probabilities of the next token by its text, and the number of prompt tokens.

    ``around``: what stands before and after the image's tokens.
    """
    import torch
    import transformers
    from PIL import Image

    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    model = transformers.Gemma3ForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    pixels = transformers.AutoImageProcessor.from_pretrained(checkpoint)(
        images=Image.open(BytesIO(image)), return_tensors="pt"
    ).pixel_values
    soft = IMAGE_TOKENS[2]
    text = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    placed = f"{around}<start_of_image>{soft * vision.TOKENS_PER_IMAGE}<end_of_image>{around}"
    text = text.replace("<start_of_image>", placed)
    tokens = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    of_image = (tokens == tokenizer.convert_tokens_to_ids(soft)).long()
    with torch.inference_mode():
        logits = model.eval()(input_ids=tokens, pixel_values=pixels, token_type_ids=of_image).logits[0, -1]
    found: dict[str, list[float]] = {}
    for token, probability in enumerate(logits.softmax(-1).tolist()):
        found.setdefault(tokenizer.decode([token]), []).append(probability)
    return found, tokens.shape[1]


@pytest.mark.parametrize("image", [vision.stripes, vision.red_and_blue])
def test_the_server_sees_what_transformers_sees(
    built: Any, checkpoint: Path, server: OllamaServer, image: Callable[[], bytes]
) -> None:
    served = candidates(server, image())
    answer = server.chat("tiny-vision:latest", asked(QUESTION, image()), GREEDY)
    distances = {}
    for around in ("", "\n\n"):
        source, tokens = trained(checkpoint, image(), around)
        common = served.keys() & source.keys()  # others are parts of a character
        assert len(common) > 15
        distances[around] = max(
            min(abs(log(served[token]) - log(value)) for value in source[token]) for token in common
        )
        assert (tokens == answer.prompt_tokens) is (around == "")
    assert distances[""] < 0.02
    # what its finding says: the processor's blank lines are missing
    assert distances["\n\n"] > 0.2
    assert any("blank line" in finding.message for finding in built.findings)


def test_no_vision_leaves_it_out(checkpoint: Path, tmp_path: Path) -> None:
    found = plan(
        BuildSpec(checkpoint, name="t", quantizations=("F16",), output=tmp_path, register=False, vision=False)
    )
    assert found.projector is None
    assert "GP131" in ids(found.findings)
    assert "mmproj" not in found.modelfile
