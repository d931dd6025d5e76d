"""The report: one page that needs nothing else, and the same as Markdown for a model card.

Everything in a record may come from a stranger's checkpoint: every value is escaped, and characters
that could disguise a page are shown by their code points.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ggufpack.report import plots, words
from ggufpack.report.diff import diff, visible
from ggufpack.report.reading import typed
from ggufpack.report.view import Type, View, make_view
from ggufpack.resources import data_folder, write_whole

REPORT_NAME = "report.html"
MOST_WORST = 10


def render_report(record: Mapping[str, Any]) -> str:
    """The page as HTML text.

    Raises:
        UsageError: the record is damaged or of another schema; ``key`` names the place.
    """
    view = make_view(typed(record))
    return _report_template().render(
        view=view, record=view.record, plots=_plots(view), words=words, diff=diff, most_worst=MOST_WORST
    )


def render_markdown(record: Mapping[str, Any]) -> str:
    """The same, short, as Markdown for a model card. Raises as :func:`render_report`."""
    view = make_view(typed(record))
    environment = _environment(autoescape=False)
    environment.finalize = _for_markdown
    environment.filters.update(plain=words.json_text)
    return environment.get_template("report.md.jinja").render(view=view, record=view.record, words=words)


def write_report(record: Mapping[str, Any], target: Path) -> None:
    """Write the page to ``target``; under its name it is whole, and an older one is replaced.

    Raises:
        UsageError: as :func:`render_report`.
        OSError: the folder cannot be written.
    """
    write_whole(target, render_report(record))


@cache
def _report_template() -> jinja2.Template:
    """Compiled once: a batch renders it for every item."""
    environment = page_environment()
    environment.filters.update(plain=words.json_text, visible=visible)
    return environment.get_template("report.html.jinja")


def page_environment() -> jinja2.Environment:
    """For HTML pages: every value is escaped, and shown as it is."""
    environment = _environment(autoescape=True)
    environment.finalize = _for_html
    return environment


def _environment(*, autoescape: bool) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_folder("templates")),
        autoescape=autoescape,  # noqa: S701 - Markdown has its own: every value goes through finalize
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _for_html(value: object) -> object:
    return words.clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _for_markdown(value: object) -> object:
    return words.markdown(value) if isinstance(value, str) else value


# --- plots --------------------------------------------------------------------


def _plots(view: View) -> dict[str, Markup]:
    """Those that there is something to draw for, by name."""
    measured = view.measured
    if not measured:
        return {}
    drawn = {
        "quality": _size_quality(measured),
        "kl": _kl(measured),
        "top1": _top1(measured),
        "distribution": _distribution(measured),
        "by_text": _by_text(measured),
    }
    return {name: plot for name, plot in drawn.items() if plot is not None}


def _name(item: Type) -> str:
    return words.clean(item.name)[:24]


def _size_quality(measured: tuple[Type, ...]) -> Markup | None:
    return plots.size_against_quality(
        [(_name(t), t.file.size / 1e6, t.fidelity.kl.value) for t in measured if t.file and t.fidelity]
    )


def _kl(measured: tuple[Type, ...]) -> Markup | None:
    items = [(_name(item), item.fidelity) for item in measured if item.fidelity]
    return plots.intervals(
        [plots.Interval(name, found.kl.value, found.kl.low, found.kl.high) for name, found in items],
        "kl",
        "Mean KL divergence of each type, with 95 % intervals",
        "mean KL, nats a token",
        marks={name: found.expected_kl for name, found in items if found.expected_kl is not None},
        log=True,
    )


def _top1(measured: tuple[Type, ...]) -> Markup | None:
    items = [(_name(item), item.fidelity.top1) for item in measured if item.fidelity]
    return plots.intervals(
        [plots.Interval(name, 100 * one.value, 100 * one.low, 100 * one.high) for name, one in items],
        "top1",
        "Share of tokens where both have the same most probable token, with 95 % intervals",
        "same top token, %",
        marks={},
        log=False,
    )


def _distribution(measured: tuple[Type, ...]) -> Markup | None:
    items = [(_name(item), item.fidelity) for item in measured if item.fidelity]
    return plots.distributions(
        [(name, found.kl_histogram) for name, found in items], {name: found.kl.value for name, found in items}
    )


def _by_text(measured: tuple[Type, ...]) -> Markup | None:
    names = list(dict.fromkeys((t.name, t.kind) for i in measured if i.fidelity for t in i.fidelity.by_text))
    series = []
    for item in measured:
        values = {(t.name, t.kind): t.kl for t in item.fidelity.by_text} if item.fidelity else {}
        series.append(
            plots.Series(_name(item), tuple(values.get(name) for name in names[: plots.MOST_TEXTS]))
        )
    labels = [words.clean(f"{name} ({kind})")[:32] for name, kind in names[: plots.MOST_TEXTS]]
    return plots.by_text(labels, series)
