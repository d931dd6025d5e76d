"""A batch's result on stdout: one table, or one JSON object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ggufpack.batch.urls import shown
from ggufpack.cli.terminal import echo

if TYPE_CHECKING:
    from ggufpack.batch.planning import BatchPlan
    from ggufpack.batch.result import BatchResult, Row

_COLUMNS = ("item", "status", "size", "KL, nats", "same top", "time")


def print_plan(plan: BatchPlan, *, as_json: bool) -> None:
    """What a batch would do."""
    if as_json:
        items = [
            {
                "key": one.item.key,
                "checkpoint": shown(one.item.spec.checkpoint),
                "folder": shown(one.folder),
                "quantizations": list(one.item.spec.quantizations),
            }
            for one in plan.items
        ]
        left_out = [{"folder": shown(one.folder), "reason": one.reason} for one in plan.left_out]
        echo(json.dumps({"items": items, "left_out": left_out}))
        return
    for one in plan.items:
        spec = one.item.spec
        echo(f"{one.item.key}  {','.join(spec.quantizations)}  {shown(spec.checkpoint)}")
    for left in plan.left_out:
        echo(f"left out: {shown(left.folder)}: {left.reason}")


def print_result(result: BatchResult, index: Path | None, *, as_json: bool) -> None:
    """How a batch ended."""
    if as_json:
        echo(json.dumps({**result.to_json(), "index": None if index is None else shown(index)}))
        return
    for line in table(result):
        echo(line)
    for left in result.left_out:
        echo(f"left out: {shown(left.folder)}: {left.reason}")
    counts = ", ".join(f"{number} {status}" for status, number in result.counts.items())
    echo(f"{counts or 'nothing to do'} in {result.seconds:.1f} s")
    if index is not None:
        echo(f"Compare them: {shown(index)}")


def table(result: BatchResult) -> list[str]:
    """Lines of the table, columns aligned."""
    if not result.rows:
        return []
    cells = [_COLUMNS, *(_cells(row) for row in result.rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_COLUMNS))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.planned.item.key,
        f"{row.status}{' (before)' if row.reused else ''}",
        "" if row.size is None else f"{row.size / 1e6:.1f} MB",
        "" if row.kl is None else f"{row.kl:.3g}",
        "" if row.top1 is None else f"{100 * row.top1:.1f} %",
        "" if row.outcome is None else f"{row.outcome.seconds:.1f} s",
    )
