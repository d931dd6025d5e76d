"""``ggufpack pull``: a model from a registry into the Ollama server."""

from __future__ import annotations

from typing import Any

import click

from ggufpack.cli.common import ReportingCommand, json_option, quiet_option
from ggufpack.cli.push import host_option, insecure_option, print_transfer
from ggufpack.cli.terminal import echo


@click.command(cls=ReportingCommand)
@click.argument("name")
@click.option("--as", "save_as", metavar="MODEL[:TAG]", help="Its name on the server.  [default: NAME]")
@click.option(
    "--expect",
    metavar="sha256:HEX|PACKAGE",
    help="Digest of the GGUF or of the manifest, or the package folder it was built as; anything else is"
    " taken off the server again.",
)
@host_option
@insecure_option
@json_option
@quiet_option
def pull(as_json: bool, quiet: bool, **values: Any) -> None:
    """Pull NAME from a registry: [REGISTRY/]NAMESPACE/MODEL[:TAG]."""
    from ggufpack.cli.progress import progress_view
    from ggufpack.transfer import pull as run

    with progress_view(quiet=quiet) as view:
        result = run(on_event=view, **values)
    if not print_transfer(result, as_json=as_json):
        echo(f"Run it: ollama run {result.local.removesuffix(':latest')}")
