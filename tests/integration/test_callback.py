"""Packages of a training's saves: real trainings on the CPU, real packages."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import transformers

import ggufpack
from ggufpack.errors import GgufpackError
from ggufpack.integrations.background import BackgroundPackager
from ggufpack.integrations.transformers import PackageCallback
from tests.support.training import random_states, train

ROOT = Path(__file__).parents[2]
QUICK: dict[str, Any] = {"quantization": "Q8_0", "template": "chatml", "verify": "none"}
TinyModel = Callable[[str], Path]


class KeepSaves(transformers.TrainerCallback):  # type: ignore[misc]
    """Copies each save, before the next one removes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        save = f"checkpoint-{state.global_step}"
        shutil.copytree(Path(args.output_dir) / save, self.folder / save)


def test_every_save_is_packaged_though_the_trainer_deletes_it(tiny_model: TinyModel, tmp_path: Path) -> None:
    callback = PackageCallback(name="{run}-{step}", final=True, output=tmp_path / "packages", **QUICK)
    output, kept = tmp_path / "run", tmp_path / "kept"
    trainer = train(
        tiny_model("llama-spm"), output, [callback, KeepSaves(kept)], max_steps=2, save_total_limit=1
    )
    assert [(outcome.key, outcome.status) for outcome in callback.results] == [
        ("run-1", "unverified"),
        ("run-2", "unverified"),
        ("run-final", "unverified"),
    ]
    assert sorted(path.name for path in output.iterdir()) == ["checkpoint-2"]  # no snapshot is left either
    trainer.save_model(str(kept / "run"))
    digests = set()
    with ggufpack.open_worker() as worker:
        for step, folder in (("1", "checkpoint-1"), ("2", "checkpoint-2"), ("final", "run")):
            alone = ggufpack.build(
                kept / folder,
                name=f"run-{step}",
                output=tmp_path / "alone",
                worker=worker,
                register=False,
                **QUICK,
            )
            packaged = json.loads((tmp_path / "packages" / f"run-{step}" / "ggufpack.json").read_text())
            assert packaged["result"]["files"][0]["sha256"] == alone.package.files[0].sha256
            digests.add(alone.package.files[0].sha256)
    assert len(digests) == 3


def test_the_training_is_the_same_with_and_without(tiny_model: TinyModel, tmp_path: Path) -> None:
    ends = []
    for name, callbacks in (
        ("without", []),
        ("with", [PackageCallback(output=tmp_path, final=True, **QUICK)]),
    ):
        model = train(tiny_model("llama-spm"), tmp_path / name, callbacks, max_steps=2).model
        ends.append((random_states(), model.state_dict()))
    (states, weights), (states_with, weights_with) = ends
    assert states == states_with
    assert all(torch.equal(weights[name], weights_with[name]) for name in weights)
    assert len(list(tmp_path.glob("with-*/*.gguf"))) == 3


def test_build_leaves_the_random_states(tiny_model: TinyModel, tmp_path: Path) -> None:
    before = random_states()
    ggufpack.build(tiny_model("llama-spm"), output=tmp_path, register=False, **{**QUICK, "verify": "prompts"})
    assert random_states() == before


def test_a_package_that_fails_stops_no_training(
    tiny_model: TinyModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "packages" / "run-1").mkdir(parents=True)
    (tmp_path / "packages" / "run-1" / "thesis.txt").touch()
    callback = PackageCallback(output=tmp_path / "packages", **QUICK)
    trainer = train(tiny_model("llama-spm"), tmp_path / "run", [callback], max_steps=2)
    assert trainer.state.global_step == 2
    assert [outcome.status for outcome in callback.results] == ["error", "unverified"]
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "run-1 exists and is not a package" in record.getMessage()

    strict = PackageCallback(output=tmp_path / "packages", strict=True, **QUICK)
    with pytest.raises(GgufpackError, match="2 of 2 saves were not packaged as trained; the first is run-1"):
        train(tiny_model("llama-spm"), tmp_path / "run", [strict], max_steps=2)


def test_a_trainer_without_a_tokenizer(tiny_model: TinyModel, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_steps": 1, "tokenizer": None}
    given = PackageCallback(output=tmp_path, tokenizer=tiny_model("llama-spm"), **QUICK)
    train(tiny_model("llama-spm"), tmp_path / "given", [given], **settings)
    assert [outcome.status for outcome in given.results] == ["unverified"]
    missing = PackageCallback(output=tmp_path, **QUICK)
    train(tiny_model("llama-spm"), tmp_path / "missing", [missing], **settings)
    (outcome,) = missing.results
    assert outcome.error is not None
    assert "saved no tokenizer" in outcome.error["problem"]
    assert "processing_class" in outcome.error["action"]
    assert not list((tmp_path / "missing").glob("_ggufpack*"))


def test_the_saves_of_an_adapter_are_packaged_with_their_base(tiny_model: TinyModel, tmp_path: Path) -> None:
    import peft

    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"])
    callback = PackageCallback(output=tmp_path, **QUICK)
    train(
        tiny_model("llama-spm"),
        tmp_path / "run",
        [callback],
        max_steps=1,
        adapt=lambda model: peft.get_peft_model(model, config),
    )
    assert [outcome.status for outcome in callback.results] == ["unverified"]


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_training_that_dies_leaves_no_process_and_no_half_package(
    tiny_model: TinyModel, tmp_path: Path, sign: signal.Signals
) -> None:
    # 'wait' at the end of the training: the package is under way when the signal comes
    script = f"""
import logging
from pathlib import Path
from ggufpack.integrations.transformers import PackageCallback
from tests.support.training import train
logging.basicConfig(level=logging.INFO)
callback = PackageCallback(output={str(tmp_path / "packages")!r}, **{QUICK!r})
train(Path({str(tiny_model("llama-spm"))!r}), Path({str(tmp_path / "run")!r}), [callback], max_steps=2)
"""
    with (tmp_path / "log").open("wb") as log:
        training = subprocess.Popen([sys.executable, "-c", script], stdout=log, stderr=log, cwd=ROOT)
    process = psutil.Process(training.pid)
    deadline = time.monotonic() + 100
    while not list((tmp_path / "packages").glob(".run-1.tmp-*")):  # the first package is being made
        assert training.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children = process.children(recursive=True)
    assert len(children) >= 2  # the packaging process, and its converter
    assert all(child.nice() > 0 for child in children)
    os.kill(training.pid, sign)
    assert training.wait(30) != 0
    _gone, alive = psutil.wait_procs(children, timeout=15)
    assert not alive
    assert not [path.name for path in (tmp_path / "packages").glob("*")]
    if sign is signal.SIGINT:  # the others give it no chance; the next training removes what they leave
        assert not list((tmp_path / "run").glob("_ggufpack-*"))
    else:
        callback = PackageCallback(output=tmp_path / "packages", **QUICK)
        train(tiny_model("llama-spm"), tmp_path / "run", [callback], max_steps=1)
        assert [path.name for path in (tmp_path / "packages").iterdir()] == ["run-1"]
        assert not list((tmp_path / "run").glob("_ggufpack-*"))


def test_a_packaging_process_that_is_killed_leaves_nothing_and_takes_nothing(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    packager = BackgroundPackager({"output": tmp_path / "packages", **QUICK})
    foreign = tmp_path / "packages" / ".one.tmp-somebody"  # a training elsewhere that has the same name
    foreign.mkdir(parents=True)
    packager.package(tiny_model("llama-spm"), "one")
    deadline = time.monotonic() + 100
    while len(list(foreign.parent.iterdir())) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child = packager._child
    assert child is not None
    os.kill(child.pid or 0, signal.SIGKILL)
    packager.wait()
    (outcome,) = packager.outcomes
    assert outcome.status == "error"
    assert list(foreign.parent.iterdir()) == [foreign]


def test_the_example_of_the_documentation(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    example = re.findall(r"```python\n(.*?)```", page, re.S)[0]
    assert example.count('"BASE"') == 2
    checkpoint = shutil.copytree(tiny_model("llama"), tmp_path / "base")
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = (ROOT / "templates" / "chat" / "chatml.jinja").read_text(encoding="utf-8")
    tokenizer.save_pretrained(checkpoint)
    monkeypatch.chdir(tmp_path)
    exec(example.replace('"BASE"', repr(str(checkpoint))), {})  # noqa: S102
    printed = capsys.readouterr().out
    assert re.findall(r"^(fox-\d) (\w+)$", printed, re.M) == [("fox-2", "verified"), ("fox-4", "verified")]
    assert sorted(path.name for path in (tmp_path / "packages").iterdir()) == ["fox-2", "fox-4"]
