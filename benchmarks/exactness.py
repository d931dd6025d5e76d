"""All file types of all tiny checkpoints against llama.cpp's two steps: ``python -m benchmarks.exactness``.

    python -m benchmarks.exactness [-q TYPE,TYPE] [CHECKPOINT NAME …]

Prints a table: ``=`` the whole file is identical, ``x`` it differs, ``!`` one of both refused.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from ggufpack import vendoring
from ggufpack.convert.process import Worker
from ggufpack.errors import GgufpackError
from ggufpack.quantize.types import FILE_TYPES, parse_file_types
from tests.support.checkpoints import SHAPES, TINY, tiny_checkpoint
from tests.support.exact import compare_with_oracle
from tests.support.oracle import OracleError


def main() -> int:
    """Print the table; exit code 1 unless every file is identical."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of tests.support.checkpoints")
    parser.add_argument("-q", "--quantizations", type=parse_file_types, default=tuple(FILE_TYPES))
    chosen = parser.parse_args()
    types: tuple[str, ...] = chosen.quantizations
    counts: Counter[str] = Counter()
    notes = []
    print(f"{'':14}" + " ".join(f"{name:>6}" for name in types))
    with Worker(vendoring.require()) as worker:
        for name in chosen.names or [*TINY, *SHAPES]:
            marks, found = _row(name, types, worker)
            notes += found
            counts.update(marks)
            print(f"{name:14}" + " ".join(f"{mark:>6}" for mark in marks), flush=True)
    for note in notes:
        print(note, file=sys.stderr)
    print(f"{counts['=']} identical, {counts['x']} different, {counts['!']} refused")
    return 0 if set(counts) == {"="} else 1


def _row(name: str, types: tuple[str, ...], worker: Worker) -> tuple[list[str], list[str]]:
    """A mark for each type, and lines about what is not identical."""
    with tempfile.TemporaryDirectory(prefix="ggufpack-exactness-") as scratch:
        try:
            compared = compare_with_oracle(tiny_checkpoint(name), types, worker, Path(scratch))
        except (GgufpackError, OracleError) as error:
            return ["!"] * len(types), [f"{name}: {error}"]
    differences = compared.differences
    notes = [f"{name} {kind}: first differs in {where}" for kind, where in differences.items()]
    return ["x" if kind in differences else "=" for kind in types], notes


if __name__ == "__main__":
    sys.exit(main())
