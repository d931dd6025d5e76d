"""``ggufpack cache``: the tensor cache."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ggufpack.cli.common import ReportingGroup, json_option
from ggufpack.cli.terminal import echo

if TYPE_CHECKING:
    from ggufpack.tensor_cache import Removed

DAY_SECONDS = 24 * 3600.0
DAMAGED_EXIT_CODE = 1

folder_option = click.option(
    "--cache",
    "given",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the cache.  [default: the user's]",
)


@click.group(cls=ReportingGroup)
def cache() -> None:
    """Quantised tensors that are kept between builds (--reuse): show, prune, verify."""


@cache.command()
@folder_option
@json_option
def show(given: Path | None, as_json: bool) -> None:
    """Say what is in the cache, by tensor type, and how large it may become."""
    from ggufpack import tensor_cache

    folder = _folder(given)
    found = list(tensor_cache.entries(folder))
    by_type: dict[str, dict[str, int]] = {}
    for kind, count in sorted(Counter(entry.kind for entry in found).items()):
        size = sum(entry.size for entry in found if entry.kind == kind)
        by_type[kind] = {"entries": count, "bytes": size}
    total, limit = sum(entry.size for entry in found), tensor_cache.size_limit(folder)
    used_again = sum(entry.used_again for entry in found)
    if as_json:
        echo(
            json.dumps(
                {
                    "folder": str(folder),
                    "entries": len(found),
                    "bytes": total,
                    "limit": limit,
                    "used_again": used_again,
                    "types": by_type,
                }
            )
        )
        return
    echo(f"folder: {folder}")
    echo(f"{len(found)} entries, {total / 1e6:.1f} MB of {limit / 1e9:.1f} GB; {used_again} were used again")
    for kind, counted in by_type.items():
        echo(f"  {kind:10}  {counted['entries']:7}  {counted['bytes'] / 1e6:10.1f} MB")


@cache.command()
@click.option("--max-size", metavar="SIZE", help="Remove the least recently used until the rest is SIZE.")
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    metavar="DAYS",
    help="Remove what was not used for DAYS.",
)
@click.option("--all", "everything", is_flag=True, help="Remove everything.")
@folder_option
@json_option
def prune(
    max_size: str | None, older_than: float | None, everything: bool, given: Path | None, as_json: bool
) -> None:
    """Remove entries: without options those beyond the cache's own bound (GGUFPACK_CACHE_SIZE)."""
    from ggufpack import tensor_cache

    folder = _folder(given)
    steps: list[Callable[[], Removed]] = []
    if older_than is not None:
        seconds = older_than * DAY_SECONDS
        steps.append(lambda: tensor_cache.remove_older(folder, seconds))
    if everything:
        steps.append(lambda: tensor_cache.prune(folder, 0))
    elif max_size is not None:
        size = tensor_cache.parse_size(max_size)
        steps.append(lambda: tensor_cache.prune(folder, size))
    elif older_than is None:
        limit = tensor_cache.size_limit(folder)
        steps.append(lambda: tensor_cache.prune(folder, limit))
    unfinished = tensor_cache.remove_unfinished(folder)
    removed = [step() for step in steps]
    kept = list(tensor_cache.entries(folder))
    _say(
        {
            "folder": str(folder),
            "removed": sum(done.entries for done in removed),
            "removed_bytes": sum(done.bytes for done in removed),
            "unfinished": unfinished,
            "entries": len(kept),
            "bytes": sum(entry.size for entry in kept),
        },
        "{removed} entries removed ({removed_bytes:,} bytes), {entries} kept ({bytes:,} bytes)",
        as_json=as_json,
    )


@cache.command()
@folder_option
@json_option
def verify(given: Path | None, as_json: bool) -> None:
    """Read everything and remove what is damaged. Exit code 1 when something was."""
    from ggufpack import tensor_cache

    folder = _folder(given)
    checked, damaged = tensor_cache.remove_damaged(folder)
    _say(
        {
            "folder": str(folder),
            "checked": checked,
            "damaged": damaged.entries,
            "damaged_bytes": damaged.bytes,
        },
        "{checked} entries read, {damaged} damaged and removed ({damaged_bytes:,} bytes)",
        as_json=as_json,
    )
    if damaged.entries:
        raise click.exceptions.Exit(DAMAGED_EXIT_CODE)


def _folder(given: Path | None) -> Path:
    """The cache's folder, which need not exist.

    Raises:
        UsageError: it is a file.
    """
    from ggufpack.tensor_cache import check_folder, default_folder

    return check_folder(given or default_folder())


def _say(values: dict[str, Any], sentence: str, *, as_json: bool) -> None:
    echo(json.dumps(values) if as_json else sentence.format(**values))
