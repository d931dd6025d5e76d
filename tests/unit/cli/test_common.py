"""How errors end a command."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ggufpack import errors
from ggufpack.cli.common import ReportingCommand, json_option
from ggufpack.cli.main import main
from ggufpack.errors import GgufpackError

CLASSES = [
    found for found in vars(errors).values() if isinstance(found, type) and issubclass(found, GgufpackError)
]


def _command(work: Callable[[], None]) -> click.Command:
    @click.command(cls=ReportingCommand)
    @json_option
    def command(as_json: bool) -> None:
        work()

    return command


def _raising(error: BaseException) -> click.Command:
    def work() -> None:
        raise error

    return _command(work)


@pytest.mark.parametrize("kind", CLASSES)
def test_a_sentence_and_an_exit_code(kind: type[GgufpackError]) -> None:
    error = kind("config.json is wrong.", action="Mend it.", path=Path("config.json"), key="a")
    done = CliRunner().invoke(_raising(error), [])
    assert done.exit_code == kind.exit_code
    assert done.stdout == ""
    assert done.stderr == "Error: config.json is wrong.\n  Mend it.\n"
    as_json = CliRunner().invoke(_raising(error), ["--json"])
    assert as_json.exit_code == kind.exit_code
    assert json.loads(as_json.stdout)["error"] == error.to_json()


def test_the_log_is_shown_where_the_error_points_to_it() -> None:
    error = errors.WorkerError("It died.")
    error.log = "Traceback: here"
    assert "Traceback: here" in CliRunner().invoke(_raising(error), []).stderr
    named = errors.TokenizerConversionError("No tokenizer.")
    named.log = "Traceback: here"
    assert "Traceback" not in CliRunner().invoke(_raising(named), []).stderr


def test_ctrl_c_is_130() -> None:
    done = CliRunner().invoke(_raising(KeyboardInterrupt()), ["--json"])
    assert done.exit_code == 130
    assert json.loads(done.stdout)["error"]["exit_code"] == 130


def test_a_bug_is_1_with_its_traceback() -> None:
    done = CliRunner().invoke(_raising(RuntimeError("a bug")), [])
    assert done.exit_code == 1
    assert done.stderr.startswith("Traceback (most recent call last)")
    assert done.stderr.endswith("\nUnexpected RuntimeError: a bug\n")


def test_a_click_error_stays_clicks() -> None:
    assert CliRunner().invoke(_raising(click.UsageError("no")), []).exit_code == 2
    assert CliRunner().invoke(_command(lambda: None), []).exit_code == 0


@pytest.fixture
def _handler() -> Iterator[None]:
    """A command sets this process's handler of SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("_handler")
def test_sigterm_unwinds_and_is_143() -> None:
    unwound: list[bool] = []

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            unwound.append(True)

    done = CliRunner().invoke(_command(work), ["--json"])
    assert unwound == [True]
    assert done.exit_code == 128 + signal.SIGTERM
    assert json.loads(done.stdout)["error"]["exit_code"] == 143
    assert done.stderr == "Terminated.\n"


@pytest.mark.parametrize("words", [["build"], ["build", "x", "--verify", "a"], ["vendor", "status", "--no"]])
def test_an_option_that_click_refuses_is_an_object_too(words: list[str]) -> None:
    done = CliRunner().invoke(main, [*words, "--json"])
    assert done.exit_code == 2
    error = json.loads(done.stdout)["error"]
    assert (error["type"], error["exit_code"]) == ("UsageError", 2)
    assert error["problem"].rstrip(".") in done.stderr
    assert CliRunner().invoke(main, words).stdout == ""
