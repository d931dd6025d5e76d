"""A batch's page and a model card of which every text is a stranger's: nothing of it is markup.

The report's own page is in test_page.py.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from ggufpack.errors import UsageError
from ggufpack.publishing.card import CardFacts, render_card
from ggufpack.publishing.hub import parse_target
from ggufpack.report.index import Line, render_index
from tests.support.records import record

from .test_page import HOSTILE, Tags, poisoned

MARKUP = (
    HOSTILE,
    "<img src=x onerror=alert(1)>",
    "</td></tr></table><script>x</script>",
    "</style><script>alert(1)</script>",
    "\n---\nlicense: mit\n---\n# From the bank",
    "\n\n```\n<script>x</script>\n```\n",
    "[a](javascript:alert(1)) ![b](http://x/y.png) <http://x>",
    "| a | b |\n|---|---|\n| c | d |",
    "&lt;script&gt; &#60;b&#62;",
    "{% raw %}{{ 7*7 }}",
    "javascript:alert(1)",
)


def line(text: str, number: int) -> Line:
    return Line(text, text, number, text, text, text, 1, 0.5, 0.5, 1.0)


@pytest.mark.parametrize("text", MARKUP)
def test_the_page_of_a_batch(text: str) -> None:
    plain = Tags(render_index("title", [line("plain", 1), line("plain", 2)]))
    page = render_index(text, [line(text, 1), line(text, 2)])
    page.encode("utf-8")
    tags = Tags(page)
    ticks = ("text", "path", "g", "use", "tspan")  # where long names leave room
    assert {name: n for name, n in tags.names.items() if name not in ticks} == {
        name: n for name, n in plain.names.items() if name not in ticks
    }
    assert not [name for name, _value in tags.attributes if name.startswith("on")]
    links = [value or "" for name, value in tags.attributes if name == "href"]
    assert not [link for link in links if re.match(r"[\s\x00-\x1f]*[A-Za-z][A-Za-z0-9+.-]*:|//", link)]
    assert not re.search("[\x00\u202e\ud800]", page)


def test_a_folder_whose_name_is_no_utf_8() -> None:
    """Python has half characters for its bytes; a browser asks for the bytes."""
    [link] = [
        v for n, v in Tags(render_index("t", [line("a\udcff b", 1)])).attributes if n == "href" and v != "#"
    ]
    assert link == "a%FF%20b"


def card_of(made: dict[str, Any], *, template: bool) -> tuple[dict[str, Any], Tags, str]:
    """Front matter, the elements that a Markdown reader makes of the rest, and the text."""
    card = render_card(made, CardFacts("anna/x-GGUF", "mit", ("a/b",), template=template))
    card.encode("utf-8")
    empty, head, body = card.split("---\n", 2)
    assert empty == ""
    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    return yaml.safe_load(head), Tags(reader.render(body)), card


def replaced(value: Any, text: str) -> Any:
    """``poisoned`` with another text."""
    if isinstance(value, dict):
        return {key: replaced(item, text) for key, item in value.items()}
    if isinstance(value, list):
        return [replaced(item, text) for item in value]
    return value.replace(HOSTILE, text) if isinstance(value, str) else value


@pytest.mark.parametrize("text", MARKUP)
@pytest.mark.parametrize("template", [True, False])
def test_a_model_card(text: str, template: bool) -> None:
    made = record(wrong=("Q2_K",))
    plain_head, plain, _ = card_of(made, template=template)
    head, tags, card = card_of(replaced(poisoned(made), text), template=template)
    assert head == plain_head
    changed = Counter({name: n for name, n in tags.names.items() if n != plain.names[name]})
    # em and strong are ours; a code block is left out where a file's name is no word of a command
    assert set(changed) <= {"pre", "code"}, changed
    assert not set(tags.names) & {"script", "img", "a", "b", "style", "iframe"}
    assert not [name for name, _value in tags.attributes if name.startswith("on")]
    assert not re.search("[\x00\u202e\ud800]", card)
    assert "49" not in "".join(re.findall(r"\{\{.{0,8}", card))


@pytest.mark.parametrize("repo", ["anna/x\n---\nlicense: evil", "anna/<script>", "anna/x y", "x", "anna/`x`"])
def test_a_repository_that_is_none(repo: str) -> None:
    with pytest.raises(UsageError, match="is no repository"):
        parse_target(f"hf:{repo}")
