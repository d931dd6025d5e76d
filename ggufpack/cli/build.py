"""``ggufpack build``: everything; the main job."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from ggufpack.cli.common import ReportingCommand, json_option, quiet_option, report_error
from ggufpack.cli.options import build_options, make_spec
from ggufpack.cli.proof import proof
from ggufpack.cli.terminal import echo

if TYPE_CHECKING:
    from ggufpack.spec import BuildResult, BuildSpec


@click.command(cls=ReportingCommand)
@build_options
@json_option
@quiet_option
def build(as_json: bool, quiet: bool, **values: Any) -> None:
    """Make an Ollama model of CHECKPOINT, and prove that it is the trained one."""
    run_build(make_spec(**values), as_json=as_json, quiet=quiet)


def run_build(spec: BuildSpec, *, as_json: bool, quiet: bool) -> None:
    """Build with progress on stderr and the result on stdout."""
    from ggufpack.cli.progress import progress_view
    from ggufpack.errors import VerificationError
    from ggufpack.pipeline import run

    try:
        with progress_view(quiet=quiet) as view:
            result = run(spec, view)
    except VerificationError as error:
        if error.result is None:
            raise
        _print_result(error.result, as_json=as_json, error=error)
        raise click.exceptions.Exit(error.exit_code) from None
    _print_result(result, as_json=as_json)


def _print_result(result: BuildResult, *, as_json: bool, error: Any = None) -> None:
    if as_json:
        echo(json.dumps({**result.to_json(), **({"error": error.to_json()} if error else {})}))
        return
    if error is not None:
        report_error(error, as_json=False)
    echo(f"{result.status}: {result.package.folder}")
    tower = result.package.projector
    for file in (*result.package.files, *([] if tower is None else [tower])):
        echo(f"  {file.path.name}  {file.size / 1e6:.1f} MB  sha256 {file.sha256[:12]}…")
    for verification in result.verifications:
        echo(f"  {proof(verification)}")
    for name in result.registered:
        echo(f"  registered {name}")
    for name in result.stored:
        echo(f"  stored {name}")
    latest = next((name for name in result.registered if name.endswith(":latest")), None)
    if latest is not None:
        echo(f"Run it: ollama run {latest.removesuffix(':latest')}")
