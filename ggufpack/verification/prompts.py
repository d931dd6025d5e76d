"""Prompt parity: what the checkpoint's template gives against what the engine really uses.

The text is compared without one leading BOS token on both sides: Ollama ≤ 0.29 shows the prompt without the
BOS that its engine adds, ≥ 0.30 strips some of them, llama.cpp strips the template's (facts: ollama
server/prompt.go, llm/llama_server.go; llama.cpp common/chat.cpp). A BOS that is missing or doubled in the
end shows in the token counts, which are compared with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ggufpack.engine.protocol import Engine, Message
from ggufpack.errors import ExchangeBrokenError, GgufpackError, ServerUnreachableError
from ggufpack.proofs import PromptCase
from ggufpack.spec import EventHandler, Progress, Stage, ignore_event
from ggufpack.verification.conversations import CONVERSATIONS, Conversation

ExpectedPrompt = Callable[[Sequence[Message]], "str | None"]
TokenCounter = Callable[[str], int]

_NO_ANSWER = (ServerUnreachableError, ExchangeBrokenError)
_CONTEXT = 30  # characters shown on each side of the first difference


def check_prompts(
    engine: Engine,
    expected: ExpectedPrompt,
    count_tokens: TokenCounter | None = None,
    bos_text: str = "",
    *,
    think: bool | None = None,
    conversations: Sequence[Conversation] = CONVERSATIONS,
    on_event: EventHandler = ignore_event,
) -> tuple[PromptCase, ...]:
    """Compare every conversation that the checkpoint's template accepts.

    Args:
        engine: renders, and counts the tokens of a few prompts (one token is generated for each; both
            engines count cached prompt tokens too: Ollama as ``cache_n + prompt_n`` in
            llm/llama_server.go, llama.cpp as ``usage.prompt_tokens``).
        expected: the prompt by the checkpoint's template, or ``None`` where the template refuses.
        count_tokens: tokens of a rendered prompt by the checkpoint's tokenizer, nothing added.
        bos_text: the text of the BOS token; ``""`` when there is none.
        think: what the engine is told about thinking; ``None`` for nothing.
        conversations: what to compare.
        on_event: told after each conversation.

    Raises:
        ServerUnreachableError, ExchangeBrokenError: the engine's server went away. Any other error is the
            engine's answer: a case that is not equal.
    """
    cases = []
    for done, conversation in enumerate(conversations, start=1):
        text = expected(conversation.messages)
        if text is not None:
            case = _compare(engine, conversation, text, bos_text, think)
            if case.equal and count_tokens is not None and conversation.count_tokens:
                case = _compare_tokens(engine, conversation, case, count_tokens, think)
            cases.append(case)
        on_event(
            Progress(Stage.VERIFICATION, done, len(conversations), "conversations", item=conversation.name)
        )
    return tuple(cases)


def describe_difference(expected: str, actual: str) -> str:
    """Where two texts first differ, escaped, with some text around it. ``""`` when they are equal."""
    if expected == actual:
        return ""
    limit = min(len(expected), len(actual))
    at = next((i for i in range(limit) if expected[i] != actual[i]), limit)
    return f"at character {at}: expected {_excerpt(expected, at)}, got {_excerpt(actual, at)}"


def without_bos(text: str, bos_text: str) -> str:
    """``text`` without one leading BOS."""
    return text.removeprefix(bos_text)


def _compare(
    engine: Engine, conversation: Conversation, expected: str, bos_text: str, think: bool | None
) -> PromptCase:
    try:
        actual = engine.render(conversation.messages, think=think)
    except _NO_ANSWER:
        raise
    except GgufpackError as error:
        return PromptCase(conversation.name, False, expected, None, detail=f"the engine refused: {error}")
    difference = describe_difference(without_bos(expected, bos_text), without_bos(actual, bos_text))
    return PromptCase(conversation.name, not difference, expected, actual, detail=difference or None)


def _compare_tokens(
    engine: Engine,
    conversation: Conversation,
    case: PromptCase,
    count_tokens: TokenCounter,
    think: bool | None,
) -> PromptCase:
    wanted = count_tokens(case.expected)
    try:
        counted = engine.generate(conversation.messages, max_tokens=1, think=think).prompt_tokens
    except _NO_ANSWER:
        raise
    except GgufpackError as error:
        return replace(case, expected_tokens=wanted, detail=f"tokens were not counted: {error}")
    if counted == 0:
        return replace(
            case, expected_tokens=wanted, detail="tokens were not counted: the engine does not say how many"
        )
    if counted == wanted:
        return replace(case, expected_tokens=wanted, actual_tokens=counted)
    return replace(
        case,
        equal=conversation.rare,
        expected_tokens=wanted,
        actual_tokens=counted,
        detail=f"the text is equal, but the engine counts {counted} tokens, the tokenizer {wanted}",
    )


def _excerpt(text: str, at: int) -> str:
    start, end = max(0, at - _CONTEXT), at + _CONTEXT
    before, after = text[start:at], text[at:end]
    shown = f"{escaped(before)}⟨here⟩{escaped(after)}"
    return f"'{'…' if start else ''}{shown}{'…' if end < len(text) else ''}'"


def escaped(text: str) -> str:
    """Text with control characters and all but ASCII as escapes: nothing invisible stays."""
    return text.encode("unicode_escape").decode("ascii")
