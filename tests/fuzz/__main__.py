"""``python -m tests.fuzz [TARGET…] [--executions N] [--seconds S]``: fuzz, and print one table.

``--replay FILE`` runs one input of one target in this process, and needs no fuzzing engine.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

from tests.fuzz import campaign, targets


def main() -> int:
    """1 when an input broke a target."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz ggufpack's own parsers.")
    parser.add_argument("target", nargs="*", help=f"of {', '.join(targets.names())}; all without")
    parser.add_argument("--executions", type=int, default=1_000_000, help="of each target")
    parser.add_argument("--seconds", type=int, default=0, help="at most, for each target")
    parser.add_argument("--corpus", type=Path, help="kept from run to run; else in the user's cache")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run this input")
    options = parser.parse_args()
    unknown = set(options.target) - set(targets.names())
    if unknown or (options.replay and len(options.target) != 1):
        parser.error(f"no such target: {', '.join(unknown)}" if unknown else "--replay needs one TARGET")
    if options.replay:
        targets.load(options.target[0]).one_input(options.replay.read_bytes())
        print("It holds.")  # noqa: T201
        return 0
    if importlib.util.find_spec("atheris") is None:
        parser.error("atheris is not installed: it has wheels for x86-64 Linux and CPython 3.11 to 3.13 only")
    rows = []
    for name in options.target or targets.names():
        corpus = options.corpus or campaign.default_corpus()
        row = campaign.run(name, corpus, executions=options.executions, seconds=options.seconds)
        rows.append(row)
        print(campaign.table([row]).splitlines()[-1], file=sys.stderr)  # noqa: T201  a long run may be ended
        for path in row.found:
            print(f"  broken by {path}: python -m tests.fuzz {name} --replay {path}", file=sys.stderr)  # noqa: T201
    print(campaign.table(rows))  # noqa: T201
    return 1 if any(row.found for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
