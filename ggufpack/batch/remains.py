"""What killed batches of a journal left, of items that are not asked for any more.

Items that are asked for are cleaned up when they are taken (``run``). Everything is known by the token of its
item: nothing of others is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from ggufpack.batch import existing
from ggufpack.batch.items import Item
from ggufpack.batch.journal import Entry, Journal
from ggufpack.batch.planning import Planned
from ggufpack.engine.choose import find_server
from ggufpack.errors import GgufpackError
from ggufpack.registry import OllamaServer


def clean_up_remains(
    journal: Journal, planned: Sequence[Planned], on_problem: Callable[[str, str], None]
) -> None:
    """Remove temporary folders, and temporary names on the servers of the planned items.

    Args:
        journal: whose dead claims are cleaned up.
        planned: items that are asked for, which are left alone.
        on_problem: gets the key of an item that could not be cleaned up, and why; a later batch tries again.
    """
    asked_for = {one.folder for one in planned}
    dead = [entry for entry in journal.dead() if entry.target not in asked_for]
    taken = [(entry, claim) for entry in dead if (claim := journal.take_over(entry)) is not None]
    if not taken:
        return
    problems = _clean_servers([entry for entry, _ in taken], planned)
    for entry, claim in taken:
        problem = problems.get(entry.token) or _clean_folder(entry)
        journal.give_back(claim, None if problem is None else entry.lease)
        if problem is not None:
            on_problem(entry.key, problem)


def _clean_folder(entry: Entry) -> str | None:
    try:
        existing.clean_up(entry.target, entry.token)
    except GgufpackError as error:
        return str(error)
    return None


def _clean_servers(entries: Sequence[Entry], planned: Sequence[Planned]) -> dict[str, str]:
    """Token to the reason for which its names may still be there."""
    problems: dict[str, str] = {}
    for item in _one_for_each_server(planned):
        try:
            server = find_server(item.spec)
        except GgufpackError as error:
            problems |= {entry.token: str(error) for entry in entries}
            continue
        if server is not None:
            with closing(server):
                problems |= _clean_server(server, entries)
    return problems


def _clean_server(server: OllamaServer, entries: Sequence[Entry]) -> dict[str, str]:
    problems = {}
    for entry in entries:
        try:
            existing.clean_up_server(server, entry.token)
        except GgufpackError as error:
            problems[entry.token] = str(error)
    return problems


def _one_for_each_server(planned: Sequence[Planned]) -> Iterator[Item]:
    yield from {one.item.spec.host: one.item for one in planned if one.item.spec.register}.values()
