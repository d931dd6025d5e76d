"""``ggufpack store``: offline stores, for machines where no server runs or no network is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ggufpack.cli.common import ReportingGroup, json_option, quiet_option
from ggufpack.cli.terminal import echo

if TYPE_CHECKING:
    from ggufpack.spec import EventHandler
    from ggufpack.store.folder import StoreFolder

DAMAGED_EXIT_CODE = 6

store_option = click.option(
    "--store",
    "given",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The store.  [default: OLLAMA_MODELS, else ~/.ollama/models]",
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what is there.")


@click.group(cls=ReportingGroup)
def store() -> None:
    """Models in a folder that `ollama serve` takes as its OLLAMA_MODELS, without a server."""


@store.command()
@click.argument("packages", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PACKAGE…")
@click.option("--name", help="Name in Ollama, for one package.  [default: the package's]")
@store_option
@overwrite_option
@json_option
@quiet_option
def add(
    packages: tuple[Path, ...],
    name: str | None,
    given: Path | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Put package folders into a store, as a server's create would."""
    from ggufpack.errors import UsageError
    from ggufpack.store.package import add_packages, read_package

    if name is not None and len(packages) > 1:
        raise UsageError("--name is for one package.", action="Add the packages one by one.")
    target = _store(given)
    found = [packaged for folder in packages for packaged in read_package(folder, name)]
    with _progress(f"Adding to {target.root}", quiet=quiet) as view:
        stored = add_packages(target, found, overwrite=overwrite, on_event=view)
    if as_json:
        models = {model: each.digest for each in stored for model in each.names}
        _print_json(store=str(target.root), models=models, bytes=sum(each.written for each in stored))
        return
    for each in stored:
        for model in each.names:
            echo(f"{model}  {each.digest[:12]}")
    echo(f"Serve it: OLLAMA_MODELS={target.root.absolute()} ollama serve")


@store.command()
@store_option
@json_option
@quiet_option
def verify(given: Path | None, as_json: bool, quiet: bool) -> None:
    """Read everything in a store and compare it with its digests. Exit code 6 when a model is damaged."""
    from ggufpack.store.check import check_store

    target = _store(given)
    with _progress(f"Reading {target.root}", quiet=quiet) as view:
        checked = check_store(target, view)
    if as_json:
        _print_json(store=str(target.root), **checked.to_json())
    else:
        for model, digest in checked.models.items():
            echo(f"{model}  {digest[:12]}  whole")
        for model, problems in checked.damaged.items():
            echo(f"{model}  DAMAGED: {'; '.join(problems)}")
        for title, names in (("named by no model", checked.orphans), ("unfinished", checked.unfinished)):
            for name in names:
                echo(f"blobs/{name}: {title}")
    if checked.damaged:
        raise click.exceptions.Exit(DAMAGED_EXIT_CODE)


@store.command()
@click.argument("models", nargs=-1, metavar="[MODEL…]")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The archive, a plain tar.",
)
@store_option
@overwrite_option
@json_option
@quiet_option
def export(
    models: tuple[str, ...], output: Path, given: Path | None, overwrite: bool, as_json: bool, quiet: bool
) -> None:
    """Write models of a store (all, when none is named) to one file, for a machine without a network."""
    from ggufpack.store.export import export_models

    target = _store(given)
    with _progress(f"Writing {output}", quiet=quiet) as view:
        done = export_models(target, models, output, overwrite=overwrite, on_event=view)
    if as_json:
        _print_json(archive=str(output), models=done.models, blobs=done.blobs, bytes=done.bytes)
        return
    for model, digest in done.models.items():
        echo(f"{model}  {digest[:12]}")
    echo(f"{output}: {done.blobs} blobs, {done.bytes / 1e6:.1f} MB")


@store.command(name="import")
@click.argument("archive", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
@store_option
@overwrite_option
@json_option
@quiet_option
def import_(archive: Path, given: Path | None, overwrite: bool, as_json: bool, quiet: bool) -> None:
    """Put the models of an exported file into a store; one that broke off goes on when it is run again."""
    from ggufpack.store.unpack import import_archive

    target = _store(given)
    with _progress(f"Importing {archive}", quiet=quiet) as view:
        done = import_archive(archive, target, overwrite=overwrite, on_event=view)
    if as_json:
        _print_json(
            store=str(target.root),
            models=done.models,
            written=done.written,
            kept=done.kept,
            bytes=done.bytes,
        )
        return
    for model, digest in done.models.items():
        echo(f"{model}  {digest[:12]}")
    echo(f"{done.written} blobs written ({done.bytes / 1e6:.1f} MB), {done.kept} were there")


def _store(given: Path | None) -> StoreFolder:
    from ggufpack.store.folder import StoreFolder, default_store

    return StoreFolder(given or default_store())


@contextmanager
def _progress(title: str, *, quiet: bool) -> Iterator[EventHandler]:
    """Bars or lines on stderr, as of a build with this one stage."""
    from ggufpack.cli.progress import progress_view
    from ggufpack.progress import StageLog
    from ggufpack.spec import Stage

    with progress_view(quiet=quiet) as view, StageLog(view).stage(Stage.REGISTRY, title):
        yield view


def _print_json(**values: Any) -> None:
    echo(json.dumps(values))
