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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import ggufpack
from ggufpack.doctor import examine
from ggufpack.errors import (
    AdapterError,
    ChatTemplateError,
    ServerResponseError,
    UsageError,
    VerificationError,
)
from ggufpack.gguf_header import read_gguf_header
from ggufpack.modelfile.parse import parse
from ggufpack.recheck import verify
from ggufpack.registry import OllamaServer, leftovers
from ggufpack.spec import BuildResult
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
BASE, LAYERED, MERGED = "layer-base", "layer-tuned", "layer-merged"
TINY, TUNED = "tiny-base", "tiny-tuned"
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
    delete_all(server, "layer-")


@dataclass(frozen=True)
class Tiny:
    """A tiny base model on the server, and an adapter of it. ``output`` is made by a build that succeeds."""

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
            "name": TUNED,
            "verify": "none",
            "host": self.host,
            "output": self.output,
            **changes,
        }
        return ggufpack.build(settings.pop("checkpoint"), **settings)

    def adapter_with(self, chat_template: str) -> Path:
        """A copy of the adapter with a tokenizer, as trainers save it, and this chat template."""
        folder = self.output.parent / "with-tokenizer"
        shutil.copytree(self.adapter, folder)
        for name in ("tokenizer.model", "tokenizer_config.json"):
            shutil.copy(self.base / name, folder)
        (folder / "chat_template.jinja").write_text(chat_template)
        return folder

    def nothing_was_left(self) -> bool:
        """No name, no temporary name, no file."""
        names = [name for name in self.server.names() if name.startswith((TUNED, "ggufpack-tmp"))]
        return not names and not self.output.exists()


@pytest.fixture(scope="module")
def tiny_base(
    ollama_server: RunningOllama,
    tiny_model: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Tiny]:
    folder = tmp_path_factory.mktemp("tiny")
    base = link_checkpoint(tiny_model("llama-spm"), folder / "base")
    (base / "chat_template.jinja").write_text(WITH_TOOLS)
    adapter = train_adapter(base, folder / "adapter", target_modules=["q_proj", "v_proj"])
    register_tiny(base, TINY, ollama_server.host)
    server = OllamaServer(ollama_server.host)
    yield Tiny(ollama_server.host, server, base, adapter, folder)
    delete_all(server, TINY)


@pytest.fixture
def tiny(tiny_base: Tiny, tmp_path: Path) -> Iterator[Tiny]:
    yield replace(tiny_base, output=tmp_path / "layers")
    delete_all(tiny_base.server, TUNED)


def register_tiny(base: Path, name: str, host: str, quantization: str = "F16") -> None:
    output = base.parent / f"packages-{name}"
    common: dict[str, Any] = {"verify": "none", "host": host, "output": output, "overwrite": True}
    ggufpack.build(base, name=name, quantization=quantization, **common)


def delete_all(server: OllamaServer, prefix: str) -> None:
    for name in server.names():
        if name.startswith(prefix):
            server.delete(name)


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


def test_the_command(tiny: Tiny) -> None:
    arguments = [str(tiny.adapter), "--base", str(tiny.base), "--from", TINY, "--name", TUNED]
    arguments += ["--host", tiny.host, "--output", str(tiny.output), "--verify", "prompts", "--json"]

    def run(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ggufpack", command, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )

    planned = run("plan")
    assert planned.returncode == 0, planned.stderr
    assert tiny.nothing_was_left()
    plan = json.loads(planned.stdout)
    assert plan["names"] == [f"{TUNED}:lora", f"{TUNED}:latest"]
    assert f"FROM {TINY}:latest\nADAPTER ./{TUNED}-LORA.gguf\n" in plan["modelfile"]
    done = run("build")
    assert done.returncode == 0, done.stderr
    built = json.loads(done.stdout)
    assert built["status"] == "verified"
    assert built["files"][0]["size"] == plan["files"][0]["size"]
    assert tiny.server.show(TUNED).adapters == (built["files"][0]["sha256"],)


def test_the_doctor_knows_such_a_package(tiny: Tiny) -> None:
    folder = tiny.build(verify="prompts").package.folder
    assert [finding.id for finding in examine(folder).findings] == []
    assert examine(folder / f"{TUNED}-LORA.gguf").status == "fine"
    (folder / "Modelfile").write_text(f"FROM {TINY}\nADAPTER ./other.gguf\n")
    assert {"GP161", "GP162"} & {finding.id for finding in examine(folder).findings}


def test_verify_takes_its_name_and_not_its_file(tiny: Tiny) -> None:
    built = tiny.build()
    done = verify(TUNED, tiny.adapter, base=tiny.base, host=tiny.host, level="prompts")
    assert done.passed
    for model in (built.package.folder, built.package.files[0].path):
        with pytest.raises(UsageError, match="is an adapter, which runs only on its base model"):
            verify(model, tiny.adapter, base=tiny.base, level="prompts")
    with pytest.raises(UsageError, match="runs no adapters"):
        verify(TUNED, tiny.adapter, base=tiny.base, host=tiny.host, level="fidelity")


def test_a_batch_puts_adapters_on_one_model(tiny: Tiny) -> None:
    runs, base = tiny.output.parent / "runs", f"{TUNED}-base"
    for number in (1, 2):
        shutil.copytree(tiny.adapter, runs / f"{TUNED}-{number}")
    tiny.server.copy(TINY, base)
    manifest = tiny.output.parent / "layers.yaml"
    manifest.write_text(
        f"defaults: {{host: '{tiny.host}', output: layers, verify: none, base: {tiny.base}, from: {base}}}\n"
        "items: [{checkpoint: runs/*}]\n"
    )

    def built_anew() -> list[bool]:
        done = subprocess.run(
            [sys.executable, "-m", "ggufpack", "batch", str(manifest), "--json", "--jobs", "1"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [not item["reused"] for item in json.loads(done.stdout)["items"]]

    assert built_anew() == [True, True]
    shown = [tiny.server.show(f"{TUNED}-{number}:lora") for number in (1, 2)]
    assert [len(one.adapters) for one in shown] == [1, 1]
    assert built_anew() == [False, False]
    # the name stands for another model now
    register_tiny(tiny.base, base, tiny.host, quantization="Q8_0")
    assert built_anew() == [True, True]
    assert tiny.server.show(f"{TUNED}-1:lora").sha256 == tiny.server.show(base).sha256 != shown[0].sha256


# --- the prompt ---------------------------------------------------------------------


def test_the_adapters_own_chat_template_counts(tiny: Tiny) -> None:
    base = link_checkpoint(tiny.base, tiny.output.parent / "other-base")
    (base / "chat_template.jinja").unlink()
    (base / "chat_template.jinja").write_text(PLAIN.replace("<", "(").replace(">", ")"))
    register_tiny(base, f"{TUNED}-base", tiny.host)
    result = tiny.build(
        checkpoint=tiny.adapter_with(PLAIN), base=base, from_model=f"{TUNED}-base", verify="prompts"
    )
    assert result.status == "verified"
    assert "GP528" in {finding.id for finding in result.findings}
    prompt = tiny.server.render_chat(TUNED, [{"role": "user", "content": "hello"}])
    assert prompt.endswith("<user>hello\n<assistant>")


def test_a_template_that_the_server_ignores_is_not_registered(tiny: Tiny) -> None:
    """The Jinja in the base's GGUF has more capabilities, so Ollama prefers it to any TEMPLATE."""
    with pytest.raises(VerificationError) as caught:
        tiny.build(checkpoint=tiny.adapter_with(PLAIN), verify="prompts")
    assert "Nothing was registered" in (caught.value.action or "")
    assert not [name for name in tiny.server.names() if name.startswith((TUNED, "ggufpack-tmp"))]


def test_a_template_that_only_a_gguf_could_hold_is_refused(tiny: Tiny) -> None:
    with pytest.raises(ChatTemplateError, match=f"{TINY}:latest on .* has another chat template"):
        tiny.build(checkpoint=tiny.adapter_with(PLAIN), template="native")
    assert tiny.nothing_was_left()


# --- what is refused ------------------------------------------------------------------


def test_a_base_that_is_not_there_is_not_pulled(tiny: Tiny) -> None:
    with pytest.raises(ServerResponseError, match='has no model "layer-nowhere:latest"'):
        tiny.build(from_model="layer-nowhere")
    assert tiny.nothing_was_left()


def test_another_vocabulary_is_refused(tiny: Tiny, tiny_model: Callable[[str], Path]) -> None:
    base = tiny_model("llama3")
    adapter = train_adapter(base, tiny.output.parent / "foreign", target_modules=["q_proj"])
    with pytest.raises(AdapterError, match=rf"{TINY}:latest on .*: token \d+ is ") as caught:
        tiny.build(checkpoint=adapter, base=base)
    assert caught.value.action == f"Merge it instead: ggufpack build {base} --adapter {adapter}"
    assert tiny.nothing_was_left()


def test_other_shapes_are_refused(tiny: Tiny) -> None:
    """Another model with the same tokenizer."""
    import transformers

    base = link_checkpoint(tiny.base, tiny.output.parent / "narrow")
    config = transformers.AutoConfig.from_pretrained(base)
    config.num_key_value_heads = 1
    for name in ("config.json", "model.safetensors"):
        (base / name).unlink()
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(base)
    adapter = train_adapter(base, tiny.output.parent / "foreign", target_modules=["v_proj"])
    with pytest.raises(AdapterError) as caught:
        tiny.build(checkpoint=adapter, base=base)
    assert caught.value.problem == (
        f"{TINY}:latest on {tiny.host} has blk.0.attn_v.weight of [256, 128] weights, and the adapter of"
        " [256, 64]."
    )
    assert tiny.nothing_was_left()


def test_what_a_gguf_lora_cannot_hold_is_refused(tiny: Tiny) -> None:
    adapter = train_adapter(tiny.base, tiny.output.parent / "dora", target_modules=["v_proj"], use_dora=True)
    with pytest.raises(AdapterError, match="asks for DoRA") as caught:
        tiny.build(checkpoint=adapter)
    assert caught.value.action == f"Merge it instead: ggufpack build {tiny.base} --adapter {adapter}"
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
def test_options_that_say_nothing_are_refused(changes: dict[str, Any], key: str, tiny: Tiny) -> None:
    if changes.get("checkpoint") == "base":
        changes = {**changes, "checkpoint": tiny.base}
    with pytest.raises(UsageError) as caught:
        tiny.build(**changes)
    assert caught.value.key == key
    assert tiny.nothing_was_left()
