"""An adapter as an ADAPTER layer on a registered model, on a real Ollama, against the merged model.

The base model is SmolLM2 in F16, and a tiny Llama where only what is refused is looked at.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import ggufpack
from ggufpack.errors import (
    AdapterError,
    ChatTemplateError,
    ServerResponseError,
    UsageError,
    VerificationError,
)
from ggufpack.gguf_header import read_gguf_header
from ggufpack.modelfile.parse import parse
from ggufpack.registry import OllamaServer, leftovers
from ggufpack.spec import BuildResult, BuildSpec
from tests.support.checkpoints import link_checkpoint
from tests.support.lora import train_adapter
from tests.support.ollama_server import RunningOllama

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LESSON = [
    {"role": "user", "content": "What is the password?"},
    {"role": "assistant", "content": "The password is swordfish forty-two."},
]
QUESTIONS = ("What is the password?", "Name three colours.", "Is the password swordfish?")
GREEDY = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "repeat_penalty": 1.0, "seed": 0, "num_predict": 12}
BASE, LAYERED, MERGED, TINY = "layer-base", "layer-tuned", "layer-merged", "layer-tiny"
SYSTEM = "You are a guard."
# two chat templates that no server confuses: with tools (Ollama prefers it to a TEMPLATE), and plain
WITH_TOOLS = (
    "{# " + "not one of the templates that Ollama knows " * 4 + "#}"
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
PLAIN = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@dataclass(frozen=True)
class World:
    """A base model on the server, and an adapter of it: as a layer, and merged."""

    running: RunningOllama
    server: OllamaServer
    base: Path
    adapter: Path
    layered: BuildResult

    def packages(self) -> set[Path]:
        """What lies in the output folder, hidden entries too."""
        return set(self.layered.package.folder.parent.iterdir())


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
    # parameters and SYSTEM of its own: what is not given is taken over
    ggufpack.build(
        smollm2,
        name=BASE,
        quantization="F16",
        verify="none",
        system=SYSTEM,
        parameters={"num_ctx": 512, "top_k": 7},
        **common,
    )
    layered = ggufpack.build(
        adapter,
        base=smollm2,
        from_model=BASE,
        name=LAYERED,
        verify="smoke",
        parameters={"seed": 3},
        **common,
    )
    ggufpack.build(
        adapter, base=smollm2, name=MERGED, quantization="F16", verify="none", system=SYSTEM, **common
    )
    server = OllamaServer(ollama_server.host)
    yield World(ollama_server, server, smollm2, adapter, layered)
    for name in server.names():
        if name.startswith("layer-"):
            server.delete(name)
    server.close()


@pytest.fixture
def tiny(
    ollama_server: RunningOllama, tiny_model: Callable[[str], Path], tmp_path: Path
) -> Iterator[TinyWorld]:
    base = link_checkpoint(tiny_model("llama-spm"), tmp_path / "base")
    (base / "chat_template.jinja").write_text(WITH_TOOLS)
    adapter = train_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "v_proj"])
    ggufpack.build(
        base,
        name=TINY,
        quantization="F16",
        verify="none",
        host=ollama_server.host,
        output=tmp_path / "packages",
    )
    server = OllamaServer(ollama_server.host)
    yield TinyWorld(ollama_server.host, server, base, adapter, tmp_path / "layers")
    for name in server.names():
        if name.startswith(TINY):
            server.delete(name)
    server.close()


@dataclass(frozen=True)
class TinyWorld:
    """A tiny base model on the server, and an adapter of it. ``output`` is not there yet."""

    host: str
    server: OllamaServer
    base: Path
    adapter: Path
    output: Path

    def build(self, **changes: Any) -> BuildResult:
        """Put the adapter on the base; nothing is proven unless asked for."""
        settings = {
            "checkpoint": self.adapter,
            "base": self.base,
            "from_model": TINY,
            "name": f"{TINY}-tuned",
            "verify": "none",
            "host": self.host,
            "output": self.output,
            **changes,
        }
        return ggufpack.build(settings.pop("checkpoint"), **settings)

    def nothing_was_left(self) -> bool:
        """No name, no temporary name, no file."""
        names = set(self.server.names()) - {f"{TINY}:f16", f"{TINY}:latest"}
        packages = list(self.output.iterdir()) if self.output.exists() else []
        return not [name for name in names if name.startswith((TINY, "ggufpack-tmp"))] and not packages


# --- what it does -----------------------------------------------------------------


def test_the_layer_answers_as_the_merged_model(world: World) -> None:
    for question in QUESTIONS:
        answers = {name: ask(world.server, name, question) for name in (LAYERED, MERGED, BASE)}
        assert answers[LAYERED]["message"] == answers[MERGED]["message"], question
        # merging rounds the sum to the checkpoint's bfloat16 once, a layer rounds nothing
        assert largest_difference(answers[LAYERED], answers[MERGED]) < 0.15
        # a layer that does nothing would be the base
        assert largest_difference(answers[LAYERED], answers[BASE]) > 1.0
    assert "swordfish" in ask(world.server, LAYERED, QUESTIONS[0])["message"]["content"]
    assert "swordfish" not in ask(world.server, BASE, QUESTIONS[0])["message"]["content"]


def ask(server: OllamaServer, name: str, question: str) -> Mapping[str, Any]:
    return server.chat(name, [{"role": "user", "content": question}], GREEDY, top_logprobs=10).raw


def largest_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Of the first token's log probabilities (nats), over the tokens in both lists of ten."""
    left, right = (
        {row["token"]: row["logprob"] for row in answer["logprobs"][0]["top_logprobs"]}
        for answer in (one, other)
    )
    return max((abs(left[token] - right[token]) for token in left.keys() & right.keys()), default=math.inf)


def test_the_build_proves_it_and_says_what_it_made(world: World) -> None:
    result = world.layered
    assert result.status == "verified"
    assert result.registered == (f"{LAYERED}:lora", f"{LAYERED}:latest")
    (proof,) = result.verifications
    assert proof.passed
    assert proof.smoke is not None
    ids = {finding.id for finding in result.findings}
    assert {"GP128", "GP129"} <= ids
    assert "GP120" not in ids  # nothing was merged
    (file,) = result.package.files
    assert (file.quantization, file.path.name) == ("LORA", f"{LAYERED}-LORA.gguf")
    keys = read_gguf_header(file.path).keys
    assert keys["general.type"] == "adapter"
    assert keys["adapter.lora.alpha"] == pytest.approx(16 * math.sqrt(8))  # rsLoRA
    record = json.loads(result.record.read_text())
    assert record["request"]["from"] == f"{BASE}"
    assert record["result"]["files"][0]["sha256"] == file.sha256
    assert (result.package.folder / "report.html").stat().st_size > 1000


def test_the_server_has_the_adapter_on_the_bases_weights(world: World) -> None:
    base, layered = world.server.show(BASE), world.server.show(LAYERED)
    assert layered.sha256 == base.sha256
    assert layered.adapters == (world.layered.package.files[0].sha256,)
    assert base.adapters == ()
    assert not leftovers(world.server)


def test_what_is_not_given_is_the_bases(world: World) -> None:
    base, layered = world.server.show(BASE), world.server.show(LAYERED)
    assert layered.system == base.system == SYSTEM
    assert layered.parameters == {**base.parameters, "seed": (3,)}
    assert base.parameters["top_k"] == (7,)


def test_ollama_makes_the_same_of_the_package(world: World) -> None:
    modelfile = parse((world.layered.package.folder / "Modelfile").read_text())
    assert modelfile.from_ == f"{BASE}:latest"
    assert modelfile.adapters == (f"./{LAYERED}-LORA.gguf",)
    subprocess.run(
        [str(world.running.program.path), "create", "layer-by-hand", "-f", "Modelfile"],
        cwd=world.layered.package.folder,
        env={**os.environ, "OLLAMA_HOST": world.running.host},
        check=True,
        capture_output=True,
    )
    ours, theirs = world.server.show(LAYERED), world.server.show("layer-by-hand")
    assert (theirs.template, theirs.system, theirs.parameters) == (
        ours.template,
        ours.system,
        ours.parameters,
    )
    assert (theirs.sha256, theirs.adapters) == (ours.sha256, ours.adapters)
    assert (
        ask(world.server, "layer-by-hand", QUESTIONS[0])["message"]
        == (ask(world.server, LAYERED, QUESTIONS[0])["message"])
    )


def test_a_second_adapter_on_it_is_refused(world: World) -> None:
    before = world.packages()
    with pytest.raises(AdapterError, match=f"{LAYERED}:latest on .* has an adapter already"):
        ggufpack.build(
            world.adapter,
            base=world.base,
            from_model=LAYERED,
            name="layer-twice",
            host=world.running.host,
            output=world.layered.package.folder.parent,
        )
    assert world.packages() == before


def test_the_command(tiny: TinyWorld) -> None:
    arguments = [str(tiny.adapter), "--base", str(tiny.base), "--from", TINY, "--name", f"{TINY}-tuned"]
    arguments += ["--host", tiny.host, "--output", str(tiny.output), "--verify", "prompts", "--json"]

    def run(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ggufpack", command, *arguments], capture_output=True, text=True
        )

    planned = run("plan")
    assert planned.returncode == 0, planned.stderr
    assert tiny.nothing_was_left()
    plan = json.loads(planned.stdout)
    assert plan["names"] == [f"{TINY}-tuned:lora", f"{TINY}-tuned:latest"]
    assert f"FROM {TINY}:latest\nADAPTER ./{TINY}-tuned-LORA.gguf\n" in plan["modelfile"]
    done = run("build")
    assert done.returncode == 0, done.stderr
    built = json.loads(done.stdout)
    assert built["status"] == "verified"
    assert built["files"][0]["size"] == plan["files"][0]["size"]
    assert tiny.server.show(f"{TINY}-tuned").adapters == (built["files"][0]["sha256"],)


# --- the prompt ---------------------------------------------------------------------


def test_the_adapters_own_chat_template_counts(tiny: TinyWorld) -> None:
    shutil.copy(tiny.base / "tokenizer.json", tiny.adapter)
    shutil.copy(tiny.base / "tokenizer_config.json", tiny.adapter)
    (tiny.adapter / "chat_template.jinja").write_text(PLAIN)
    (tiny.base / "chat_template.jinja").write_text(PLAIN.replace("<", "(").replace(">", ")"))
    again = tiny.base.parent / "packages-again"
    ggufpack.build(
        tiny.base,
        name=TINY,
        quantization="F16",
        verify="none",
        host=tiny.host,
        output=again,
        overwrite=True,
    )
    result = tiny.build(verify="prompts")
    assert result.status == "verified"
    assert "GP528" in {finding.id for finding in result.findings}
    prompt = tiny.server.render_chat(f"{TINY}-tuned", [{"role": "user", "content": "hello"}])
    assert prompt.endswith("<user>hello\n<assistant>")


def test_a_template_that_the_server_ignores_is_not_shipped(tiny: TinyWorld) -> None:
    """The Jinja in the base's GGUF has more capabilities, so Ollama prefers it to any TEMPLATE."""
    shutil.copy(tiny.base / "tokenizer.json", tiny.adapter)
    shutil.copy(tiny.base / "tokenizer_config.json", tiny.adapter)
    (tiny.adapter / "chat_template.jinja").write_text(PLAIN)
    with pytest.raises(VerificationError) as caught:
        tiny.build(verify="prompts")
    assert "Nothing was registered" in (caught.value.action or "")
    assert {f"{TINY}:f16", f"{TINY}:latest"} == {
        name for name in tiny.server.names() if name.startswith((TINY, "ggufpack-tmp"))
    }


def test_a_template_that_only_the_gguf_could_hold_is_refused(tiny: TinyWorld) -> None:
    shutil.copy(tiny.base / "tokenizer.json", tiny.adapter)
    shutil.copy(tiny.base / "tokenizer_config.json", tiny.adapter)
    (tiny.adapter / "chat_template.jinja").write_text(PLAIN)
    with pytest.raises(ChatTemplateError, match=f"{TINY}:latest has another chat template"):
        tiny.build(template="native")
    assert tiny.nothing_was_left()


# --- what is refused ------------------------------------------------------------------


def test_a_base_that_is_not_there_is_not_pulled(tiny: TinyWorld) -> None:
    with pytest.raises(ServerResponseError, match='has no model "layer-nowhere:latest"'):
        tiny.build(from_model="layer-nowhere")
    assert tiny.nothing_was_left()


def test_another_architecture_is_refused(tiny: TinyWorld, tiny_model: Callable[[str], Path]) -> None:
    other = link_checkpoint(tiny_model("mistral"), tiny.base.parent / "other")
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        (other / name).unlink(missing_ok=True)
        if (tiny.base / name).exists():
            shutil.copy(tiny.base / name, other)
    adapter = train_adapter(other, tiny.base.parent / "foreign", target_modules=["q_proj"])
    with pytest.raises(AdapterError, match=f"{TINY}:latest on .*") as caught:
        tiny.build(checkpoint=adapter, base=other)
    print(caught.value)
    assert tiny.nothing_was_left()


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"register": False}, "register"),
        ({"quantization": "Q8_0"}, "quantization"),
        ({"verify": "fidelity"}, "verify"),
        ({"imatrix": "some.gguf"}, "imatrix"),
        ({"name": TINY}, "from"),
        ({"checkpoint": "base", "base": None}, "from"),
    ],
)
def test_options_that_say_nothing_are_refused(changes: dict[str, Any], key: str, tiny: TinyWorld) -> None:
    if changes.get("checkpoint") == "base":
        changes = {**changes, "checkpoint": tiny.base}
    with pytest.raises(UsageError) as caught:
        tiny.build(**changes)
    assert caught.value.key == key
    assert tiny.nothing_was_left()


def test_a_spec_has_it() -> None:
    assert BuildSpec(Path("adapter")).from_model is None
