"""The main job with real parts: a checkpoint, the CLI or the library, a real Ollama."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import ggufpack
from ggufpack.errors import GgufpackError, ModelExistsError, VerificationError
from ggufpack.modelfile.parse import parse
from ggufpack.registry import OllamaServer, leftovers
from ggufpack.spec import BuildResult, Event, Progress, Stage, StageStarted
from tests.support.checkpoints import link_checkpoint
from tests.support.ollama_server import RunningOllama, free_port

CLI = str(Path(sys.executable).parent / "ggufpack")
# as the user turn of Llama 3 is written, and a system text that goes to the first user turn: not ChatML
OTHER_TEMPLATE = """\
{%- set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' -%}
{%- for message in messages if message['role'] != 'system' -%}
<|im_start|>{{ message['role'] }}:
{% if loop.first and system %}({{ system }})
{% endif %}{{ message['content'] | trim }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant:
{% endif -%}
"""


@pytest.fixture
def server(ollama_server: RunningOllama) -> Iterator[OllamaServer]:
    client = OllamaServer(ollama_server.host)
    before = set(client.names())
    yield client
    for name in set(client.names()) - before:
        client.delete(name)
    assert leftovers(client) == ()
    client.close()


@pytest.mark.parametrize(
    "moment", ["conversion", "written", "modelfile", "registry", "verification", "report"]
)
def test_an_output_folder_that_goes_away_is_a_sentence(
    moment: str, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """At the beginning of a stage, or when the last weights are written."""
    output = tmp_path / "out"
    gone = []

    def remove(event: Event) -> None:
        started = isinstance(event, StageStarted) and event.stage.value == moment
        written = (
            isinstance(event, Progress) and event.stage is Stage.CONVERSION and event.done == event.total
        )
        if started or (moment == "written" and written):
            gone.append(event)
            shutil.rmtree(output, ignore_errors=True)

    with pytest.raises(GgufpackError) as caught:
        ggufpack.build(
            tiny_model("llama-224"),
            name="gone",
            output=output,
            store=tmp_path / "store",
            register=False,
            verify="prompts",
            on_event=remove,
        )
    assert gone
    assert re.search("No such file or directory|There is no GGUF", caught.value.problem)
    assert str(output) in caught.value.problem
    assert not output.exists()
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file() and path.name != ".lock"]


def _cli(*words: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key != "OLLAMA_HOST"}
    return subprocess.run(
        [CLI, *words],
        cwd=cwd,
        env={**clean, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def _all_equal(result: BuildResult) -> bool:
    return all(case.equal for item in result.verifications for case in item.prompts)


def test_smollm2_in_two_types(smollm2: Path, server: OllamaServer, tmp_path: Path) -> None:
    result = ggufpack.build(
        smollm2, name="two-types", quantization="Q4_K_M,Q8_0", output=tmp_path, host=server.host
    )
    assert result.status == "verified"
    assert result.registered == ("two-types:q4_k_m", "two-types:latest", "two-types:q8_0")
    assert set(result.registered) <= set(server.names())
    assert _all_equal(result)
    assert all(len(item.prompts) > 25 for item in result.verifications)
    assert any(case.actual_tokens for case in result.verifications[0].prompts)

    folder = tmp_path / "two-types"
    record = json.loads((folder / "ggufpack.json").read_text())
    assert record["result"]["status"] == "verified"
    assert record["result"]["registered"] == list(result.registered)
    for file in result.package.files:
        assert hashlib.sha256(file.path.read_bytes()).hexdigest() == file.sha256
        assert file.path.stat().st_size == file.size
    modelfile = parse((folder / "Modelfile.Q8_0").read_text())
    assert modelfile.from_ == "./two-types-Q8_0.gguf"
    assert ("stop", "<|im_end|>") in modelfile.parameters

    shown = server.show("two-types")
    assert shown.template == modelfile.template
    assert shown.parameters["stop"] == ("<|im_end|>",)
    assert shown.parameters["num_ctx"] == (8192,)
    answer = server.chat("two-types", [{"role": "user", "content": "Hi"}], {"temperature": 0, "seed": 1})
    assert answer.done_reason == "stop"
    assert "<|im" not in answer.text

    with pytest.raises(ModelExistsError):
        ggufpack.build(smollm2, name="two-types", output=tmp_path / "other", host=server.host)
    assert not (tmp_path / "other").exists()


def test_the_package_works_without_ggufpack(
    smollm2: Path, server: OllamaServer, ollama_server: RunningOllama, tmp_path: Path
) -> None:
    """``ollama create`` with the written Modelfile gives the same prompts."""
    result = ggufpack.build(smollm2, name="by-hand", quantization="Q8_0", output=tmp_path, host=server.host)
    server.delete("by-hand:q8_0")
    server.delete("by-hand:latest")
    subprocess.run(
        [ollama_server.program.path, "create", "by-hand-again", "-f", "Modelfile"],
        cwd=result.package.folder,
        env={**os.environ, "OLLAMA_HOST": server.host, "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 < 2?"}]
    assert server.render_chat("by-hand-again", messages) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1 < 2?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("template", ["native", "changed"])
def test_jinja_in_the_gguf(template: str, smollm2: Path, server: OllamaServer, tmp_path: Path) -> None:
    checkpoint = link_checkpoint(smollm2, tmp_path / "checkpoint")
    if template == "changed":
        (checkpoint / "chat_template.jinja").unlink()
        (checkpoint / "chat_template.jinja").write_text(OTHER_TEMPLATE)
    result = ggufpack.build(
        checkpoint,
        name=f"jinja-{template}",
        quantization="Q8_0",
        template="native" if template == "native" else "auto",
        output=tmp_path,
        host=server.host,
        verify="prompts",
    )
    assert result.status == "verified"
    assert _all_equal(result)


@pytest.mark.parametrize(
    ("architecture", "template"),
    [("llama-spm", "llama2"), ("qwen3", "qwen3"), ("gemma3", "gemma"), ("mixtral", "mistral")],
)
def test_named_templates_on_tiny_models(
    architecture: str,
    template: str,
    tiny_model: Callable[[str], Path],
    server: OllamaServer,
    tmp_path: Path,
) -> None:
    result = ggufpack.build(
        tiny_model(architecture),
        name=f"tiny-{architecture}",
        template=template,
        output=tmp_path,
        host=server.host,
        verify="prompts",
    )
    assert result.status == "verified"
    assert _all_equal(result)
    assert result.registered[0] in server.names()


def test_an_encoder(tiny_model: Callable[[str], Path], server: OllamaServer, tmp_path: Path) -> None:
    result = ggufpack.build(tiny_model("bert"), name="encoder", output=tmp_path, host=server.host)
    assert result.status == "verified"
    assert result.verifications[0].smoke is not None
    assert "embedding" in server.show("encoder").capabilities


def test_a_model_that_never_stops_is_not_registered(
    tiny_model: Callable[[str], Path], server: OllamaServer, tmp_path: Path
) -> None:
    """A random model fails its smoke test: the package stays and says so, the server has no name."""
    with pytest.raises(VerificationError) as caught:
        ggufpack.build(
            tiny_model("qwen3"), name="random", template="qwen3", output=tmp_path, host=server.host
        )
    assert caught.value.exit_code == 7
    assert caught.value.result is not None
    assert caught.value.result.registered == ()
    record = json.loads((tmp_path / "random" / "ggufpack.json").read_text())
    assert record["result"]["status"] == "failed"
    assert not any(name.startswith("random") for name in server.names())


def test_overwrite_keeps_the_good_model_when_the_new_one_fails(
    smollm2: Path, tiny_model: Callable[[str], Path], server: OllamaServer, tmp_path: Path
) -> None:
    def build(checkpoint: Path, **more: Any) -> BuildResult:
        return ggufpack.build(
            checkpoint, name="kept", quantization="Q8_0", output=tmp_path, host=server.host, **more
        )

    build(smollm2, verify="prompts")
    before = server.show("kept").sha256
    with pytest.raises(VerificationError):
        build(tiny_model("qwen3"), template="qwen3", overwrite=True)
    assert server.show("kept").sha256 == before
    build(smollm2, verify="prompts", overwrite=True, system="You are a pirate.")
    assert server.show("kept").system == "You are a pirate."


def test_one_worker_for_several_builds(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    options: dict[str, Any] = {"output": tmp_path, "register": False, "verify": "none"}
    with ggufpack.open_worker() as worker:
        processes = []
        for name, kind in (("first", "Q8_0"), ("second", "F16")):
            ggufpack.build(tiny_model("llama-spm"), name=name, quantization=kind, worker=worker, **options)
            assert worker.pid is not None
            processes.append(worker.pid)
        assert processes[0] == processes[1]
        assert psutil.pid_exists(processes[0]), "a build leaves it running"
    assert not psutil.pid_exists(processes[0])
    assert (tmp_path / "second" / "second-F16.gguf").is_file()


@pytest.mark.engine
def test_without_a_server_the_embedded_engine_verifies(smollm2: Path, tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    done = _cli("build", str(smollm2), "--name", "x", "--host", nowhere, "--json", cwd=tmp_path)
    assert done.returncode == 6, "a server that was named must answer"
    assert json.loads(done.stdout)["error"]["type"] == "ServerUnreachableError"
    assert list(tmp_path.iterdir()) == []

    done = _cli("build", str(smollm2), "--name", "x", "--no-register", "--json", cwd=tmp_path)
    result = json.loads(done.stdout)
    assert (done.returncode, result["status"], result["registered"]) == (0, "verified", [])
    assert result["engine"].startswith("xllamacpp")
    assert "GP611" in {finding["id"] for finding in result["findings"]}


def test_plan_writes_nothing_and_says_what_build_writes(
    tiny_model: Callable[[str], Path], server: OllamaServer, tmp_path: Path
) -> None:
    options = [str(tiny_model("mixtral")), "--name", "planned", "-q", "Q4_K_M,F16", "--host", server.host]
    planned = json.loads(_cli("plan", *options, "--json", cwd=tmp_path).stdout)
    assert list(tmp_path.iterdir()) == []
    built = json.loads(
        _cli("build", *options, "--template", "mistral", "--verify", "prompts", "--json", cwd=tmp_path).stdout
    )
    for plan, file in zip(planned["files"], built["files"], strict=True):
        assert plan["tensor_types"] == file["tensor_types"]
        # another chat template, so a few hundred bytes more of header
        assert abs(plan["size"] - file["size"]) < 4096
    assert planned["names"] == built["registered"]


def _pickle_only(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")


def _truncated(checkpoint: Path) -> None:
    whole = (checkpoint / "model.safetensors").read_bytes()
    _replace(checkpoint / "model.safetensors", whole[: len(whole) // 2])


def _missing_shard(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "model-00001-of-00002.safetensors")
    shards = {"model.embed_tokens.weight": "model-00001-of-00002.safetensors"}
    shards["model.norm.weight"] = "model-00002-of-00002.safetensors"
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def _nan(checkpoint: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("up_proj.weight"))
    tensors[name] = tensors[name] * float("nan")
    path.unlink()
    save_file(tensors, path, metadata={"format": "pt"})


def _bad_config(checkpoint: Path) -> None:
    _replace(checkpoint / "config.json", b'{"architectures": ["Qwen')


def _bad_jinja(checkpoint: Path) -> None:
    _replace(checkpoint / "chat_template.jinja", b"{% for m in messages %}{{ m.content }}")


def _replace(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "code", "says"),
    [
        (_pickle_only, 3, "save_pretrained"),
        (_truncated, 3, "model.safetensors is cut off"),
        (_missing_shard, 3, "model-00002-of-00002.safetensors"),
        (_nan, 4, "NaN"),
        (_bad_config, 3, "config.json is not valid JSON"),
        (_bad_jinja, 5, "chat_template.jinja, line 1"),
    ],
)
def test_bad_checkpoints(
    damage: Callable[[Path], None],
    code: int,
    says: str,
    tiny_model: Callable[[str], Path],
    server: OllamaServer,
    tmp_path: Path,
) -> None:
    checkpoint = link_checkpoint(tiny_model("qwen3"), tmp_path / "checkpoint")
    damage(checkpoint)
    before = server.names()
    done = _cli("build", "checkpoint", "--name", "bad", "--host", server.host, "--quiet", cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert server.names() == before
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"], "nothing is left behind"


def test_bad_words(server: OllamaServer, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    host = ("--host", server.host)
    assert _cli("build", "empty", "--name", "x", *host, cwd=tmp_path).returncode == 3
    assert _cli("build", "absent", "--name", "x", *host, cwd=tmp_path).returncode == 3
    assert _cli("build", "empty", "--name", "my model", *host, cwd=tmp_path).returncode == 2
    assert _cli("build", "empty", "--name", "x", "-q", "Q9", *host, cwd=tmp_path).returncode == 2
    assert _cli("build", "empty", "--name", "x", "--nonsense", *host, cwd=tmp_path).returncode == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stage", ["Converting to", "Sending", "Verifying"])
def test_interrupted(
    number: signal.Signals, stage: str, smollm2: Path, server: OllamaServer, tmp_path: Path
) -> None:
    """A signal in any stage leaves no file, no name and no worker."""
    before = server.names()
    code = 130 if number is signal.SIGINT else 128 + signal.SIGTERM
    script = (
        "import signal, sys\n"
        # a shell's background job ignores SIGINT, and its children inherit that
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from ggufpack.cli import progress\n"
        "from ggufpack.cli.main import main\n"
        "class Loud(progress.View):\n"
        "    def __call__(self, event):\n"
        "        title = getattr(event, 'title', '')\n"
        "        if title: print(title, file=sys.stderr, flush=True)\n"
        "progress.progress_view = lambda quiet: Loud(None)\n"
        "main()\n"
    )
    words = ["build", str(smollm2), "--name", "interrupted", "-q", "Q4_K_M,Q8_0", "--host", server.host]
    with subprocess.Popen(
        [sys.executable, "-c", script, *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(stage):
                break
        time.sleep(4 if stage == "Converting to" else 0.3)  # the worker loads torch before it converts
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        rest = process.stderr.read()
        assert process.wait(60) == code, rest
    assert not [child for child in children if child.is_running() and child.status() != "zombie"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert server.names() == before
    assert leftovers(server) == ()


def test_two_builds_in_threads(
    tiny_model: Callable[[str], Path], server: OllamaServer, tmp_path: Path
) -> None:
    results: dict[str, BuildResult] = {}

    def work(name: str) -> None:
        results[name] = ggufpack.build(
            tiny_model("mixtral"),
            name=name,
            template="mistral",
            output=tmp_path,
            host=server.host,
            verify="prompts",
        )

    threads = [threading.Thread(target=work, args=(f"thread-{n}",)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {result.status for result in results.values()} == {"verified"}
    assert len(results) == 2


def test_several_checkpoints_in_a_folder_are_named(
    tiny_model: Callable[[str], Path], server: OllamaServer, tmp_path: Path
) -> None:
    for step in ("checkpoint-100", "checkpoint-200"):
        shutil.copytree(tiny_model("mixtral"), tmp_path / "run" / step)
    done = _cli("build", "run", "--name", "x", "--host", server.host, "--json", cwd=tmp_path)
    assert done.returncode == 3
    error = json.loads(done.stdout)["error"]
    assert "checkpoint-100" in error["problem"] + error["action"]
    assert "checkpoint-200" in error["problem"] + error["action"]
