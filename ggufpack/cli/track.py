"""``ggufpack track``: a package as a run in an experiment tracker."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ggufpack.cli.common import ReportingCommand, json_option
from ggufpack.cli.terminal import echo


@click.command(cls=ReportingCommand)
@click.argument("folder", metavar="PACKAGE", type=click.Path(path_type=Path))
@click.option("--to", "tracker", required=True, type=click.Choice(["swanlab", "wandb"]), help="The tracker.")
@click.option("--project", default="ggufpack", show_default=True, metavar="NAME", help="Its project.")
@click.option(
    "--offline",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Send nothing: leave the run in DIR, for the tracker's own `sync`.",
)
@json_option
def track(folder: Path, tracker: str, project: str, offline: Path | None, as_json: bool) -> None:
    """Record the figures and the report of PACKAGE as a run.

    PACKAGE is a package folder, as `ggufpack build` makes it. Its GGUFs are not read, and not sent.
    """
    from ggufpack.publishing.run import read_run
    from ggufpack.publishing.trackers import track as record

    run = read_run(folder)
    place = record(run, tracker, project, offline)
    if as_json:
        found = {
            "tracker": tracker,
            "project": project,
            "name": run.name,
            "folder": None if place is None else str(place),
            "figures": dict(run.figures),
            "report": run.report is not None,
        }
        echo(json.dumps(found))
    else:
        echo(f"{tracker}: {project}/{run.name}" if place is None else place)
