"""The table: ``python -m tests.reproducible [--model NAME]``. One build for each line; 1 when any differs."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import click

from tests.reproducible.variations import ALONE, PLAIN, QUANTIZATIONS, TOGETHER, build, contents
from tests.support.checkpoints import tiny_checkpoint


def main() -> int:
    """Build and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="llama-spm", help="of tests.support.checkpoints")
    checkpoint = tiny_checkpoint(parser.parse_args().model)
    failed = False
    with tempfile.TemporaryDirectory(prefix="ggufpack-reproducible-") as scratch:
        expected = contents(build(checkpoint, Path(scratch) / "plain", PLAIN, QUANTIZATIONS))
        click.echo(f"{'variation':28}{'files':>6}  differing")
        for number, (name, variation) in enumerate({**ALONE, "all at once": TOGETHER}.items()):
            found = contents(build(checkpoint, Path(scratch) / str(number), variation, QUANTIZATIONS))
            names = sorted(expected.keys() | found.keys())
            differing = [file for file in names if expected.get(file) != found.get(file)]
            failed = failed or bool(differing)
            click.echo(f"{name:28}{len(found):6}  {', '.join(differing) or 'none'}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
