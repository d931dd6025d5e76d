"""The page that compares a batch's packages, in a real browser: on a phone, light and dark, WCAG."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggufpack.report.index import Line, write_index
from tests.integration.test_report_page import SCHEMES, WIDTHS, Scheme, luminance, wide
from tests.support.browser import Chromium, violations

LONG = "The conversion worker was killed, most likely because memory ran out. " * 2


@pytest.fixture(scope="module")
def page_of_a_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    lines = []
    for run in ("learning-rate-0.0001", "learning-rate-0.00001"):
        for step in (100, 200, 300, None):
            name = f"{run}-{step or 'final'}"
            failed = step == 300 and run.endswith("00001")
            (folder / name).mkdir()
            (folder / name / "report.html").write_text("<title>report</title>")
            lines.append(
                Line(
                    name=name,
                    run=run,
                    step=step,
                    status="error" if failed else "verified",
                    problem=LONG if failed else None,
                    link=None if failed else f"{name}/report.html",
                    size=None if failed else 123_456_789,
                    kl=None if failed else 3.0 / (step or 400),
                    top1=None if failed else 0.987,
                    seconds=61.5,
                )
            )
    write_index("2 runs", lines, folder / "index.html")
    return folder / "index.html"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_is_read_anywhere(chromium: Chromium, page_of_a_sweep: Path, width: int, scheme: Scheme) -> None:
    with chromium.page(page_of_a_sweep, width=width, scheme=scheme) as (page, requests):
        assert page.evaluate("document.documentElement.scrollWidth") == width, wide(page)
        assert page.locator("tbody tr").count() == 8
        assert page.locator("svg[role=img]").count() == 1
        assert requests == []
        page.get_by_role("link", name="learning-rate-0.0001-100").click()
        page.wait_for_url("**/learning-rate-0.0001-100/report.html")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_meets_wcag(chromium: Chromium, page_of_a_sweep: Path, width: int, scheme: Scheme) -> None:
    with chromium.page(page_of_a_sweep, width=width, scheme=scheme, scripts=True) as (page, _requests):
        assert violations(page) == []
        texts, background = page.evaluate(
            "[[...document.querySelectorAll('svg text')].map(t => getComputedStyle(t).fill),"
            " getComputedStyle(document.body).backgroundColor]"
        )
        for fill in texts:
            low, high = sorted((luminance(fill), luminance(background)))
            assert (high + 0.05) / (low + 0.05) >= 4.5
