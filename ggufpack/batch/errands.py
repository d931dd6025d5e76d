"""An item whose folders may be elsewhere: what has a URL is fetched, and the package is put.

Fetched folders and the package lie in temporary folders of the process, and go at the end. The package is
put before its model gets its names on the server: what killed this before is known by its token.
"""

from __future__ import annotations

import contextlib
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from ggufpack.batch import transfer
from ggufpack.batch.items import Item, Outcome, carry_out
from ggufpack.batch.urls import url_of
from ggufpack.convert.process import Worker
from ggufpack.errors import GgufpackError
from ggufpack.report.record import with_aliases
from ggufpack.spec import BuildSpec, EventHandler, Note
from ggufpack.target import target_of

Check = Callable[[], None]


def run_errand(
    item: Item, worker: Worker, on_event: EventHandler, still_wanted: Check = lambda: None
) -> Outcome:
    """Build an item. Errors of ggufpack are its outcome, in which URLs have their names; others are raised.

    Args:
        item: paths in its spec are absolute, or stand for URLs.
        worker: of ``open_worker``.
        on_event: gets events.
        still_wanted: raises what ends the build, before anything of it is published.
    """
    started = time.monotonic()
    spec = item.spec
    url = url_of(target_of(spec).folder)
    aliases: dict[str, str] = {}

    def publish(working: Path) -> None:
        still_wanted()
        if url is not None:
            on_event(Note(f"Putting the package to {url}"))
            transfer.put(working, url, token=spec.token or secrets.token_hex(6), overwrite=spec.overwrite)

    try:
        if url is not None:
            transfer.check_free(url, overwrite=spec.overwrite)
        with _local(spec, aliases, on_event) as here:
            outcome = carry_out(Item(item.key, here), worker, on_event, publish)
    except GgufpackError as error:
        outcome = Outcome(item.key, "error", None, error.to_json(), 0.0)
    return replace(
        outcome,
        result=with_aliases(outcome.result, aliases),
        error=with_aliases(outcome.error, aliases),
        seconds=time.monotonic() - started,
    )


@contextlib.contextmanager
def _local(spec: BuildSpec, aliases: dict[str, str], on_event: EventHandler) -> Iterator[BuildSpec]:
    """The spec with folders of this machine; ``aliases`` gets what they stand for."""
    with contextlib.ExitStack() as stack:

        def scratch(name: str) -> Path:
            # none is made for paths: a process that is killed would leave it
            folder = tempfile.TemporaryDirectory(prefix=f"ggufpack-{name}-")
            return Path(stack.enter_context(folder)).resolve()

        def local(path: Path) -> Path:
            url = url_of(path)
            if url is None:
                return path
            on_event(Note(f"Fetching {url}"))
            into = scratch("fetched")
            aliases[str(into / path.name)] = url
            return transfer.fetch(url, into)

        def output(path: Path | None) -> Path | None:
            url = None if path is None else url_of(path)
            if url is None:
                return path
            into = scratch("package")
            aliases[str(into)] = url
            return into

        yield replace(
            spec,
            checkpoint=local(spec.checkpoint),
            base=None if spec.base is None else local(spec.base),
            adapters=tuple(replace(one, folder=local(one.folder)) for one in spec.adapters),
            output=output(spec.output),
            aliases=aliases,
        )
