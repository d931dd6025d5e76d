"""The page that compares the packages of a batch. As the report: nothing outside it, every value escaped."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ggufpack import __version__
from ggufpack.report import plots, words
from ggufpack.report.page import page_environment
from ggufpack.resources import write_whole

INDEX_NAME = "index.html"


@dataclass(frozen=True)
class Line:
    """One package. Sizes in bytes, KL in nats a token, ``top1`` from 0 to 1; ``None``: not known.

    ``link`` is its report, relative to the page; ``run`` and ``step`` place it in a training.
    """

    name: str
    run: str
    step: int | None
    status: str
    problem: str | None
    link: str | None
    size: int | None
    kl: float | None
    top1: float | None
    seconds: float | None


def render_index(title: str, lines: Sequence[Line]) -> str:
    """The page as HTML text."""
    environment = page_environment()
    environment.filters["relative_link"] = _relative_link
    counts = Counter(line.status for line in lines)
    said = words.listed(f"{number} {status}" for status, number in counts.items())
    return environment.get_template("index.html.jinja").render(
        title=title, lines=lines, counts=said, words=words, version=__version__, plot=_plot(lines)
    )


def write_index(title: str, lines: Sequence[Line], target: Path) -> None:
    """Write the page to ``target``; an older one is replaced.

    Raises:
        OSError: the folder cannot be written.
    """
    write_whole(target, render_index(title, lines))


def _relative_link(path: str) -> str:
    """``path`` as a browser asks for it; the name of a folder need not be UTF-8."""
    try:
        raw = os.fsencode(path)
    except UnicodeEncodeError:  # no name of a file
        raw = words.clean(path).encode()
    return quote(raw)


def _plot(lines: Sequence[Line]) -> object:
    runs = dict.fromkeys(line.run for line in lines)
    series = {
        run: [
            (line.step, line.kl)
            for line in lines
            if line.run == run and line.step is not None and line.kl is not None
        ]
        for run in runs
    }
    return plots.by_step({words.clean(run)[:24]: points for run, points in series.items()})
