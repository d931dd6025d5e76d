"""Batches with real builds: what comes out, what is done again, kills, interruptions, two at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from ggufpack.batch.items import Outcome
from ggufpack.batch.local import LocalExecutor
from ggufpack.batch.planning import plan_batch
from ggufpack.registry import OllamaServer
from ggufpack.registry.register import TEMPORARY_PREFIX
from ggufpack.spec import BuildSpec, Event, StageStarted
from tests.support.batch import JOURNAL, Harness, command, finished, kill_all, start, training_output
from tests.support.lora import train_adapter
from tests.support.ollama_server import RunningOllama

OPTIONS = ("--verify", "none", "-q", "Q8_0", "--template", "chatml", "--no-reuse")
SPEC = BuildSpec(Path(), quantizations=("Q8_0",), template="chatml", register=False, verify="none")


@pytest.fixture
def run(tiny_model: Callable[[str], Path], tmp_path: Path) -> Path:
    return training_output(tiny_model("llama-224"), tmp_path / "run", [1, 2])


def batch(*words: str | Path) -> tuple[int, dict[str, Any], str]:
    """Exit code, the JSON object, stderr."""
    done = subprocess.run(
        command("batch", "--json", *OPTIONS, *words),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.count("\n") == 1, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def statuses(found: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    return {item["key"]: (item["status"], item["reused"]) for item in found["items"]}


def test_packages_are_those_of_single_builds_and_are_not_built_twice(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "packages"
    code, found, _ = batch(run, "--output", output, "--no-register")
    assert code == 0
    assert statuses(found) == {"run-1": ("unverified", False), "run-2": ("unverified", False)}
    assert (output / "index.html").read_text().count("report.html") == 2
    subprocess.run(
        command(
            "build",
            run / "checkpoint-2",
            "--name",
            "run-2",
            "--output",
            tmp_path / "one",
            "--no-register",
            *OPTIONS,
        ),
        check=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    gguf = "run-2/run-2-Q8_0.gguf"
    assert (tmp_path / "one" / gguf).read_bytes() == (output / gguf).read_bytes()

    weights = run / "checkpoint-2" / "model.safetensors"
    with weights.open("r+b") as file:  # one bit of one weight
        file.seek(-2, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-2, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    (output / "run-1" / "Modelfile").write_text("FROM elsewhere")
    shutil.copytree(run / "checkpoint-1", run / "checkpoint-3")
    code, found, _ = batch(run, "--output", output, "--no-register")
    assert code == 0
    assert statuses(found) == {f"run-{step}": ("unverified", False) for step in (1, 2, 3)}
    code, found, _ = batch(run, "--output", output, "--no-register")
    assert statuses(found) == {f"run-{step}": ("unverified", True) for step in (1, 2, 3)}


def test_one_that_fails_does_not_stop_the_others(run: Path, tmp_path: Path) -> None:
    (run / "checkpoint-1" / "tokenizer.json").unlink(missing_ok=True)
    for file in (run / "checkpoint-1").glob("tokenizer*"):
        file.unlink()
    broken = shutil.copytree(run / "checkpoint-2", run / "checkpoint-9")
    (broken / "model.safetensors").write_bytes(b"x")
    manifest = tmp_path / "m.yaml"
    manifest.write_text(
        "defaults: {name: '{run}-{step}:{type}', output: packages}\nitems: [{checkpoint: run}]"
    )
    code, found, errors = batch(manifest, "--no-register", "--quiet")
    assert {key: status for key, (status, _) in statuses(found).items()} == {
        "run-1": "error",
        "run-2": "unverified",
    }
    assert code == found["exit_code"] == found["items"][0]["error"]["exit_code"]
    assert code in (3, 4)
    assert [Path(one["folder"]).name for one in found["left_out"]] == ["checkpoint-9"]
    assert found["items"][0]["error"]["problem"] in errors
    assert [
        path.name for path in (tmp_path / "packages").glob(".*") if not path.name.startswith(JOURNAL)
    ] == []


def test_a_process_that_is_killed_costs_its_own_item(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # without a journal nobody removes what it leaves
    plan = plan_batch([str(run)], replace(SPEC, output=tmp_path / "packages"))
    outcomes: list[Outcome] = []
    with LocalExecutor(1) as executor:

        def told(key: str, event: Event) -> None:
            if key == "run-1" and isinstance(event, StageStarted) and event.stage.value == "conversion":
                (slot,) = executor._busy
                os.kill(slot._process.pid or 0, signal.SIGKILL)

        outcomes += executor.run([one.item for one in plan.items], told)
        children = psutil.Process().children(recursive=True)
    assert {one.key: one.status for one in outcomes} == {"run-1": "error", "run-2": "unverified"}
    error = next(one.error for one in outcomes if one.error)
    assert "was killed, most likely because memory ran out" in str(error["problem"])
    assert not [one for one in children if "spawn_main" in " ".join(_words(one))]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def wait_until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_ends_everything_and_says_what_was_done(
    run: Path, tmp_path: Path, sign: signal.Signals, code: int
) -> None:
    output = tmp_path / "packages"
    process = start([run, "--output", output, "--no-register", "--json", *OPTIONS], tmp_path / "scratch")
    # the second item is at work
    wait_until(lambda: len(finished(output / JOURNAL)) == 1 and list(output.glob(".run-2.tmp-*")))
    below = psutil.Process(process.pid).children(recursive=True)
    assert len(below) >= 2
    process.send_signal(sign)
    assert process.wait(60) == code
    _gone, alive = psutil.wait_procs(below, timeout=5)
    assert not alive, [_words(one) for one in alive]
    (line,) = (tmp_path / "scratch" / "out").read_text().splitlines()
    found = json.loads(line)
    assert statuses(found) == {"run-1": ("unverified", False), "run-2": ("interrupted", False)}
    assert found["exit_code"] == code
    left = [path.name for path in output.iterdir() if path.name.startswith(".") and path.name != JOURNAL]
    assert left == []
    assert list((tmp_path / "scratch" / "tmp").iterdir()) == []
    assert batch(run, "--output", output, "--no-register")[1]["reused"] == 1


def test_two_batches_on_one_journal_build_each_item_once(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "packages"
    words: list[str | Path] = [run, "--output", output, "--no-register", "--json", *OPTIONS]
    first = start(words, tmp_path / "first")
    wait_until(lambda: list(output.glob(".run-1.tmp-*")))
    second = start(words, tmp_path / "second")
    assert (first.wait(300), second.wait(300)) == (0, 0)
    one, two = (json.loads((tmp_path / name / "out").read_text()) for name in ("first", "second"))
    assert (one["reused"], two["reused"]) == (0, 2)
    assert "waiting for it" in (tmp_path / "second" / "err").read_text()


def test_kills_at_random_moments(run: Path, tmp_path: Path) -> None:
    words = ["--no-register", "--jobs", "2", *OPTIONS]
    tally = Harness(run, tmp_path / "work", words, seed=5, longest=12).kill(5)
    assert tally.kills == 5
    assert (tally.redone, tally.lost, tally.corrupted, tally.leftovers, tally.failed) == ([], [], [], [], [])


@pytest.mark.server
def test_a_killed_registration_is_cleaned_up(run: Path, tmp_path: Path, ollama_server: RunningOllama) -> None:
    output = tmp_path / "packages"
    words: list[str | Path] = [
        run,
        "--output",
        output,
        "--host",
        ollama_server.host,
        "--name",
        "batch-{step}",
        *OPTIONS,
    ]
    server = OllamaServer(ollama_server.host)
    before = set(server.names())
    process = start(words, tmp_path / "scratch")
    wait_until(lambda: any(name.startswith(TEMPORARY_PREFIX) for name in server.names()))
    kill_all(process)
    foreign = f"{TEMPORARY_PREFIX}000000000000-x:latest"
    server.copy(next(name for name in server.names() if name.startswith(TEMPORARY_PREFIX)), foreign)
    # another item of the journal: what the killed one left goes all the same
    batch(run / "checkpoint-2", *words[1 : -len(OPTIONS)])
    assert [name for name in server.names() if name.startswith(TEMPORARY_PREFIX)] == [foreign]
    server.delete(foreign)
    found = batch(*words[: -len(OPTIONS)])[1]
    assert {item["status"] for item in found["items"]} == {"unverified"}, found
    names = set(server.names()) - before
    assert names == {f"batch-{step}:{tag}" for step in (1, 2) for tag in ("q8_0", "latest")}
    assert batch(*words[: -len(OPTIONS)])[1]["reused"] == 2
    server.delete("batch-1:q8_0")  # it is noticed, though the package is whole
    assert statuses(batch(*words[: -len(OPTIONS)])[1]) == {
        "batch-1": ("unverified", False),
        "batch-2": ("unverified", True),
    }
    server.copy("batch-1:q8_0", "batch-3:q8_0")
    shutil.copytree(run / "checkpoint-1", run / "checkpoint-3")
    code, found, _ = batch(*words[: -len(OPTIONS)])
    assert code == 6
    assert "that this batch did not make" in found["items"][2]["error"]["problem"]
    for name in [name for name in server.names() if name.startswith("batch-")]:
        server.delete(name)


LATE = """
import os, signal
from ggufpack.errors import UsageError
from ggufpack.package_folder import PackageFolder

def publish(self):
    if os.environ["LATE"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise UsageError("The folder cannot be renamed", action="Mend the disk.")

PackageFolder.publish = publish
"""


@pytest.mark.server
@pytest.mark.parametrize("fault", ["kill", "error"])
def test_names_that_were_given_before_the_package_was_in_place_are_taken_again(
    fault: str, run: Path, tmp_path: Path, ollama_server: RunningOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "packages"
    words = (run, "--output", output, "--host", ollama_server.host, "--name", f"late-{fault}-{{step}}")
    server = OllamaServer(ollama_server.host)
    with monkeypatch.context() as patched:  # of the batch's processes as well
        (tmp_path / "patch").mkdir()
        (tmp_path / "patch" / "sitecustomize.py").write_text(LATE)
        patched.setenv("PYTHONPATH", str(tmp_path / "patch"), prepend=os.pathsep)
        patched.setenv("LATE", fault)
        code, found, _ = batch(*words)
    assert code != 0
    assert {item["status"] for item in found["items"]} == {"error"}
    names = {f"late-{fault}-{step}:{tag}" for step in (1, 2) for tag in ("q8_0", "latest")}
    assert names <= set(server.names())
    assert not any(name.startswith(TEMPORARY_PREFIX) for name in server.names())
    code, found, stderr = batch(*words)
    assert code == 0, stderr
    assert statuses(found) == {f"late-{fault}-{step}": ("unverified", False) for step in (1, 2)}
    assert {path.name for path in output.iterdir()} == {
        *(f"late-{fault}-{step}" for step in (1, 2)),
        *("index.html", JOURNAL),
    }
    for name in names:
        server.delete(name)


def test_watch_takes_checkpoints_when_they_are_complete(run: Path, tmp_path: Path) -> None:
    later = tmp_path / "checkpoint-3"
    shutil.copytree(run / "checkpoint-1", later)
    output = tmp_path / "packages"
    words: list[str | Path] = [run, "--output", output, "--no-register", "--json", "--watch", *OPTIONS]
    process = start(words, tmp_path / "scratch")
    wait_until(lambda: len(finished(output / JOURNAL)) == 2)
    target = run / "checkpoint-3"
    target.mkdir()
    weights = (later / "model.safetensors").read_bytes()
    (target / "model.safetensors").write_bytes(weights[:-100])
    for file in later.iterdir():
        if file.name != "model.safetensors":
            shutil.copy(file, target)
    time.sleep(6)
    assert len(finished(output / JOURNAL)) == 2
    assert not list(output.glob(".run-3*"))
    with (target / "model.safetensors").open("ab") as unfinished:
        unfinished.write(weights[-100:])
    wait_until(lambda: len(finished(output / JOURNAL)) == 3)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    found = json.loads((tmp_path / "scratch" / "out").read_text())
    assert statuses(found) == {f"run-{step}": ("unverified", False) for step in (1, 2, 3)}


def test_adapters_of_a_training(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    base = shutil.copytree(tiny_model("qwen2"), tmp_path / "base")
    for step in (1, 2):
        train_adapter(base, tmp_path / "run" / f"checkpoint-{step}", steps=step)
    words = (tmp_path / "run", "--output", tmp_path / "packages", "--no-register")
    code, found, errors = batch(*words)
    assert code == 0, errors
    assert statuses(found) == {"run-1": ("unverified", False), "run-2": ("unverified", False)}
    first, second = (item["result"]["files"][0]["sha256"] for item in found["items"])
    assert first != second
    assert batch(*words)[1]["reused"] == 2
    card = json.loads((base / "generation_config.json").read_text())
    (base / "generation_config.json").write_text(json.dumps({**card, "temperature": 0.5}))
    assert batch(*words)[1]["reused"] == 0  # what they were merged into has changed


def test_what_is_wrong_with_a_command(tmp_path: Path) -> None:
    def said(*words: str) -> tuple[int, str]:
        code, found, _ = batch(*words)
        return code, found["error"]["problem"]

    assert said(str(tmp_path / "no")) == (2, f"{tmp_path / 'no'} does not exist.")
    assert said(str(tmp_path), "--watch-idle", "3")[0] == 2
    assert said(str(tmp_path), "--address", "x")[0] == 2
    (tmp_path / "m.toml").write_text("[[items]]\ncheckpint = 'x'")
    code, problem = said(str(tmp_path / "m.toml"))
    assert (code, problem) == (2, f"{tmp_path / 'm.toml'}:2: checkpint is no key of a manifest.")


def test_help_says_the_exit_codes() -> None:
    done = subprocess.run(command("batch", "--help"), capture_output=True, text=True, check=True)
    text = " ".join(done.stdout.split())
    assert "1 when they failed in several ways" in text
    assert "--watch-idle SECONDS" in text
