"""Builds one after the other in one process, whose worker stays: a fault costs a second, not a start.

``python -m tests.faults.builder`` takes the arguments of ``ggufpack.build`` as lines of JSON, and answers
with what a command would have ended with.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ggufpack.errors import GgufpackError
from ggufpack.pipeline import build, open_worker


class Builder:
    """The process, as its owner sees it. A context manager."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.builder"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=dict(environment),
                text=True,
            )

    def __enter__(self) -> Builder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def build(self, arguments: Mapping[str, Any]) -> tuple[int, str, str, float]:
        """Exit code, standard output and error as the command's, and seconds."""
        started = time.monotonic()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return answer["code"], answer["out"], answer["err"], time.monotonic() - started


def main() -> None:
    """Serve until standard input closes."""
    with open_worker() as worker:
        for line in sys.stdin:
            code, out, err = 0, "", ""
            try:
                build(**json.loads(line), worker=worker)
            except GgufpackError as error:
                code, out = error.exit_code, json.dumps({"error": error.to_json()})
            except Exception:  # noqa: BLE001 - what a command would print
                code, err = 1, traceback.format_exc()
            sys.stdout.write(json.dumps({"code": code, "out": out, "err": err}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
