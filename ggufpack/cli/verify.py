"""``ggufpack verify``: proof for what is there already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ggufpack.cli.common import ReportingCommand, json_option, quiet_option, report_error
from ggufpack.cli.options import ADAPTER_OPTIONS, FIDELITY_OPTIONS, with_options
from ggufpack.cli.proof import proof
from ggufpack.cli.terminal import echo

if TYPE_CHECKING:
    from ggufpack.recheck import VerifyResult

_OPTION = {"served": "--model", "key_variable": "--api-key-env", "system": "--system"}


@click.command(cls=ReportingCommand)
@click.argument("words", nargs=-1, required=True, metavar="[MODEL] CHECKPOINT")
@click.option("--endpoint", metavar="URL", help="Server with OpenAI's API: http://127.0.0.1:8000/v1.")
@click.option("--model", "served", metavar="NAME", help="The model that --endpoint serves.")
@click.option(
    "--api-key-env",
    "key_variable",
    metavar="VARIABLE",
    help="Environment variable with the API key of --endpoint.  [default: OPENAI_API_KEY]",
)
@click.option("--system", metavar="TEXT", help="SYSTEM text that the model of --endpoint was given.")
@click.option(
    "--level",
    type=click.Choice(["prompts", "smoke", "fidelity"]),
    default="fidelity",
    show_default=True,
    help="How much to prove, as --verify of `build`.",
)
@with_options(ADAPTER_OPTIONS)
@with_options(FIDELITY_OPTIONS)
@click.option(
    "--gguf",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The file of a registered MODEL, where the server's own cannot be read.",
)
@click.option(
    "--template", default="auto", show_default=True, metavar="auto|native|NAME|FILE", help="As for `build`."
)
@click.option("--host", metavar="URL", help="Ollama server.  [default: OLLAMA_HOST]")
@click.option("--allow", multiple=True, metavar="ID", help="Accept a finding on the checkpoint.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads of both engines.")
@click.option("--trust-remote-code", is_flag=True, help="Run Python code that the checkpoint brings along.")
@json_option
@quiet_option
def verify(
    as_json: bool,
    quiet: bool,
    words: tuple[str, ...],
    allow: tuple[str, ...],
    adapters: tuple[str, ...],
    **values: Any,
) -> None:
    """Prove that MODEL is what was trained: CHECKPOINT. Changes nothing.

    MODEL is a GGUF file, a package folder, or the name of a model on the Ollama server.

    With --endpoint and --model it is what a server with OpenAI's API serves: vLLM, Ollama, llama.cpp. A MODEL
    beside it, a name on the Ollama server, answers the same questions.
    """
    from ggufpack.checkpoint.adapter_sources import parse_adapter
    from ggufpack.cli.progress import progress_view

    with progress_view(quiet=quiet) as view:
        result = _run(
            words,
            allow=tuple(word.upper() for word in allow),
            adapters=tuple(map(parse_adapter, adapters)),
            on_event=view,
            **values,
        )
    error = result.error()
    if as_json:
        echo(json.dumps({**result.to_json(), **({"error": error.to_json()} if error else {})}))
    else:
        if error is not None:
            report_error(error, as_json=False)
        for verification in result.verifications:
            echo(f"{'passed' if verification.passed else 'failed'}: {proof(verification)}")
    if error is not None:
        raise click.exceptions.Exit(error.exit_code)


def _run(words: tuple[str, ...], **values: Any) -> VerifyResult:
    """``recheck.verify``, or with an endpoint ``served.verify_endpoint``."""
    from ggufpack import recheck, served
    from ggufpack.errors import UsageError

    *model, checkpoint = words
    of_endpoint = {name: values.pop(name) for name in ("endpoint", "served", "key_variable", "system")}
    if of_endpoint["endpoint"] is None:
        if unused := next((name for name, value in of_endpoint.items() if value is not None), None):
            raise UsageError(f"{_OPTION[unused]} needs --endpoint.")
        if len(model) != 1:
            raise UsageError("Give MODEL and CHECKPOINT, or CHECKPOINT with --endpoint and --model.")
        return recheck.verify(model[0], checkpoint, **values)
    if of_endpoint["served"] is None or len(model) > 1:
        raise UsageError("--endpoint needs --model NAME, and CHECKPOINT.")
    for name in ("gguf", "calibration"):
        if values.pop(name) is not None:
            raise UsageError(f"--{name} is of no use with --endpoint.")
    given = {name: value for name, value in of_endpoint.items() if value is not None}
    return served.verify_endpoint(checkpoint, against=model[0] if model else None, **given, **values)
