"""Every command that the README shows is run, and its output is what the README shows.

``…`` stands for what differs from run to run. The commands run in one folder, in their order, with the
demo's checkpoint as ``checkpoint`` and a real Ollama.
"""

from __future__ import annotations

import doctest
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ggufpack.cli.main import main
from ggufpack.registry import OllamaServer
from tests.support.lora import train_adapter
from tests.support.ollama_server import RunningOllama

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _blocks(language: str) -> list[str]:
    return [text for found, text in _BLOCK.findall(README) if found == language]


def _commands() -> list[tuple[str, str]]:
    """(command, shown output) of every console block."""
    found = []
    for block in _blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def test_the_tour(smollm2: Path, ollama_server: RunningOllama, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").symlink_to(smollm2)
    (tmp_path / "empty-folder").mkdir()
    train_adapter(smollm2, tmp_path / "adapter", steps=1)
    for step in (100, 200):
        shutil.copytree(smollm2, tmp_path / "run" / f"checkpoint-{step}")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": path, "OLLAMA_HOST": ollama_server.host, "LC_ALL": "C.UTF-8"}
    checker = doctest.OutputChecker()
    commands = _commands()
    assert len(commands) >= 5
    for command, shown in commands:
        done = subprocess.run(
            ["/bin/sh", "-c", f"{command} 2>&1"],
            cwd=tmp_path,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        wanted = shown.replace("…", "...")
        assert checker.check_output(wanted, done.stdout, doctest.ELLIPSIS), f"{command}\n{done.stdout}"
        fails = shown.startswith("Error") or "\nerrors:\n" in shown
        assert (done.returncode != 0) == fails, command
    (example,) = _blocks("python")
    subprocess.run([sys.executable, "-c", example], cwd=tmp_path, env=env, check=True)
    server = OllamaServer(ollama_server.host)
    for name in server.names():
        if name.startswith(("smollm2", "run-")):
            server.delete(name)
    server.close()


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_command_is_listed(command: str) -> None:
    assert f"`ggufpack {command}" in README


def test_two_commands_are_make_targets() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (shell,) = _blocks("sh")
    targets = re.findall(r"^make (\w+)", shell, re.MULTILINE)
    assert targets == ["demo", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
