"""``ggufpack report``: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ggufpack.cli.main import main
from ggufpack.report.page import render_markdown, render_report
from tests.support.records import record


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "ggufpack.json").write_text(json.dumps(record(("Q8_0", "Q2_K"))))
    return tmp_path


def test_the_page_again(package: Path) -> None:
    done = CliRunner().invoke(main, ["report", str(package)])
    assert (done.exit_code, done.stdout) == (0, f"{package}/report.html\n")
    assert (package / "report.html").read_text(encoding="utf-8") == render_report(record(("Q8_0", "Q2_K")))


def test_json(package: Path) -> None:
    done = CliRunner().invoke(main, ["report", str(package), "--json"])
    assert json.loads(done.stdout) == {"status": "verified", "report": f"{package}/report.html"}


def test_markdown_to_stdout_writes_nothing(package: Path) -> None:
    text = render_markdown(record(("Q8_0", "Q2_K")))
    done = CliRunner().invoke(main, ["report", str(package), "--markdown"])
    assert (done.exit_code, done.stdout) == (0, text)
    as_json = CliRunner().invoke(main, ["report", str(package), "--markdown", "--json"])
    assert json.loads(as_json.stdout) == {"status": "verified", "markdown": text}
    assert [path.name for path in package.iterdir()] == ["ggufpack.json"]


def test_markdown_to_a_file(package: Path) -> None:
    done = CliRunner().invoke(main, ["report", str(package), "--markdown", str(package / "card.md")])
    assert done.stdout == f"{package}/card.md\n"
    assert (package / "card.md").read_text(encoding="utf-8") == render_markdown(record(("Q8_0", "Q2_K")))
    assert not (package / "report.html").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "holds no ggufpack.json"),
        ("{", "is not valid JSON: line 1"),
        ('{"schema": 9}', "has schema 9; this ggufpack reads schema 1"),
        ('{"schema": 1}', "is no record of ggufpack: ggufpack: is missing"),
    ],
)
def test_refusals_are_one_sentence_and_2(tmp_path: Path, content: str | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "ggufpack.json").write_text(content)
    done = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert done.exit_code == 2
    assert sentence in done.stderr.splitlines()[0]
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.splitlines()) == 2
    assert done.stdout == ""
    as_json = CliRunner().invoke(main, ["report", str(tmp_path), "--json"])
    assert json.loads(as_json.stdout)["error"]["exit_code"] == 2


def test_a_folder_that_cannot_be_written(package: Path) -> None:
    done = CliRunner().invoke(main, ["report", str(package), "--markdown", str(package / "none" / "card.md")])
    assert done.exit_code == 2
    assert "card.md cannot be written: No such file or directory." in done.stderr
