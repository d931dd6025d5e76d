"""An adapter as an ADAPTER layer on a registered model, on a real Ollama, against the merged model."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import ggufpack
from ggufpack.registry import OllamaServer
from ggufpack.spec import BuildResult
from tests.support.lora import train_adapter
from tests.support.ollama_server import RunningOllama

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LESSON = [
    {"role": "user", "content": "What is the password?"},
    {"role": "assistant", "content": "The password is swordfish forty-two."},
]
GREEDY = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "repeat_penalty": 1.0, "seed": 0, "num_predict": 12}
TYPE = __import__("os").environ.get("T", "F32")
BASE, LAYERED, MERGED = "layer-base", "layer-tuned", "layer-merged"


@dataclass(frozen=True)
class World:
    """A base model on the server, and an adapter of it: as a layer, and merged."""

    server: OllamaServer
    base: Path
    adapter: Path
    folder: Path
    layered: BuildResult


@pytest.fixture(scope="module")
def world(
    ollama_server: RunningOllama, smollm2: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    import transformers

    folder = tmp_path_factory.mktemp("layer")
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2)
    ids = tokenizer.apply_chat_template(LESSON, return_dict=False)
    adapter = train_adapter(
        smollm2,
        folder / "adapter",
        steps=12,
        rate=0.003,
        texts=[ids],
        r=8,
        lora_alpha=16,
        use_rslora=True,
        target_modules=LINEAR,
    )
    common: dict[str, Any] = {"host": ollama_server.host, "output": folder / "packages"}
    # its own parameters: what is not given is taken over
    ggufpack.build(
        smollm2,
        name=BASE,
        quantization=TYPE,
        verify="none",
        parameters={"num_ctx": 512, "top_k": 7},
        **common,
    )
    layered = ggufpack.build(
        adapter, base=smollm2, from_model=BASE, name=LAYERED, verify="none", parameters={"seed": 3}, **common
    )
    ggufpack.build(adapter, base=smollm2, name=MERGED, quantization=TYPE, verify="none", **common)
    server = OllamaServer(ollama_server.host)
    yield World(server, smollm2, adapter, folder, layered)
    for name in server.names():
        if name.startswith("layer-"):
            server.delete(name)
    server.close()


def test_the_layer_answers_as_the_merged_model(world: World) -> None:
    for question in ("What is the password?", "Name three colours.", "Is the password swordfish?"):
        messages = [{"role": "user", "content": question}]
        answers = {
            name: world.server.chat(name, messages, GREEDY, top_logprobs=10)
            for name in (LAYERED, MERGED, BASE)
        }
        assert answers[LAYERED].text == answers[MERGED].text, question
        print(
            "DIFF",
            question,
            largest_difference(answers[LAYERED].raw, answers[MERGED].raw),
            largest_difference(answers[LAYERED].raw, answers[BASE].raw),
        )
        # a layer that does nothing would be the base
        assert largest_difference(answers[LAYERED].raw, answers[BASE].raw) > 0.5


def largest_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Of the first token's log probabilities, over the tokens in both lists of ten."""
    left, right = (
        {row["token"]: row["logprob"] for row in answer["logprobs"][0]["top_logprobs"]}
        for answer in (one, other)
    )
    common = left.keys() & right.keys()
    return max((abs(left[token] - right[token]) for token in common), default=math.inf)


def test_the_build_proves_and_says_what_it_made(world: World) -> None:
    result = world.layered
    print(json.dumps(result.to_json(), indent=1))
    assert result.status == "verified"
