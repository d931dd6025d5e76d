"""``ggufpack sbom``: what took part in a conversion, for programs that check that."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ggufpack.cli.common import ReportingCommand


@click.command(cls=ReportingCommand)
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), required=False)
def sbom(folder: Path | None) -> None:
    """Print a CycloneDX 1.6 document (JSON) of the package in DIR, or of this installation.

    It lists ggufpack, the vendored converter with the SHA-256 of each file, and the Python distributions
    that convert. Of a package the versions are those of its record.
    """
    from ggufpack import vendoring
    from ggufpack.report.reading import read_record, typed
    from ggufpack.report.sbom import sbom_of_installation, sbom_of_package

    status = vendoring.status()
    if folder is None:
        document = sbom_of_installation(status.to_json(), vendoring.files_of(status))
    else:
        record = read_record(folder)
        typed(record, folder)  # refuses one that is damaged
        same = record["converter"].get("tree_sha256") == status.tree_sha256
        document = sbom_of_package(record, vendoring.files_of(status) if same else {})
    click.echo(json.dumps(document, indent=2))
