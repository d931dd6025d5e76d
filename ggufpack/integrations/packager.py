"""The process that packages one save: ``python -m ggufpack.integrations.packager EVENT_FD CWD``.

It has a low priority, sees no GPU (``ggufpack.child``) and is no part of a distributed training. It
unwinds, so that nothing half-written stays, when it is told to end and when its parent has died.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from ggufpack.child import Reporter, leave, when_orphaned
from ggufpack.errors import GgufpackError, VerificationError
from ggufpack.integrations.snapshots import check_stamps
from ggufpack.spec import Event, Stage, StageStarted

NICENESS = 10
TERMINATED = 128 + signal.SIGTERM
# what torchrun, accelerate and DeepSpeed set: libraries of this process must not join that training
_DISTRIBUTED = (
    "RANK",
    "LOCAL_RANK",
    "GROUP_RANK",
    "ROLE_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)
_DISTRIBUTED_PREFIXES = ("ACCELERATE_", "FSDP_", "TORCHELASTIC_", "DEEPSPEED_")


def package(request: Mapping[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Carry a request out.

    Args:
        request: ``arguments`` of ``ggufpack.build``, and ``stamps`` of the snapshot.
        reporter: gets a "stage" event for each stage.

    Returns:
        ``result`` (``BuildResult.to_json()``) or ``None``, and ``error`` or ``None``.
    """
    from ggufpack.pipeline import build

    arguments = request["arguments"]

    def on_event(event: Event) -> None:
        if isinstance(event, StageStarted):
            if event.stage is Stage.REPORT:  # the package is put in its place after this
                check_stamps(Path(arguments["checkpoint"]), request["stamps"])
            reporter.send("stage", title=event.title)

    try:
        return {"result": build(**arguments, on_event=on_event).to_json(), "error": None}
    except GgufpackError as error:
        made = error.result if isinstance(error, VerificationError) else None
        return {"result": None if made is None else made.to_json(), "error": error.to_json()}


def run(descriptor: int, folder: str) -> None:
    """Serve one request."""
    os.nice(NICENESS)
    signal.signal(signal.SIGTERM, _terminate)
    when_orphaned(lambda: os.kill(os.getpid(), signal.SIGTERM))
    for name in list(os.environ):
        if name in _DISTRIBUTED or name.startswith(_DISTRIBUTED_PREFIXES):
            del os.environ[name]
    os.chdir(folder)  # paths among the arguments are the caller's
    reporter = Reporter(descriptor)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    reporter.send("ready")
    line = sys.stdin.buffer.readline()
    if line:
        reporter.send("done", **package(json.loads(line), reporter))


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would interrupt the cleaning up
    sys.exit(TERMINATED)


if __name__ == "__main__":
    run(int(sys.argv[1]), sys.argv[2])
    leave()
