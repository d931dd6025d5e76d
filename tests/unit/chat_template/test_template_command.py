"""``ggufpack template``, with an engine whose answers are known."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import ggufpack.chat_template.learned as learned_module
from ggufpack.chat_template import named
from ggufpack.chat_template.heldout import CAPABILITIES
from ggufpack.cli.main import main
from tests.support.go_chatml import go_chatml
from tests.unit.chat_template.test_go_strategy import Chatml
from tests.unit.checkpoint.builders import make_checkpoint

CHATML = named.load("chatml").text
TRIMS = CHATML.replace("message['content']", "message['content'] | trim")


@pytest.fixture(autouse=True)
def _engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned_module, "LearnedEngine", Chatml)


def run(tmp_path: Path, text: str, *options: str) -> Result:
    path = tmp_path / "chat_template.jinja"
    path.write_text(text, encoding="utf-8")
    return CliRunner().invoke(main, ["template", str(path), "--bos", "<s>", "--eos", "<|im_end|>", *options])


def as_json(done: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout)
    assert set(found) == {"template", "strategy", "stop", "capabilities", "refused", "parity"}
    assert set(found["parity"]) == set(CAPABILITIES)
    for row in found["parity"].values():
        assert set(row) == {"cases", "exact", "semantic", "refused"}
        assert row["cases"] == row["exact"] + row["semantic"] + row["refused"]
    assert all(set(one) == {"shape", "reason"} for one in found["refused"])
    return found


def test_json(tmp_path: Path) -> None:
    done = run(tmp_path, CHATML, "--json")
    found = as_json(done)
    assert done.exit_code == 0
    assert (found["template"], found["strategy"]) == (go_chatml(None), "go")
    assert (found["stop"], found["refused"]) == (["<|im_end|>"], [])
    assert {"chat", "system", "prefill"} <= set(found["capabilities"])


def test_the_text_alone_is_on_stdout(tmp_path: Path) -> None:
    done = run(tmp_path, CHATML)
    assert done.stdout == go_chatml(None) + "\n"
    assert "strategy: go" in done.stderr
    assert "chat" in done.stderr


@pytest.mark.parametrize(
    ("text", "options", "strategy"),
    [
        (TRIMS, [], "native"),
        (TRIMS, ["--target", "go"], "go"),
        (CHATML, ["--target", "native"], "native"),
        ("{# ignored #}" + CHATML, [], "native"),  # Ollama would not run the TEMPLATE
        ("other " + CHATML, [], "native"),
    ],
)
def test_strategies(tmp_path: Path, text: str, options: list[str], strategy: str) -> None:
    done = run(tmp_path, text, "--json", *options)
    found = as_json(done)
    assert (done.exit_code, found["strategy"]) == (0, strategy)
    assert (found["template"] is None) == (strategy == "native")


@pytest.mark.parametrize(
    ("text", "options"), [("other " + CHATML, ["--target", "go"]), ("{{ raise_exception('never') }}", [])]
)
def test_refused_as_a_whole(tmp_path: Path, text: str, options: list[str]) -> None:
    done = run(tmp_path, text, "--json", *options)
    found = as_json(done)
    assert (done.exit_code, found["strategy"], found["template"]) == (5, "refused", None)
    assert found["capabilities"] == []
    assert run(tmp_path, text, *options).stdout == ""


def test_what_ollama_does_not_hand_to_a_jinja(tmp_path: Path) -> None:
    text = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n{% if thinking %}<think>{% endif %}"
    )
    found = as_json(run(tmp_path, text, "--json", "--target", "native"))
    assert {one["shape"] for one in found["refused"]} == {
        "thinking:history",
        "thinking:true",
        "thinking:false",
        "prefill",
    }
    assert "thinking" not in found["capabilities"]


def test_a_broken_template_ends_with_its_line(tmp_path: Path) -> None:
    done = run(tmp_path, "{% if %}", "--json")
    assert done.exit_code == 5
    assert "line 1" in json.loads(done.stdout)["error"]["problem"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["template", str(tmp_path / "none.jinja")]).exit_code == 2


@pytest.mark.parametrize("command", ["template", "plan"])
@pytest.mark.parametrize("kind", ["pipe", "device", "large", "no text"])
def test_what_is_no_template_file(tmp_path: Path, command: str, kind: str) -> None:
    """A pipe would be waited for, a device read for ever."""
    path = tmp_path / "evil.jinja"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(b"\xff" if kind == "no text" else b" " * ((1 << 20) + 1))
    said = {"large": "more than the 1,048,576", "no text": "not UTF-8"}.get(kind, "not a regular file")
    words = [str(path)]
    if command == "plan":
        words = [str(make_checkpoint(tmp_path / "model")), "--no-register", "--template", str(path)]
    done = CliRunner().invoke(main, [command, *words])
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"{path} " in done.stderr
    assert said in done.stderr
