"""Learning has a budget in all: what spends it is refused, or runs as the Jinja that it is."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from ggufpack.chat_template import budget, named, readings
from ggufpack.chat_template.budget import LearningLimitError, charge, learning_budget
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.strategy import choose_template
from ggufpack.errors import ChatTemplateError

CHATML = named.load("chatml").text
# some 20 ms a render: hours of nothing for a clock that looks at one render only
SLOW = "{% for i in range(20000) %}{% endfor %}"
LONG = "{% if messages | length > 1 %}{{ 'a' * 1000000 }}{% endif %}"


@pytest.fixture
def spend(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, int], None]:
    """Makes the budget smaller."""

    def smaller(seconds: float, characters: int) -> None:
        monkeypatch.setattr(readings, "learning_budget", lambda: learning_budget(seconds, characters))

    return smaller


def test_a_template_that_is_slow_each_time_is_refused(spend: Callable[[float, int], None]) -> None:
    spend(1.0, budget.LEARNING_CHARACTERS)
    started = time.thread_time()
    with pytest.raises(ChatTemplateError, match="processor time in all") as caught:
        choose_template(ChatTemplate(SLOW + CHATML), CHATML, "auto", None)
    assert caught.value.finding == "GP441"
    assert time.thread_time() - started < 2.0


def test_long_prompts_are_counted_in_all() -> None:
    """Each is below the limit of a render; kept together they would fill the memory."""
    started = time.thread_time()
    with pytest.raises(ChatTemplateError, match="100,000,000 characters in all"):
        choose_template(ChatTemplate(LONG + CHATML), CHATML, "auto", None)
    assert time.thread_time() - started < 10.0


def test_what_cannot_be_learned_in_time_runs_as_jinja(monkeypatch: pytest.MonkeyPatch) -> None:
    def learn(*_arguments: object) -> None:
        raise LearningLimitError("it takes too much")

    monkeypatch.setattr(readings, "learn_template", learn)
    made = choose_template(ChatTemplate(CHATML), CHATML, "auto", (0, 33, 0))
    assert (made.strategy, made.go_template) == ("native", None)
    assert "GP442" in [finding.id for finding in made.findings]
    with pytest.raises(ChatTemplateError, match="it takes too much") as caught:
        choose_template(ChatTemplate(CHATML), CHATML, "auto", (0, 24, 0))
    assert caught.value.finding == "GP426"


def test_the_budget_is_of_what_is_inside() -> None:
    charge(10**12)
    with learning_budget(100.0, 10):
        charge(10)
        with learning_budget(100.0, 20):
            charge(20)
        with pytest.raises(LearningLimitError, match="characters"):
            charge(1)
    with learning_budget(0.0, 10), pytest.raises(LearningLimitError, match="processor time"):
        charge()
    charge(10**12)
