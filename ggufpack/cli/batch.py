"""``ggufpack batch``: many checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ggufpack.cli.common import ReportingCommand, json_option, quiet_option, signal_behind
from ggufpack.cli.options import batch_options, make_spec
from ggufpack.errors import INTERRUPTED_EXIT_CODE

if TYPE_CHECKING:
    from ggufpack.batch.discover import LeftOut
    from ggufpack.batch.journal import Journal
    from ggufpack.batch.planning import BatchPlan
    from ggufpack.batch.result import BatchResult
    from ggufpack.batch.run import BatchRun
    from ggufpack.cli.batch_progress import BatchView

JOURNAL_NAME = ".ggufpack-batch.sqlite"


@click.command(
    cls=ReportingCommand,
    epilog="Exit codes: 0 when every item is as it should be; 130 or 143 when the batch was interrupted"
    " before that; the items' own when all that failed have the same (7: only verifications failed); 1"
    " when they failed in several ways.",
)
@click.argument("arguments", nargs=-1, required=True, metavar="MANIFEST|DIR|URL|GLOB…")
@batch_options
@click.option(
    "--executor",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Processes on this machine, or a Ray cluster.",
)
@click.option("--address", metavar="ADDRESS", help="Of the Ray cluster.  [default: start one here]")
@click.option("--jobs", type=click.IntRange(1), metavar="N", help="Items at once, if memory and disk allow.")
@click.option(
    "--journal",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help=f"What was done, on a local disk.  [default: {JOURNAL_NAME} in the output folder; in the current"
    " one when the output is a URL]",
)
@click.option(
    "--resume/--restart",
    "resume",
    default=True,
    show_default=True,
    help="Leave finished items alone when inputs, options and package are, by digest, what they were.",
)
@click.option(
    "--trust-mtime",
    is_flag=True,
    help="Do not read an input again whose size, time of change and inode are those of its digest.",
)
@click.option("--watch", is_flag=True, help="Go on, and package checkpoints as they appear.")
@click.option(
    "--watch-idle",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="End --watch when nothing new was complete for so long.",
)
@click.option("--dry-run", is_flag=True, help="List the items and what is left out; build nothing.")
@json_option
@quiet_option
def batch(
    arguments: tuple[str, ...],
    executor: str,
    address: str | None,
    jobs: int | None,
    journal: Path | None,
    resume: bool,
    trust_mtime: bool,
    watch: bool,
    watch_idle: float | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **values: Any,
) -> None:
    """Package many checkpoints: those of a manifest (YAML or TOML), or all under a training output.

    Options are defaults for all items; what a manifest says goes before them.
    """
    from ggufpack.batch.index import write_batch_index
    from ggufpack.batch.journal import Journal
    from ggufpack.batch.planning import plan_batch
    from ggufpack.batch.run import BatchRun
    from ggufpack.batch.urls import absolute, url_of
    from ggufpack.batch.watch import watch as watch_for
    from ggufpack.cli.batch_progress import batch_view
    from ggufpack.cli.batch_table import print_plan, print_result
    from ggufpack.errors import UsageError
    from ggufpack.target import DEFAULT_OUTPUT

    if watch_idle is not None and not watch:
        raise UsageError("--watch-idle is of no use without --watch.", key="watch_idle")
    spec = make_spec(checkpoint=Path(), **values)
    plan = plan_batch(arguments, spec, may_be_empty=watch)
    if dry_run:
        print_plan(plan, as_json=as_json)
        return
    home = _home(plan, absolute(spec.output or DEFAULT_OUTPUT))
    here = home if url_of(home) is None else Path.cwd()
    with ExitStack() as stack:
        opened = stack.enter_context(Journal(journal or here / JOURNAL_NAME))
        view = stack.enter_context(batch_view(quiet=quiet))
        carrier = stack.enter_context(_executor(executor, address, jobs, opened))
        running = BatchRun(opened, carrier, restart=not resume, trust_mtime=trust_mtime, on_event=view.told)
        stack.callback(running.close)
        plans = watch_for(arguments, spec, watch_idle) if watch else [plan]
        result = _run(running, plans, view)
    index = write_batch_index(result, home) if result.rows else None
    print_result(result, index, as_json=as_json)
    raise click.exceptions.Exit(result.exit_code)


def _run(running: BatchRun, plans: Iterable[BatchPlan], view: BatchView) -> BatchResult:
    """All plans, one after the other; an interruption ends it with what there is."""
    from ggufpack.batch.result import BatchResult, Row

    started = time.monotonic()
    rows: dict[Path, Row] = {}
    left_out: dict[Path, LeftOut] = {}
    interrupted_by = None
    try:
        for plan in plans:
            left_out = {one.folder: one for one in plan.left_out}
            rows |= {one.folder: Row(one, None) for one in plan.items}
            view.planned(plan)
            for row in running.run(plan.items):
                rows[row.planned.folder] = row
                view.ended(row)
    except KeyboardInterrupt:
        interrupted_by = INTERRUPTED_EXIT_CODE
    except SystemExit as error:
        interrupted_by = signal_behind(error)
        if interrupted_by is None:
            raise
    seconds = time.monotonic() - started
    return BatchResult(tuple(rows.values()), tuple(left_out.values()), seconds, interrupted_by)


def _home(plan: BatchPlan, output: Path) -> Path:
    """Of journal and index: the folder that all packages go to, or ``output`` when they go to several."""
    outputs = {one.folder.parent for one in plan.items}
    return outputs.pop() if len(outputs) == 1 else output


def _executor(name: str, address: str | None, jobs: int | None, journal: Journal) -> Any:
    """The executor, as a context manager."""
    from ggufpack.batch.local import LocalExecutor
    from ggufpack.batch.ray_executor import RayExecutor
    from ggufpack.errors import UsageError

    if name == "local":
        if address is not None:
            raise UsageError("--address is of no use without --executor ray.", key="address")
        return LocalExecutor(jobs, lease=(journal.path, journal.lease.name))
    return RayExecutor(address, jobs=jobs)
