"""What all commands share: how errors end a command, and options that several have."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn, TypeVar

import click

from ggufpack.cli.terminal import echo
from ggufpack.errors import INTERRUPTED_EXIT_CODE, ConversionError, GgufpackError, UsageError, WorkerError

F = TypeVar("F", bound=Callable[..., Any])
_ENDING = {signal.SIGTERM: "Terminated.", signal.SIGHUP: "The terminal was closed."}
#: exit code of a command that a signal ended, and what it says
ENDED_BY_SIGNAL = {128 + number: sentence for number, sentence in _ENDING.items()}
#: exit codes of the signals that ended this process's command
_arrived: list[int] = []

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
quiet_option = click.option("--quiet", is_flag=True, help="No progress, only findings and the result.")


class ReportingCommand(click.Command):
    """A command whose errors become a sentence (or a JSON object) and an exit code."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse; words that click refuses are an object on stdout too when ``--json`` is among them."""
        as_json = "--json" in args
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            if as_json:
                echo(json.dumps({"error": UsageError(error.format_message()).to_json()}))
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors of ours, Ctrl-C and bugs each end it in their own way."""
        as_json = bool(ctx.params.get("as_json"))
        try:
            with _unwinding():
                return super().invoke(ctx)
        except GgufpackError as error:
            report_error(error, as_json=as_json)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            _print_failure("Interrupted.", INTERRUPTED_EXIT_CODE, as_json=as_json)
            ctx.exit(INTERRUPTED_EXIT_CODE)
        except SystemExit as error:
            code = signal_behind(error)
            if code is None:
                raise
            _print_failure(ENDED_BY_SIGNAL[code], code, as_json=as_json)
            ctx.exit(code)
        except (click.exceptions.Exit, click.ClickException):
            raise
        except Exception as error:  # noqa: BLE001 - a bug ends the command with its traceback
            echo(traceback.format_exc(), err=True)
            _print_failure(f"Unexpected {type(error).__name__}: {error}", 1, as_json=as_json)
            ctx.exit(1)


class ReportingGroup(click.Group):
    """A group of reporting commands."""

    command_class = ReportingCommand


def report_error(error: GgufpackError, *, as_json: bool) -> None:
    """One sentence and what to do, on stderr; with ``--json`` one object on stdout."""
    # only these two send the reader to the log; the others name the cause themselves
    if error.log and type(error) in (ConversionError, WorkerError):
        echo(error.log, err=True)
    if as_json:
        echo(json.dumps({"error": error.to_json()}))
        return
    echo(error.problem, err=True, lead=click.style("Error: ", fg="red", bold=True))
    if error.action:
        echo(f"  {error.action}", err=True)


def _print_failure(sentence: str, exit_code: int, *, as_json: bool) -> None:
    if as_json:
        echo(json.dumps({"error": {"problem": sentence, "exit_code": exit_code}}))
    echo(sentence, err=True)


def signal_behind(error: SystemExit) -> int | None:
    """Exit code for the signal that ``error`` comes from; not always its own code: Ray's calls make it 1."""
    code = _arrived[0] if _arrived else error.code
    return code if isinstance(code, int) and code in ENDED_BY_SIGNAL else None


@contextlib.contextmanager
def _unwinding() -> Iterator[None]:
    """These signals unwind the stack like Ctrl-C, so that temporary files and models go."""
    # nohup ignores SIGHUP, and so does what it starts
    numbers = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, _end)
    _arrived.clear()
    try:
        yield
    finally:
        if not _arrived:
            for number in numbers:
                signal.signal(number, signal.SIG_DFL)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # once is enough
    _arrived.append(128 + number)
    sys.exit(128 + number)
