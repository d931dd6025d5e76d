"""``ggufpack publish`` as a program, with a package that was really built, against the Hub's stand-in."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

import ggufpack
from ggufpack.modelfile.parse import parse
from tests.support.checkpoints import tiny_checkpoint
from tests.support.hub_server import TOKEN, HubState, running_hub
from tests.support.packages import make_package

WORDS = ("--to", "hf:anna/fox-GGUF", "--json")


def environment(hub: HubState, home: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return {**kept, **hub.environment, "HF_HOME": str(home / "hf")}


def command(package: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "ggufpack", "publish", str(package), *WORDS, *words]


def test_a_built_package_by_the_rules_of_the_hub(tmp_path: Path) -> None:
    built = ggufpack.build(
        tiny_checkpoint("llama"),
        name="fox",
        quantization="Q8_0,Q4_K_M",
        output=tmp_path,
        template="chatml",
        register=False,
        verify="none",
    )
    package = built.package.folder
    with running_hub() as hub:
        env = environment(hub, tmp_path)
        refused = subprocess.run(command(package), env=env, capture_output=True, text=True, check=False)
        assert refused.returncode == 3
        assert json.loads(refused.stdout)["error"]["finding"] == "GP164"
        assert not hub.authorizations

        done = subprocess.run(
            command(package, "--allow", "GP164"), env=env, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    files = hub.repositories["anna/fox-GGUF"].files
    for gguf in built.package.files:
        assert hashlib.sha256(files[gguf.path.name]).hexdigest() == gguf.sha256
    bridge = {"template": files["template"].decode(), "parameters": json.loads(files["params"])}
    for path in built.package.modelfiles.values():
        request = replace(parse(path.read_bytes().decode()), license=()).to_create_request()
        assert bridge == request
    assert "<|im_start|>" in bridge["template"]
    assert "system" not in files
    card = files["README.md"].decode()
    assert "**Not verified.**" in card
    assert str(tmp_path) not in card
    assert str(tiny_checkpoint("llama")) not in card


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_killed_upload_goes_on_where_it_was(tmp_path: Path, number: signal.Signals) -> None:
    made = make_package(tmp_path / "p")
    first, second = (file["sha256"] for file in made["result"]["files"])
    with running_hub() as hub:
        env = environment(hub, tmp_path)
        hub.stall = {second}
        killed = subprocess.Popen(
            command(tmp_path / "p"), env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert hub.stalled.wait(60)
        killed.send_signal(number)
        stdout, _stderr = killed.communicate(timeout=60)
        assert killed.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
        assert json.loads(stdout)["error"]["exit_code"] == killed.returncode
        assert set(hub.repositories["anna/fox-GGUF"].files) == {".gitattributes"}

        subprocess.run(command(tmp_path / "p"), env=env, check=True, capture_output=True)
    assert [oid for oid, _size in hub.received] == [first, second, second]
    assert {first, second} == set(hub.objects)
    assert hub.repositories["anna/fox-GGUF"].messages == ["initial commit", "Upload smollm2-demo"]


@pytest.mark.skipif(find_spec("hf_xet") is None, reason="huggingface_hub brings no hf_xet on this machine")
def test_xet_storage_gets_each_file_once(tmp_path: Path) -> None:
    """The Hub's default way for large files, through the real client of it, into a local storage."""
    made = make_package(tmp_path / "p")

    def stored() -> dict[str, int]:
        found = tmp_path.glob("xet/xet/xorbs/xorbs/default.*")
        return {path.name: path.stat().st_size for path in found if path.suffix != ".tagset"}

    with running_hub() as hub:
        hub.xet = tmp_path / "xet"
        hub.xet.mkdir()
        env = environment(hub, tmp_path)
        hub.refusals = [("/commit/", 503, "later")]
        failed = subprocess.run(command(tmp_path / "p"), env=env, capture_output=True, text=True, check=False)
        assert failed.returncode == 6, failed.stdout
        assert "The Hub failed (503) (later)" in json.loads(failed.stdout)["error"]["problem"]
        before = stored()
        assert 400_000 <= sum(before.values()) < 410_000
        hub.refusals = []
        subprocess.run(command(tmp_path / "p"), env=env, check=True, capture_output=True)
    assert stored() == before
    files = hub.repositories["anna/fox-GGUF"].files
    for file in made["result"]["files"]:
        assert files[file["path"]] == f"Xet {file['sha256']}".encode()
    assert not hub.received  # nothing came by Git LFS
