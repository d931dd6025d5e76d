"""``ggufpack vendor``: the vendored converter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ggufpack.cli.common import ReportingGroup, json_option
from ggufpack.cli.terminal import echo

if TYPE_CHECKING:
    from ggufpack.spec import Event
    from ggufpack.vendoring import VendorStatus


@click.group(cls=ReportingGroup)
def vendor() -> None:
    """The vendored llama.cpp converter: fetch it, check it."""


@vendor.command()
@click.option(
    "--from",
    "source",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Take the sdist from FILE instead of the package index.",
)
@click.option("--force", is_flag=True, help="Replace a converter in which files were changed.")
@json_option
def sync(source: Path | None, force: bool, as_json: bool) -> None:
    """Fetch the locked converter, verify it and put it in its place."""
    from ggufpack import vendoring

    _print_status(vendoring.sync(source, force=force, on_event=_say), as_json)


@vendor.command()
@json_option
def status(as_json: bool) -> None:
    """Say whether the converter is the locked one. Exit code 4 when it is not."""
    from ggufpack import vendoring
    from ggufpack.errors import VendorError

    found = vendoring.status()
    _print_status(found, as_json)
    if found.state != "ok":
        raise click.exceptions.Exit(VendorError.exit_code)


@vendor.command()
@click.argument("version")
@click.option("--build", default="", metavar="bNNNN", help="llama.cpp's build number, for people.")
@json_option
def update(version: str, build: str, as_json: bool) -> None:
    """Write the lock for another VERSION of the package (maintainers, in a checkout)."""
    from ggufpack import vendoring

    done = vendoring.update(version, build, on_event=_say)
    if as_json:
        echo(json.dumps(done.to_json()))
        return
    echo(f"{done.after.package.name} {done.before.package.version} -> {done.after.package.version}")
    echo(f"tree {done.before.tree_sha256} -> {done.after.tree_sha256}")
    for title, paths in (("added", done.added), ("removed", done.removed), ("changed", done.changed)):
        for path in paths:
            echo(f"{title} {path}")


def _say(event: Event) -> None:
    from ggufpack.spec import Note

    if isinstance(event, Note):
        echo(event.message, err=True)


def _print_status(found: VendorStatus, as_json: bool) -> None:
    if as_json:
        echo(json.dumps(found.to_json()))
        return
    echo(f"{found.state}: {found.package} {found.version} (llama.cpp {found.build or found.commit})")
    echo(f"folder: {found.folder}")
    for title, paths in (("changed", found.changed), ("missing", found.missing), ("extra", found.extra)):
        for path in paths:
            echo(f"{title}: {path}")
