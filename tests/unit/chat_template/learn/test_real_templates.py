"""All real templates: what is learned against the Jinja, by Ollama's own engine, on held-out texts.

The numbers are those reached; a regression fails. ``wrong`` here is a template that the proof refuses.
"""

from __future__ import annotations

import re
from collections import Counter
from multiprocessing import get_context
from pathlib import Path

import pytest

from ggufpack.chat_template.go.emit import emit
from ggufpack.chat_template.learn import learn
from ggufpack.chat_template.parity import canonical
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.traits import Traits, probe_traits
from ggufpack.errors import ChatTemplateError
from tests.support.go_template_oracle.oracle import GoOracle, build_go_oracle
from tests.unit.chat_template.learn.heldout import heldout
from tests.unit.chat_template.learn.support import TOKENS

CONVERSATIONS = 40
PLAIN = frozenset(("system", "prefill"))
EVERYTHING = PLAIN | {"tools", "calls", "thinking"}

Verdicts = dict[str, str]


def possible(traits: Traits) -> frozenset[str]:
    found = {
        "system": traits.system != "raises",
        "tools": traits.tools,
        "calls": traits.calls,
        "thinking": traits.thinking or bool(traits.switches),
        "prefill": traits.prefill,
    }
    return frozenset(name for name, has in found.items() if has)


def verdict(template: ChatTemplate, traits: Traits, capabilities: frozenset[str], oracle: GoOracle) -> str:
    text = emit(learn(template, traits, capabilities).template)
    assert not re.search(r"Qz\w", text), "a sentinel has become a text of the template"
    cases = []
    for conversation in heldout(traits, capabilities, CONVERSATIONS):
        try:
            cases.append((conversation, traits.prompt(template, conversation)))
        except ChatTemplateError:
            continue
    requests = [
        {
            "template": text,
            "messages": conversation.for_ollama(),
            "tools": list(conversation.tools) or None,
            "think": conversation.think,
        }
        for conversation, _ in cases
    ]
    answers = [answer["text"] for answer in oracle.ask("render", requests)]
    if all(answer == expected for answer, (_, expected) in zip(answers, cases, strict=True)):
        return "exact"
    same = [
        canonical(answer) == canonical(expected) for answer, (_, expected) in zip(answers, cases, strict=True)
    ]
    return "json" if all(same) else "wrong"


def judge(path: Path) -> Verdicts:
    # by the real clock, as the oracle's
    template = ChatTemplate(path.read_text(encoding="utf-8"), special_tokens=TOKENS)
    traits = probe_traits(template)
    if traits.chat == "never":
        return {}
    oracle = build_go_oracle()
    able = possible(traits)
    found = {"plain": verdict(template, traits, PLAIN & able, oracle)}
    if traits.tools:
        found["tools"] = verdict(template, traits, (PLAIN | {"tools"}) & able, oracle)
    if "thinking" in able:
        found["thinking"] = verdict(template, traits, (PLAIN | {"thinking"}) & able, oracle)
    found["everything"] = verdict(template, traits, EVERYTHING & able, oracle)
    return found


@pytest.mark.go
def test_what_is_learned_of_the_real_templates(real_chat_templates: list[Path], go_oracle: GoOracle) -> None:
    with get_context("spawn").Pool(2) as pool:
        found = dict(
            zip(
                [path.stem for path in real_chat_templates],
                pool.map(judge, real_chat_templates, 1),
                strict=True,
            )
        )
    counts = {
        name: Counter(verdicts[name] for verdicts in found.values() if name in verdicts)
        for name in ("plain", "tools", "thinking", "everything")
    }
    wrong = {stem: verdicts for stem, verdicts in found.items() if "wrong" in verdicts.values()}
    assert counts["plain"] == {"exact": 69}, wrong
    assert counts["tools"]["wrong"] == 0, wrong
    assert counts["tools"]["exact"] >= 60, wrong
    assert counts["thinking"]["wrong"] == 0, wrong
    assert counts["everything"]["exact"] >= 54, wrong
