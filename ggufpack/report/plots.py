"""Plots as SVG text for a page: matplotlib draws, and the page's CSS variables give the colours.

Colours that are drawn stand for roles; ``_for_page`` puts ``var(--…)`` in their place, so one drawing
serves light and dark. Text stays text, in the page's font. matplotlib is imported where something is
drawn.
"""

from __future__ import annotations

import io
import itertools
import math
import re
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# drawn colour -> CSS variable; matplotlib leaves out black, its default, so no role is black
_INK, _MUTED, _GRID, _PAPER = "#010203", "#040506", "#070809", "#0a0b0c"
_ROLES = {_INK: "--ink", _MUTED: "--muted", _GRID: "--line", _PAPER: "--paper"}
_SERIES = tuple(f"#1000{index:02x}" for index in range(6))
_ROLES.update({colour: f"--series-{index + 1}" for index, colour in enumerate(_SERIES)})
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_WIDTH = 5.0  # inches: 360 CSS pixels, a phone's width at full size
_DPI = 72.0  # of SVG in matplotlib: one point is one unit
_FONT = 11.0
MOST_TEXTS = 32
_LEAST_KL = 1e-7  # nats: where a logarithmic axis ends for values that are 0


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval, under a label."""

    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Series:
    """One type's value for each of several texts; ``None`` where it has none."""

    label: str
    values: tuple[float | None, ...]


def distributions(
    histograms: Sequence[tuple[str, Sequence[tuple[float, int]]]], means: Mapping[str, float]
) -> Markup | None:
    """Share of tokens by KL (log10 nats), one strip a type, the mean marked; ``None`` without tokens."""
    counted = [
        (label, [(edge, count) for edge, count in bins if count > 0 and abs(edge) < 99])
        for label, bins in histograms
    ]
    drawn = [(label, bins) for label, bins in counted if bins]
    if not drawn:
        return None
    edges = sorted({edge for _label, bins in drawn for edge, _count in bins})
    width = min((b - a for a, b in itertools.pairwise(edges)), default=0.5)
    with _figure(0.55 + 0.72 * len(drawn)) as figure:
        axes = figure.subplots(len(drawn), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for axis, (label, bins) in zip(axes, drawn, strict=True):
            total = sum(count for _edge, count in bins)
            axis.bar(
                [edge for edge, _count in bins],
                [100 * count / total for _edge, count in bins],
                width=0.86 * width,
                align="edge",
                color=_SERIES[0],
            )
            if _has_place(mean := means.get(label, math.nan), log=True):
                axis.axvline(math.log10(mean), color=_INK, linewidth=1.2, linestyle=(0, (3, 2)))
            _plain_axis(axis, grid="y")
            axis.set_ylabel(label, rotation=0, ha="right", va="center", color=_INK)
            axis.yaxis.set_major_formatter("{x:.0f} %")
            axis.yaxis.tick_right()
            axis.locator_params(axis="y", nbins=3)
        axes[-1].set_xlim(edges[0] - 0.5, edges[-1] + 1)
        axes[-1].xaxis.set_major_formatter(lambda x, _position: _power(x))
        axes[-1].xaxis.set_major_locator(_whole_numbers())
        axes[-1].set_xlabel("KL of a token, nats (dashes: mean)")
        return _for_page(
            figure, "kl-distribution", "Distribution of the KL divergence of single tokens, by type"
        )


def intervals(
    items: Sequence[Interval], name: str, title: str, xlabel: str, *, marks: Mapping[str, float], log: bool
) -> Markup | None:
    """Values with their 95 % intervals, one line a type. ``marks``: a hollow second point of a label."""
    drawn = [item for item in items if _has_place(item.value, log=log)]
    if not drawn:
        return None
    with _figure(0.62 + 0.34 * len(drawn)) as figure:
        axis = figure.subplots()
        rows = range(len(drawn))
        floor = _LEAST_KL if log else -math.inf
        lows = [max(item.value - max(item.low, floor), 0.0) for item in drawn]
        highs = [max(item.high - item.value, 0.0) for item in drawn]
        axis.errorbar(
            [item.value for item in drawn],
            list(rows),
            xerr=[_finite(lows), _finite(highs)],
            fmt="o",
            color=_SERIES[0],
            markersize=6,
            elinewidth=2,
            capsize=3.5,
        )
        for row, item in zip(rows, drawn, strict=True):
            if _has_place(mark := marks.get(item.label, math.nan), log=log):
                axis.plot([mark], [row], marker="D", markersize=6, markerfacecolor=_PAPER, color=_SERIES[1])
        if log:
            ends = [value for item in drawn for value in (item.value, max(item.low, floor), item.high)]
            _logarithmic(axis, "x", [*ends, *marks.values()])
        _plain_axis(axis, grid="x")
        axis.set_yticks(list(rows), [item.label for item in drawn], color=_INK)
        axis.set_ylim(len(drawn) - 0.5, -0.5)
        axis.set_xlabel(xlabel)
        return _for_page(figure, name, title)


def size_against_quality(points: Sequence[tuple[str, float, float]]) -> Markup | None:
    """File size in MB against mean KL, one labelled point a type; ``None`` for fewer than two."""
    drawn = [point for point in points if _has_place(point[2], log=True)]
    if len(drawn) < 2:
        return None
    with _figure(2.9) as figure:
        axis = figure.subplots()
        drawn.sort(key=lambda point: point[1])
        sizes, values = [point[1] for point in drawn], [point[2] for point in drawn]
        axis.plot(sizes, values, "o", color=_SERIES[0], markersize=7)
        _logarithmic(axis, "y", values)
        for label, size, value in drawn:
            left = size > (min(sizes) + max(sizes)) / 2
            axis.annotate(
                label,
                (size, value),
                (-7 if left else 7, 3),
                textcoords="offset points",
                ha="right" if left else "left",
                color=_INK,
                parse_math=False,
            )
        _plain_axis(axis, grid="both")
        axis.margins(x=0.12)
        axis.set_xlabel("file size, MB")
        axis.set_ylabel("mean KL, nats a token")
        return _for_page(figure, "size-quality", "File size against mean KL divergence, one point a type")


def by_text(texts: Sequence[str], series: Sequence[Series]) -> Markup | None:
    """Mean KL of each text, one marker shape a type."""
    drawn = [s for s in series if any(_has_place(value, log=True) for value in s.values)]
    if not drawn or not texts:
        return None
    with _figure(0.95 + 0.27 * len(texts)) as figure:
        axis = figure.subplots()
        every: list[float] = []
        for index, one in enumerate(drawn):
            places = [
                (v, row) for row, v in enumerate(one.values) if v is not None and _has_place(v, log=True)
            ]
            every += [value for value, _row in places]
            axis.plot(
                [value for value, _row in places],
                [row for _value, row in places],
                linestyle="none",
                marker=_MARKERS[index % len(_MARKERS)],
                markersize=6,
                color=_SERIES[index % len(_SERIES)],
                label=one.label.lstrip("_") or "?",
            )
        _logarithmic(axis, "x", every)
        _plain_axis(axis, grid="both")
        axis.set_yticks(range(len(texts)), list(texts), color=_INK)
        axis.set_ylim(len(texts) - 0.5, -0.5)
        axis.set_xlabel("mean KL, nats a token")
        legend = figure.legend(
            loc="outside upper left",
            ncols=min(3, len(drawn)),
            frameon=False,
            labelcolor=_INK,
            handletextpad=0.2,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
        return _for_page(figure, "kl-by-text", "Mean KL divergence of each text, by type")


def by_step(series: Mapping[str, Sequence[tuple[int, float]]]) -> Markup | None:
    """Mean KL against the training step, one line a run; ``None`` when no run has two points."""
    drawn = {
        label: sorted(point for point in points if _has_place(point[1], log=True))
        for label, points in series.items()
    }
    drawn = {label: points for label, points in drawn.items() if len(points) > 1}
    if not drawn:
        return None
    with _figure(2.9) as figure:
        axis = figure.subplots()
        for index, (label, points) in enumerate(drawn.items()):
            axis.plot(
                [step for step, _value in points],
                [value for _step, value in points],
                marker=_MARKERS[index % len(_MARKERS)],
                markersize=6,
                linewidth=1.6,
                color=_SERIES[index % len(_SERIES)],
                label=label.lstrip("_") or "?",
            )
        _logarithmic(axis, "y", [value for points in drawn.values() for _step, value in points])
        _plain_axis(axis, grid="both")
        axis.xaxis.set_major_locator(_whole_numbers())
        axis.set_xlabel("step")
        axis.set_ylabel("mean KL, nats a token")
        if len(drawn) > 1:
            legend = figure.legend(
                loc="outside upper left", ncols=min(3, len(drawn)), frameon=False, labelcolor=_INK
            )
            for text in legend.get_texts():
                text.set_parse_math(False)
        return _for_page(figure, "kl-by-step", "Mean KL divergence by training step")


# --- drawing ------------------------------------------------------------------


# matplotlib's settings are global, and are read when text is made and again when it is written
_DRAWING = threading.Lock()


@contextmanager
def _figure(height: float) -> Iterator[Figure]:
    """A figure under matplotlib's own defaults and ours, whatever the process around has set."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    defaults = {key: value for key, value in mpl.rcParamsDefault.items() if "backend" not in key}
    ours = {
        "font.size": _FONT,
        "svg.fonttype": "none",
        "svg.hashsalt": "ggufpack",
        "axes.unicode_minus": False,
        "text.parse_math": False,
        "text.usetex": False,
        "timezone": "UTC",
    }
    settings: dict[Any, Any] = {**defaults, **ours}
    with _DRAWING, mpl.rc_context(settings):
        yield Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained")


def _plain_axis(axis: Axes, *, grid: str) -> None:
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(_GRID)
    axis.tick_params(which="both", length=0, colors=_MUTED, labelcolor=_MUTED)
    axis.xaxis.label.set_color(_MUTED)
    axis.yaxis.label.set_color(_MUTED)
    axis.set_axisbelow(True)
    axis.grid(visible=True, axis=grid, color=_GRID, linewidth=0.8)  # type: ignore[arg-type]
    axis.patch.set_visible(False)


def _logarithmic(axis: Axes, which: str, values: Sequence[float]) -> None:
    """A log axis that covers ``values`` with at least two labelled ticks."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    good = [value for value in values if _has_place(value, log=True)]
    low, high = min(good) / 1.5, max(good) * 1.5
    ticks = [
        m * 10.0**e
        for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for m in (1, 3)
    ]
    inside = [tick for tick in ticks if low <= tick <= high]
    if len(inside) > 5:
        inside = [tick for tick in inside if f"{tick:e}".startswith("1")]
    target = axis.xaxis if which == "x" else axis.yaxis
    (axis.set_xscale if which == "x" else axis.set_yscale)("log")
    (axis.set_xlim if which == "x" else axis.set_ylim)(low, high)
    target.set_major_locator(FixedLocator(inside))
    target.set_minor_locator(NullLocator())
    target.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:.7f}".rstrip("0").rstrip(".")))


def _whole_numbers() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(7, integer=True)


def _power(x: float) -> str:
    """10 to the ``x`` as people write it."""
    if -4 <= x <= 2:
        return f"{10.0**x:.4f}".rstrip("0").rstrip(".")
    return f"1e{x:.0f}"


def _has_place(value: float | None, *, log: bool) -> bool:
    """Whether an axis can show it. No KL is as large as the limit, and matplotlib fails near infinity."""
    return value is not None and math.isfinite(value) and abs(value) < 1e9 and (not log or value > 1e-15)


def _finite(values: Sequence[float]) -> list[float]:
    return [value if _has_place(value, log=False) else 0.0 for value in values]


# --- into the page ------------------------------------------------------------

_COLOUR = re.compile("|".join(_ROLES))
_FAMILY = re.compile(r"font: ([0-9.]+)px [^;]*|font-family: [^;]*;? ?")
_REFERENCE = re.compile(r"url\(#([^)]*)\)")


def _for_page(figure: Figure, name: str, title: str) -> Markup:
    """The figure as an ``<svg>`` element that may stand in HTML beside others.

    Only style attributes are changed, never text: that holds names of models and texts.
    """
    figure.patch.set_visible(False)
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with warnings.catch_warnings():
        # it measures with its own font; the reader's has the glyphs
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", metadata=nothing)
    root = ElementTree.fromstring(buffer.getvalue())  # noqa: S314 - written one line above
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith("}style"):  # it would rule the whole page
                parent.remove(child)
    used = {
        reference
        for element in root.iter()
        for key, value in element.attrib.items()
        for reference in ([value[1:]] if key.endswith("href") else _REFERENCE.findall(value))
    }
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        found = dict(element.attrib)
        element.attrib.clear()
        element.attrib.update(_attributes(found, name, used))
    root.attrib.clear()
    root.attrib.update(
        {
            "viewBox": f"0 0 {figure.get_figwidth() * _DPI:g} {figure.get_figheight() * _DPI:g}",
            "role": "img",
            "aria-label": title,
            "class": "plot",
        }
    )
    label = ElementTree.Element("title")
    label.text = title
    root.insert(0, label)
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704 - serialised, not pasted


def _attributes(found: Mapping[str, str], name: str, used: set[str]) -> dict[str, str]:
    kept = {}
    for key, value in found.items():
        plain = key.rpartition("}")[2]
        if plain == "id":
            if value in used:
                kept["id"] = f"{name}-{value}"
        elif plain == "href":
            kept["href"] = f"#{name}-{value[1:]}"
        elif plain == "clip-path":
            kept[plain] = _REFERENCE.sub(rf"url(#{name}-\1)", value)
        elif plain == "style":
            styled = _COLOUR.sub(lambda match: f"var({_ROLES[match[0]]})", value)
            kept[plain] = _FAMILY.sub(lambda match: f"font-size: {match[1]}px" if match[1] else "", styled)
        else:
            kept[plain] = value
    return kept
