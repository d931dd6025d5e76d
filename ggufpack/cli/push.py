"""``ggufpack push``: a model of the Ollama server to a registry."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from ggufpack.cli.common import ReportingCommand, json_option, quiet_option
from ggufpack.cli.terminal import echo

if TYPE_CHECKING:
    from ggufpack.transfer import TransferResult

host_option = click.option("--host", metavar="URL", help="Ollama server.  [default: OLLAMA_HOST]")
insecure_option = click.option("--insecure", is_flag=True, help="The registry speaks http.")


@click.command(cls=ReportingCommand)
@click.argument("model")
@click.option(
    "--to",
    metavar="[REGISTRY/]NAMESPACE/MODEL[:TAG]",
    help="Its name in the registry.  [default: MODEL]",
)
@host_option
@insecure_option
@json_option
@quiet_option
def push(as_json: bool, quiet: bool, **values: Any) -> None:
    """Push MODEL to a registry, and compare what the registry then serves.

    MODEL is the name of a model on the Ollama server, or the package folder it was registered from.
    """
    from ggufpack.cli.progress import progress_view
    from ggufpack.transfer import push as run

    with progress_view(quiet=quiet) as view:
        result = run(on_event=view, **values)
    if not print_transfer(result, as_json=as_json):
        echo(f"Pull it: ggufpack pull {result.remote}{_expect(result)}")


def print_transfer(result: TransferResult, *, as_json: bool) -> bool:
    """The result on stdout; says whether it was printed as JSON."""
    if as_json:
        echo(json.dumps(result.to_json()))
        return True
    size = sum(result.layers.values()) / 1e6
    echo(
        f"{result.direction}ed {result.remote}: {len(result.layers)} blobs, {size:.1f} MB,"
        f" {result.seconds:.1f} s"
    )
    if result.gguf is not None:
        echo(f"  GGUF      sha256:{result.gguf}")
    if result.manifest is not None:
        echo(f"  manifest  sha256:{result.manifest} (read from the registry: the same blobs)")
    return False


def _expect(result: TransferResult) -> str:
    digest = result.manifest or result.gguf
    return "" if digest is None else f" --expect sha256:{digest}"
