"""Texts of checkpoints and servers on a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from ggufpack.cli.main import main
from ggufpack.cli.terminal import printable, stderr_console
from tests.unit.checkpoint.builders import make_checkpoint

ESCAPES = "\x1b]0;evil\x07\x1b[31m\x9b2J\u202e\x7f"


def test_what_is_shown_of_a_control() -> None:
    assert printable("\x1b[31m\r\x9b") == "<U+001B>[31m<U+000D><U+009B>"
    assert printable("\u202e\ud800") == "<U+202E><U+D800>"
    honest = "größer\n\t日本 👩‍🚀 </s>"
    assert printable(honest) == honest


def test_rich_prints_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    stderr_console().print(f"a{ESCAPES}b", markup=False)
    assert capsys.readouterr().err == f"a{printable(ESCAPES)}b\n"


@pytest.mark.parametrize("command", [["doctor"], ["doctor", "--json"], ["template"], ["template", "--json"]])
@pytest.mark.parametrize("where", ["architecture", "key", "template", "raised", "file"])
def test_no_escape_reaches_the_terminal(tmp_path: Path, command: list[str], where: str) -> None:
    folder = make_checkpoint(
        tmp_path / "model", config={"architectures": [ESCAPES]} if where[0] == "a" else {}
    )
    if where == "key":
        (folder / "config.json").write_text(f'{{"{ESCAPES[-1]}": 1, "{ESCAPES[-1]}": 2}}')
    elif where == "file":
        (folder / f"model-{ESCAPES[:-4]}.safetensors").write_bytes(b"x")
    elif where in ("template", "raised"):
        text = f"{{{{ raise_exception('{ESCAPES}') }}}}" if where == "raised" else f"{{% {ESCAPES} %}}"
        (folder / "chat_template.jinja").write_text(text)
    done = CliRunner().invoke(main, [*command, str(folder)])
    assert done.exit_code in (0, 3, 5)
    assert not [c for c in done.stdout + done.stderr if c in ESCAPES and not c.isprintable()]
