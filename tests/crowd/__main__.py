"""The table: ``python -m tests.crowd [--builds N] [NAME…]``.

Each line is one shared thing and N builds at once. Wrong outcomes are: other bytes than a lone build's,
more or fewer winners than there should be, a refusal that is no sentence, a leftover, or no end within
nine minutes. The memory is the largest sum of resident sets of all processes of the line.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

import click

import ggufpack
from tests.crowd.scenarios import QUANTIZATION, SCENARIOS, Shared
from tests.support.checkpoints import tiny_checkpoint
from tests.support.ollama_build import find_ollama
from tests.support.ollama_server import running_ollama


def main() -> int:
    """Measure and print; 1 when anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--builds", type=int, default=8, help="at once (default 8)")
    parser.add_argument("--model", default="llama-spm", help="of tests.support.checkpoints")
    names = [scenario.__name__ for scenario in SCENARIOS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    chosen = parser.parse_args()
    checkpoint = tiny_checkpoint(chosen.model)
    failed = False
    click.echo(f"{'shared':30}{'tries':>6}{'done':>6}{'refused':>9}{'wrong':>7}{'s':>8}{'MiB':>8}")
    with tempfile.TemporaryDirectory(prefix="ggufpack-crowd-") as scratch:
        sha256 = lone_build(checkpoint, Path(scratch) / "lone")
        for scenario in SCENARIOS:
            if chosen.names and scenario.__name__ not in chosen.names:
                continue
            folder = Path(scratch) / scenario.__name__
            folder.mkdir()
            with contextlib.ExitStack() as stack:
                server = None
                if "server" in scenario.__name__:
                    server = stack.enter_context(running_ollama(find_ollama(), folder / "ollama"))
                row = scenario(Shared(checkpoint, sha256, folder, chosen.builds, server))
            failed = failed or bool(row.wrong)
            click.echo(
                f"{scenario.__name__:30}{row.tries:6}{row.done:6}{row.refused:9}{len(row.wrong):7}"
                f"{row.seconds:8.1f}{row.peak_rss >> 20:8}",
            )
            for sentence in row.wrong:
                click.echo(f"    {sentence}")
    return int(failed)


def lone_build(checkpoint: Path, folder: Path) -> str:
    """SHA-256 of the GGUF that one build alone makes."""
    made = ggufpack.build(
        checkpoint, name="lone", quantization=QUANTIZATION, output=folder, register=False, verify="none"
    )
    return made.package.files[0].sha256


if __name__ == "__main__":
    sys.exit(main())
