"""Builds in threads of one process: ``python threads.py CHECKPOINT OUTPUT NAME…``.

Prints a JSON list: for each name its package folder, or the error's class and sentence.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

import ggufpack


def main(checkpoint: str, output: str, names: list[str]) -> None:
    """Build all names at once."""

    def build(name: str) -> dict[str, str]:
        try:
            made = ggufpack.build(
                checkpoint, name=name, output=output, register=False, verify="none", threads=1
            )
        except ggufpack.GgufpackError as error:
            return {"error": type(error).__name__, "problem": error.problem}
        return {"folder": str(Path(made.package.folder))}

    with ThreadPoolExecutor(len(names)) as pool:
        click.echo(json.dumps(list(pool.map(build, names))))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
