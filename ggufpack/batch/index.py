"""A batch's result as the page that compares its packages."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ggufpack.batch.result import BatchResult, Row
from ggufpack.report.index import INDEX_NAME, Line, write_index
from ggufpack.report.page import REPORT_NAME


def write_batch_index(result: BatchResult, folder: Path) -> Path:
    """Write ``index.html`` into ``folder``; its path.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / INDEX_NAME
    write_index(_title(result.rows), [_line(row, folder) for row in result.rows], target)
    return target


def _title(rows: Sequence[Row]) -> str:
    runs = dict.fromkeys(row.planned.run for row in rows)
    return next(iter(runs)) if len(runs) == 1 else f"{len(runs)} runs"


def _line(row: Row, folder: Path) -> Line:
    report = row.planned.folder / REPORT_NAME
    link = Path(os.path.relpath(report, folder)).as_posix() if report.is_file() else None
    return Line(
        name=row.planned.item.key,
        run=row.planned.run,
        step=row.planned.step,
        status=row.status,
        problem=row.problem,
        link=link,
        size=row.size,
        kl=row.kl,
        top1=row.top1,
        seconds=None if row.outcome is None else row.outcome.seconds,
    )
