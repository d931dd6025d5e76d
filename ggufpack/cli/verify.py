"""``ggufpack verify``: proof for what is there already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ggufpack.cli.common import ReportingCommand, json_option, quiet_option, report_error
from ggufpack.cli.options import ADAPTER_OPTIONS, FIDELITY_OPTIONS, with_options
from ggufpack.cli.proof import proof


@click.command(cls=ReportingCommand)
@click.argument("model")
@click.argument("checkpoint", type=click.Path(path_type=Path))
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
    as_json: bool, quiet: bool, allow: tuple[str, ...], adapters: tuple[str, ...], **values: Any
) -> None:
    """Prove that MODEL is what was trained: CHECKPOINT. Changes nothing.

    MODEL is a GGUF file, a package folder, or the name of a model on the Ollama server.
    """
    from ggufpack.checkpoint.adapter_sources import parse_adapter
    from ggufpack.cli.progress import progress_view
    from ggufpack.recheck import verify as run

    with progress_view(quiet=quiet) as view:
        result = run(
            allow=tuple(word.upper() for word in allow),
            adapters=tuple(map(parse_adapter, adapters)),
            on_event=view,
            **values,
        )
    error = result.error()
    if as_json:
        click.echo(json.dumps({**result.to_json(), **({"error": error.to_json()} if error else {})}))
    else:
        if error is not None:
            report_error(error, as_json=False)
        for verification in result.verifications:
            click.echo(f"{'passed' if verification.passed else 'failed'}: {proof(verification)}")
    if error is not None:
        raise click.exceptions.Exit(error.exit_code)
