"""The report in a real browser: readable without network and scripts, on a phone, light and dark."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Page

from ggufpack.report.page import write_report
from tests.support.browser import Chromium, violations
from tests.support.records import record

Scheme = Literal["light", "dark"]
WIDTHS = (1280, 375)
SCHEMES: tuple[Scheme, ...] = ("light", "dark")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A package that is as trained, and one that fails everywhere."""
    folder = tmp_path_factory.mktemp("pages")
    made = {"sound": record(), "broken": record(wrong=("Q4_K_M", "Q2_K"))}
    for name, content in made.items():
        write_report(content, folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in made}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["sound", "broken"])
def test_it_is_read_without_network_and_scripts(
    chromium: Chromium, pages: dict[str, Path], name: str, width: int, scheme: Scheme
) -> None:
    with chromium.page(pages[name], width=width, scheme=scheme) as (page, requests):
        assert page.evaluate("document.documentElement.scrollWidth") == width
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") == width, wide(page)
        for selector in (".verdict", ".figures"):
            box = page.locator(selector).bounding_box()
            assert box is not None
            assert box["y"] + box["height"] <= page.viewport_size["height"], selector  # type: ignore[index]
        expected = "Verified" if name == "sound" else "Not as trained"
        assert expected in page.locator(".verdict .status").inner_text()
        assert page.locator("svg[role=img]").count() == 5
        assert requests == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["sound", "broken"])
def test_it_meets_wcag(
    chromium: Chromium, pages: dict[str, Path], name: str, width: int, scheme: Scheme
) -> None:
    with chromium.page(pages[name], width=width, scheme=scheme, scripts=True) as (page, _requests):
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert violations(page) == []
        pale = [f"{text!r} {ratio:.2f}" for text, ratio in contrast_of_plots(page) if ratio < 4.5]
        assert not pale, "axe does not look into SVG"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_plots_follow_the_scheme(chromium: Chromium, pages: dict[str, Path], scheme: Scheme) -> None:
    with chromium.page(pages["sound"], width=375, scheme=scheme) as (page, _requests):
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        ink = page.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
        assert (brightness(background) > 128) == (scheme == "light")
        assert (brightness(ink) > 128) == (scheme == "dark")


def test_print_shows_what_is_folded(chromium: Chromium, pages: dict[str, Path]) -> None:
    with chromium.page(pages["sound"], width=1280, scheme="light") as (page, _requests):
        folded = page.locator("details:not([open]) td").first
        assert not folded.is_visible()
        page.emulate_media(media="print")
        assert folded.is_visible()


def wide(page: Page) -> object:
    """What stands over the right edge, for the message."""
    return page.evaluate(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll')"
        " && e.getBoundingClientRect().right > innerWidth).slice(0, 5).map(e => e.outerHTML.slice(0, 120))"
    )


def brightness(colour: str) -> float:
    """Mean of red, green and blue of ``rgb(1, 2, 3)``."""
    red, green, blue = (int(part) for part in colour[4:-1].split(","))
    return (red + green + blue) / 3


def contrast_of_plots(page: Page) -> list[tuple[str, float]]:
    """Each text in a plot, and WCAG's contrast ratio of its colour on the page's."""
    texts, background = page.evaluate(
        "[[...document.querySelectorAll('svg text')].map(t => [t.textContent, getComputedStyle(t).fill]),"
        " getComputedStyle(document.body).backgroundColor]"
    )
    below = luminance(background)
    pairs = [(text, sorted((luminance(fill), below))) for text, fill in texts]
    assert len(pairs) > 50
    return [(text, (high + 0.05) / (low + 0.05)) for text, (low, high) in pairs]


def luminance(colour: str) -> float:
    """WCAG's relative luminance."""
    parts = [int(part) / 255 for part in colour[4:-1].split(",")]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
