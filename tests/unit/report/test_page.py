"""The page and the Markdown as text: hostile records, numbers that are none, writing."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ggufpack.errors import UsageError
from ggufpack.report import words
from ggufpack.report.page import render_markdown, render_report, write_report
from tests.support.records import record

HOSTILE = "<script>alert(1)</script>\"' onload=x $\\frac{a$ ]]> {{ 7*7 }} \u202e\x00\ud800 |`*_[a](b)"


class Tags(HTMLParser):
    """Names and attributes of all elements, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names[tag] += 1
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def poisoned(value: Any, key: str = "") -> Any:
    """Every text of a record made hostile, but for those that must be one of a few."""
    if isinstance(value, dict):
        return {name: poisoned(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item, key) for item in value]
    fixed = ("status", "severity", "level", "kind", "field", "verdict", "weights_digest")
    free = isinstance(value, str) and key not in fixed
    return f"{value}{HOSTILE}" if free else value


def test_a_hostile_record_is_only_text() -> None:
    plain = Tags(render_report(record(wrong=("Q2_K",))))
    page = render_report(poisoned(record(wrong=("Q2_K",))))
    page.encode("utf-8")
    tags = Tags(page)
    signs = ("span", "text", "path", "g", "use")  # signs, and ticks where long names leave room
    assert {t: n for t, n in tags.names.items() if t not in signs} == {
        t: n for t, n in plain.names.items() if t not in signs
    }
    assert tags.names["script"] == 0
    assert not [name for name, _value in tags.attributes if name.startswith("on")]
    assert not re.search("[\x00\u202e\ud800]", page)
    assert "⟨U+202E⟩" in page
    assert "49" not in "".join(re.findall(r"\{\{.{0,8}", page))
    assert "{{ 7*7 }}" in page


def test_a_hostile_record_keeps_the_markdown_table() -> None:
    plain = render_markdown(record(wrong=("Q2_K",)))
    text = render_markdown(poisoned(record(wrong=("Q2_K",))))
    assert text.count("\n") == plain.count("\n")
    columns = [len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")]
    assert columns == [8] * 6
    assert not re.search(r"(?<!\\)[<`]", text)
    assert not re.search(r"(?<!\\)\]\(", text)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [("1. a", "1\\. a"), ("- a", "\\- a"), ("# a", "\\# a"), ("a\n\n# b", "a # b"), ("a-1 (b)", "a-1 (b)")],
)
def test_markdown_means_only_itself(text: str, escaped: str) -> None:
    assert words.markdown(text) == escaped


def test_it_stands_alone() -> None:
    page = render_report(record(wrong=("Q2_K",)))
    tags = Tags(page)
    links = [value for name, value in tags.attributes if name in ("src", "href", "xlink:href", "action")]
    assert links
    assert all(value and value.startswith("#") for value in links)
    assert "url(http" not in page
    assert "@import" not in page
    assert not set(tags.names) & {"script", "link", "iframe", "img", "object"}


def test_ids_are_unique_and_links_lead_somewhere() -> None:
    page = render_report(record())
    tags = Tags(page)
    ids = Counter(value for name, value in tags.attributes if name == "id")
    assert max(ids.values()) == 1
    used = re.findall(r"url\(#([^)]+)\)", page) + re.findall(r'href="#([^"]+)"', page)
    assert used
    assert set(used) <= set(ids)


def test_the_same_record_gives_the_same_page() -> None:
    assert render_report(record()) == render_report(record())


def test_every_figure_of_the_plots_stands_in_a_table() -> None:
    page = render_report(record())
    text = " ".join("".join(Tags(page).text).split())
    for type_ in record()["result"]["verifications"]:
        fidelity = type_["fidelity"]
        for value in (fidelity["kl"]["value"], fidelity["kl"]["low"], fidelity["expected_kl"]):
            assert words.significant(value) in text
        assert words.percent(fidelity["top1"]["high"]) in text
        assert all(words.significant(one["kl"]) in text for one in fidelity["by_text"])
        assert all(f"{count:,}" in text for _edge, count in fidelity["kl_histogram"])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -1.0, 1e308, 5e-324])
def test_any_number_gives_a_page(value: float) -> None:
    def replaced(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: replaced(one) for key, one in item.items()}
        if isinstance(item, list):
            return [replaced(one) for one in item]
        return value if isinstance(item, float) else item

    strange = replaced(record(("Q8_0", "Q2_K")))
    page = render_report(json.loads(json.dumps(strange)))
    assert "nan" not in Tags(page).text
    render_markdown(strange)


def test_without_fidelity_nothing_is_drawn_and_it_is_said() -> None:
    plain = record(("Q8_0",))
    plain["result"]["verifications"][0]["fidelity"] = None
    script = (
        "import json, sys; from ggufpack.report.page import render_report;"
        "page = render_report(json.load(sys.stdin)); print('matplotlib' in sys.modules, '<svg' in page,"
        " 'Not checked: next-token probabilities' in page)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(plain), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False", "True"]


def test_a_page_is_replaced_as_a_whole_or_not(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")
    with pytest.raises(UsageError):
        write_report({"schema": 7}, target)
    assert target.read_text() == "old"
    write_report(record(("Q8_0",)), target)
    assert target.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert target.stat().st_mode & 0o777 == 0o644


def test_markdown_is_short_and_complete() -> None:
    text = render_markdown(record(("Q8_0", "Q2_K"), wrong=("Q2_K",)))
    assert "**Failed.** smollm2-demo does not behave as trained in Q2\\_K" in text
    assert (
        "| Q8\\_0 | 144.8 MB | 0.000610 (0.000573 to 0.000653) | 98.9 % | +0.0130 | 12 of 12 equal | passed |"
        in text
    )
    assert "**Not checked**" in text
    assert f"sha256 {'a' * 64}" in text
    assert "\n\n\n" not in text
