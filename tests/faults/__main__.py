"""``python -m tests.faults [CLASS…] [--tries N] [--seed S] [--json]``: the table. Exit 1: not all 0."""

from __future__ import annotations

import json
import random
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click

from tests.faults.classes import CLASSES, Bench
from tests.faults.row import HEADINGS, Row, heading


@click.command()
@click.argument("names", nargs=-1, metavar="[CLASS…]", type=click.Choice(sorted(CLASSES)))
@click.option("--tries", type=int, help="Of each class.  [default: its own number]")
@click.option("--seed", default=0, show_default=True, help="Of the random moments.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a row.")
def main(names: tuple[str, ...], tries: int | None, seed: int, as_json: bool) -> None:
    """Break real builds in many ways, and count what is wrong afterwards."""
    bad = False
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # either ends a class with what it has
    if not as_json:
        click.echo(heading())
    for name in names or tuple(CLASSES):
        one = CLASSES[name]
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ggufpack-faults-")))
            row = Row(name)
            try:
                bench = Bench(row, scratch.resolve(), stack, random.Random(seed))
                one.run(bench, one.tries if tries is None else tries)
            except KeyboardInterrupt:
                row.note = f"{row.note} interrupted".strip()
                row.end()
        bad = bad or row.bad
        click.echo(json.dumps(row.to_json()) if as_json else row.to_text())
        if not as_json:
            for kind, found in row.problems.items():
                for problem in found:
                    click.echo(f"  {HEADINGS[kind]}, {problem}", err=True)
    sys.exit(bad)


if __name__ == "__main__":
    main()
