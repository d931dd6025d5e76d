"""A batch's result as the page that compares its packages."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ggufpack.batch import storage
from ggufpack.batch.result import BatchResult, Row
from ggufpack.batch.urls import url_of
from ggufpack.report.index import INDEX_NAME, Line, render_index, write_index
from ggufpack.report.page import REPORT_NAME


def write_batch_index(result: BatchResult, folder: Path) -> Path:
    """Write ``index.html`` into ``folder``, which may stand for a URL; its path.

    Raises:
        OSError: the folder cannot be written.
        UsageError: the storage cannot be used.
    """
    target = folder / INDEX_NAME
    title, lines = _title(result.rows), [_line(row, folder) for row in result.rows]
    url = url_of(target)
    if url is None:
        folder.mkdir(parents=True, exist_ok=True)
        write_index(title, lines, target)
    else:
        storage.write(url, render_index(title, lines).encode())
    return target


def _title(rows: Sequence[Row]) -> str:
    runs = dict.fromkeys(row.planned.run for row in rows)
    return next(iter(runs)) if len(runs) == 1 else f"{len(runs)} runs"


def _line(row: Row, folder: Path) -> Line:
    report = row.planned.folder / REPORT_NAME
    url = url_of(report)
    link = None
    if report.is_file() if url is None else storage.exists(url):
        near = url is None or folder in report.parents
        link = Path(os.path.relpath(report, folder)).as_posix() if near else url
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
