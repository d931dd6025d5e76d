"""Plots: hostile names stay names, colours are the page's, and the process's own settings are kept."""

from __future__ import annotations

import html
import re

import matplotlib as mpl
import pytest
from markupsafe import Markup

from ggufpack.report import plots
from ggufpack.report.plots import Interval, Series

NAMES = ("$x^2$", "$\\frac{", 'a & <b> "c"', "_hidden", "#010203; font: 9px Evil", "url(#x)")


def drawn() -> dict[str, Markup | None]:
    intervals = [Interval(name, 0.01 * (i + 1), 0.009, 0.2) for i, name in enumerate(NAMES)]
    return {
        "kl": plots.intervals(intervals, "kl", "t", "x", marks={NAMES[0]: 0.5}, log=True),
        "distribution": plots.distributions([(n, [(-3.0, 5), (-2.5, 9)]) for n in NAMES], {NAMES[0]: 0.1}),
        "size": plots.size_against_quality([(n, 10.0 + i, 0.1) for i, n in enumerate(NAMES)]),
        "text": plots.by_text(NAMES, [Series(n, (0.1,) * len(NAMES)) for n in NAMES]),
    }


@pytest.mark.parametrize("name", ["kl", "distribution", "size", "text"])
def test_names_are_text_as_they_are(name: str) -> None:
    svg = drawn()[name]
    assert svg is not None
    texts = [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]
    wanted = [one.lstrip("_") if name == "text" and one not in texts else one for one in NAMES]
    assert set(wanted) <= set(texts)


def test_colours_are_variables_of_the_page() -> None:
    for svg in drawn().values():
        assert svg is not None
        outside = re.sub(r">[^<]*<", "><", svg)  # texts keep theirs
        assert not re.findall(r"#[0-9a-f]{6}\b", outside)
        assert "var(--ink)" in outside
        assert "<style" not in outside
        assert 'role="img" aria-label="' in svg


def test_the_process_keeps_its_settings_and_does_not_change_ours() -> None:
    before = drawn()
    with mpl.rc_context(
        {"text.usetex": True, "font.size": 40, "axes.facecolor": "red", "svg.fonttype": "path"}
    ):
        assert drawn() == before
        assert mpl.rcParams["text.usetex"]
        assert mpl.rcParams["font.size"] == 40


def test_nothing_to_draw() -> None:
    assert plots.distributions([("a", [(-1.0, 0)])], {}) is None
    assert plots.size_against_quality([("a", 1.0, 0.1)]) is None
    assert plots.intervals([Interval("a", 0.0, 0.0, 0.0)], "n", "t", "x", marks={}, log=True) is None
    assert plots.by_text(["a"], [Series("b", (None,))]) is None
