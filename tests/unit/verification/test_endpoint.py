"""A served endpoint that refuses conversations, and one that goes away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from ggufpack.chat_template.prompt import Prompt
from ggufpack.chat_template.strategy import plan_without_template
from ggufpack.engine.openai_answers import OpenAIAnswer
from ggufpack.engine.openai_endpoint import OpenAIEndpoint
from ggufpack.errors import (
    ExchangeBrokenError,
    GgufpackError,
    ServerResponseError,
    ServerUnreachableError,
)
from ggufpack.spec import ignore_event
from ggufpack.verification.conversations import CONVERSATIONS
from ggufpack.verification.endpoint import check_prompts

PROMPT = Prompt(None, plan_without_template(encoder=False), (), "", (), ())


class Ends(OpenAIEndpoint):
    """Shows one prompt, then fails."""

    def __init__(self, error: GgufpackError) -> None:
        super().__init__("http://127.0.0.1:9", "m")
        self.error = error
        self.asked = 0

    def show_prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        think: bool | None = None,
    ) -> OpenAIAnswer | None:
        self.asked += 1
        if self.asked > 1:
            raise self.error
        return OpenAIAnswer("", prompt_text="x")


@pytest.mark.parametrize("kind", [ExchangeBrokenError, ServerUnreachableError])
def test_one_that_goes_away_has_said_nothing_about_the_model(kind: type[GgufpackError]) -> None:
    endpoint = Ends(kind("gone"))
    with endpoint, pytest.raises(kind, match="gone"):
        check_prompts(endpoint, lambda _: "x", lambda _: [], PROMPT, ignore_event)
    assert endpoint.asked == 2


def test_a_refusal_is_a_case() -> None:
    with Ends(ServerResponseError("roles must alternate")) as endpoint:
        cases, by = check_prompts(endpoint, lambda _: "x", lambda _: [], PROMPT, ignore_event)
    assert by == "text"
    assert len(cases) == len(CONVERSATIONS)
    assert all(not case.equal and case.detail == "roles must alternate" for case in cases)
