"""``ggufpack report``: the report of a package again, from its record."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ggufpack.cli.common import ReportingCommand, json_option
from ggufpack.cli.terminal import echo


@click.command(cls=ReportingCommand)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--markdown",
    type=click.Path(dir_okay=False, path_type=Path, allow_dash=True),
    is_flag=False,
    flag_value="-",
    metavar="[FILE]",
    help="The same, short, as Markdown for a model card: to FILE, or to stdout. The page is left alone.",
)
@json_option
def report(folder: Path, markdown: Path | None, as_json: bool) -> None:
    """Make DIR/report.html again from DIR/ggufpack.json, and print its path.

    DIR is a package folder, as `ggufpack build` makes it. Nothing is verified again.
    """
    from ggufpack.errors import UsageError
    from ggufpack.report.page import REPORT_NAME, render_markdown, render_report
    from ggufpack.report.reading import read_record, typed
    from ggufpack.resources import write_whole

    record = read_record(folder)
    status = typed(record, folder).result.status
    text = render_report(record) if markdown is None else render_markdown(record)
    target = folder / REPORT_NAME if markdown is None else markdown
    to_stdout = str(target) == "-"
    if not to_stdout:
        try:
            write_whole(target, text)
        except OSError as error:
            raise UsageError(
                f"{target} cannot be written: {error.strerror or error}.", path=target
            ) from error
    if as_json:
        found = {
            "status": status,
            "report" if markdown is None else "markdown": text if to_stdout else str(target),
        }
        echo(json.dumps(found))
    elif to_stdout:
        echo(text, nl=False)
    else:
        echo(target)
