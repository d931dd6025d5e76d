"""All real chat templates as a build learns them, judged by Ollama's own Go package on other conversations.

The figures are those reached; fewer fail. ``wrong`` is what was claimed and is not so: never.
"""

from __future__ import annotations

from collections import Counter
from multiprocessing import get_context
from pathlib import Path

import pytest

from ggufpack.chat_template import named
from ggufpack.chat_template.go_strategy import REFUSED_BY_JINJA
from tests.support.go_template_oracle.oracle import GoOracle, build_go_oracle
from tests.support.template_corpus import Measured, measure

# templates of which nothing is refused, by capability, of those that have it
WHOLE = {"chat": 65, "system": 63, "tools": 55, "thinking": 20, "prefill": 65}


def _measure(path: Path) -> Measured:
    return measure(path, build_go_oracle())


@pytest.mark.go
def test_nothing_wrong_is_claimed(real_chat_templates: list[Path], go_oracle: GoOracle) -> None:
    with get_context("spawn").Pool(2) as pool:
        found = pool.map(_measure, real_chat_templates, 1)
    assert {one.name: one.wrong for one in found if one.wrong} == {}
    assert not any("Qz" in (one.go.text or "") for one in found), "a sentinel has become a text"
    whole: Counter[str] = Counter()
    for one in found:
        whole.update(name for name, row in one.parity.items() if row.cases and not row.refused)
    assert {name: whole[name] for name, count in WHOLE.items() if whole[name] < count} == {}
    never = [one.name for one in found if one.go.text is None and one.readings.traits.chat == "plain"]
    assert never == [], "plain chat is refused though the Jinja renders it"


@pytest.mark.go
@pytest.mark.parametrize("name", named.names())
def test_our_own_templates_are_proven_too(name: str, go_oracle: GoOracle) -> None:
    found = measure(named.load(name).path, go_oracle)
    assert found.wrong == ()
    assert [one for one in found.go.refused if one.reason != REFUSED_BY_JINJA] == []
    assert found.readings.prefers_go
