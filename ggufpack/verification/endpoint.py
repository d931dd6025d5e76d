"""What an OpenAI-compatible server does with a checkpoint's conversations: prompts, answers, stops, streams.

What a server does not offer is "not checked", never passed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from ggufpack.chat_template.heldout import TOOLS
from ggufpack.chat_template.prompt import Prompt
from ggufpack.engine.openai_answers import OpenAIAnswer
from ggufpack.engine.openai_endpoint import OpenAIEndpoint
from ggufpack.engine.openai_requests import MOST_LOGPROBS, forced_text, forced_token
from ggufpack.engine.protocol import Message
from ggufpack.errors import EndpointRefusedError, ExchangeBrokenError, ServerResponseError
from ggufpack.proofs import ParsedCheck, PromptCase, SmokeResult, StopCheck, StreamCheck
from ggufpack.registry.chat import ChatAnswer
from ggufpack.spec import EventHandler, Progress, Stage
from ggufpack.verification.agreement import choices, compare
from ggufpack.verification.conversations import CONVERSATIONS, SMOKE_MESSAGES, Conversation
from ggufpack.verification.logprobs import PLAIN
from ggufpack.verification.parsed import SUM, WEATHER, find_tags, judge_calls, judge_thinking
from ggufpack.verification.prompts import ExpectedPrompt, describe_difference, without_bos

Tokenize = Callable[[str], Sequence[int]]
PromptsBy = Literal["text", "ids", "length", "nothing"]

ANSWER_TOKENS = 128
COMPARED_TOKENS = 32  # of each conversation: answers part before long
_CALL_TOKENS = 128
# where a server shows no prompt, its length in these is compared: texts that engines cut alike
_COUNTED = tuple(one for one in CONVERSATIONS if one.count_tokens or one in PLAIN)


def check_prompts(
    endpoint: OpenAIEndpoint,
    expected: ExpectedPrompt,
    tokenize: Tokenize,
    prompt: Prompt,
    on_event: EventHandler,
) -> tuple[tuple[PromptCase, ...], PromptsBy]:
    """Compare prompts: their text (Ollama), their token ids (vLLM), or else their number of tokens.

    Args:
        endpoint: the served model.
        expected: the prompt by the checkpoint's template, or ``None`` where the template refuses.
        tokenize: of the checkpoint, nothing added.
        prompt: of the checkpoint.
        on_event: told after each conversation.

    Returns:
        the conversations, and what of them was compared.

    Raises:
        RegistryError: the server cannot be reached, or went away. That it refuses one conversation is a case.
    """
    by = _shown_by(endpoint, prompt)
    if by == "nothing":
        return (), by
    shows = by != "length"
    conversations = CONVERSATIONS if shows else _COUNTED
    cases = []
    for done, conversation in enumerate(conversations, start=1):
        text = expected(conversation.messages)
        if text is not None:
            try:
                cases.append(_compare(endpoint, conversation, text, tokenize, prompt, shows))
            except ExchangeBrokenError:
                raise
            except ServerResponseError as error:
                cases.append(PromptCase(conversation.name, False, text, None, detail=str(error)))
        on_event(
            Progress(Stage.VERIFICATION, done, len(conversations), "conversations", item=conversation.name)
        )
    return tuple(cases), by


def _shown_by(endpoint: OpenAIEndpoint, prompt: Prompt) -> PromptsBy:
    messages, think = PLAIN[0].messages, prompt.plan.think
    shown = endpoint.show_prompt(messages, think=think)
    if shown is not None:
        return "ids" if shown.prompt_text is None else "text"
    counted = endpoint.chat(messages, max_tokens=1, think=think).prompt_tokens
    return "nothing" if counted is None else "length"


def _compare(
    endpoint: OpenAIEndpoint,
    conversation: Conversation,
    expected: str,
    tokenize: Tokenize,
    prompt: Prompt,
    shows: bool,
) -> PromptCase:
    think = prompt.plan.think
    shown = endpoint.show_prompt(conversation.messages, think=think) if shows else None
    if shown is not None and shown.prompt_text is not None:
        bos = prompt.bos
        difference = describe_difference(without_bos(expected, bos), without_bos(shown.prompt_text, bos))
        case = PromptCase(
            conversation.name, not difference, expected, shown.prompt_text, detail=difference or None
        )
        if difference or not conversation.count_tokens:
            return case
    elif shown is not None and shown.prompt_ids is not None:
        return _compare_ids(conversation, expected, tokenize(expected), shown.prompt_ids)
    else:
        case = PromptCase(conversation.name, True, expected, None)
    return _compare_lengths(endpoint, conversation, case, len(tokenize(expected)), think)


def _compare_ids(
    conversation: Conversation, expected: str, wanted: Sequence[int], actual: Sequence[int]
) -> PromptCase:
    case = PromptCase(conversation.name, True, expected, None, len(wanted), len(actual))
    if list(wanted) == list(actual):
        return case
    at = next(
        (i for i, pair in enumerate(zip(wanted, actual, strict=False)) if pair[0] != pair[1]),
        min(len(wanted), len(actual)),
    )
    ids = f"expected ids {list(wanted[at : at + 5])}, got {list(actual[at : at + 5])}"
    return replace(case, equal=False, detail=f"from token {at} on, {ids}")


def _compare_lengths(
    endpoint: OpenAIEndpoint, conversation: Conversation, case: PromptCase, wanted: int, think: bool | None
) -> PromptCase:
    counted = endpoint.chat(conversation.messages, max_tokens=1, think=think).prompt_tokens
    if counted is None:
        detail = "tokens were not counted: the server does not say how many"
        return replace(case, expected_tokens=wanted, detail=detail)
    differs = None if counted == wanted else f"the server counts {counted} tokens, the tokenizer {wanted}"
    return replace(
        case,
        equal=counted == wanted or conversation.rare,
        expected_tokens=wanted,
        actual_tokens=counted,
        detail=differs,
    )


def answer(
    endpoint: OpenAIEndpoint, messages: Sequence[Message], prompt: Prompt, max_tokens: int
) -> OpenAIAnswer:
    """A greedy answer, with log probabilities where the server has them.

    Raises:
        RegistryError: the server failed.
    """
    think = prompt.plan.think
    try:
        return endpoint.chat(messages, max_tokens=max_tokens, think=think, top_logprobs=MOST_LOGPROBS)
    except EndpointRefusedError:
        return endpoint.chat(messages, max_tokens=max_tokens, think=think)


def check_answer(endpoint: OpenAIEndpoint, prompt: Prompt) -> tuple[SmokeResult, StreamCheck]:
    """One answer, whole and streamed.

    Raises:
        RegistryError: the server failed.
    """
    whole = answer(endpoint, SMOKE_MESSAGES, prompt, ANSWER_TOKENS)
    text = whole.thinking + whole.text
    leaked = tuple(sorted({one for one in prompt.special_texts if one.strip() and one in text}))
    reasons = []
    if whole.finish_reason != "stop":
        reasons.append(
            f"it did not end by itself within {ANSWER_TOKENS} tokens ({whole.finish_reason or 'no reason'})"
        )
    if not text.strip():
        reasons.append("the answer is empty")
    if leaked:
        reasons.append(f"special tokens in the text: {', '.join(leaked)}")
    smoke = SmokeResult(
        ok=not reasons,
        text=text,
        done_reason=whole.finish_reason,
        generated_tokens=whole.generated_tokens or 0,
        leaked=leaked,
        detail="; ".join(reasons) or None,
    )
    options: dict[str, Any] = {"max_tokens": ANSWER_TOKENS, "think": prompt.plan.think}
    if whole.tokens:
        options["top_logprobs"] = MOST_LOGPROBS
    streamed = endpoint.stream(SMOKE_MESSAGES, **options)
    return smoke, compare_streamed("one answer", whole, streamed)


def compare_streamed(case: str, whole: OpenAIAnswer, streamed: OpenAIAnswer) -> StreamCheck:
    """The same request twice. Two runs may part at a near tie: that is not the stream's fault."""
    differing = [
        f"{what} is {getattr(streamed, field)!r} in the stream, {getattr(whole, field)!r} in the whole answer"
        for what, field in (
            ("the text", "text"),
            ("the thinking", "thinking"),
            ("the reason of its end", "finish_reason"),
            ("the number of prompt tokens", "prompt_tokens"),
        )
        if getattr(whole, field) != getattr(streamed, field)
    ]
    if [call.name for call in whole.calls] != [call.name for call in streamed.calls]:
        differing.append(
            f"its tool calls are {streamed.calls} in the stream, {whole.calls} in the whole answer"
        )
    if not differing:
        return StreamCheck(case, True)
    if streamed.prompt_tokens is None and whole.prompt_tokens is not None and len(differing) == 1:
        return StreamCheck(case, None, "the stream has no usage")
    parting = compare(choices(whole), choices(streamed))
    same_prompt = whole.prompt_tokens == streamed.prompt_tokens
    if same_prompt and parting.agreed < parting.places and parting.detail is None:
        return StreamCheck(case, None, "the server's two answers part at a near tie")
    return StreamCheck(case, False, differing[0])


def check_stops(
    endpoint: OpenAIEndpoint, strings: Sequence[str], end_tokens: Sequence[tuple[int, str]]
) -> tuple[StopCheck, ...]:
    """Try what ends an answer.

    Args:
        endpoint: the served model.
        strings: stop parameters; only Ollama stores any with a model, so others are not asked.
        end_tokens: ids and texts. A server without a logit bias (Ollama) cannot be made to write one.

    Raises:
        RegistryError: the server failed.
    """
    found = [_string(endpoint, stop) for stop in strings] if endpoint.kind == "ollama" else []
    return (*found, *(_token(endpoint, token, text) for token, text in end_tokens))


def _string(endpoint: OpenAIEndpoint, stop: str) -> StopCheck:
    text = f"one{stop}two"
    # the grammar holds from the first token only where the model does not think
    given = _forced(endpoint, forced_text(text), 4 * len(text))
    if isinstance(given, str):
        return StopCheck(stop, "string", None, given)
    if stop in given.text:
        return StopCheck(stop, "string", False, f"the answer goes on: {given.text!r}")
    if given.finish_reason != "stop" or not given.text.endswith("one"):
        return StopCheck(stop, "string", None, f"the server could not be made to write it ({given.text!r})")
    return StopCheck(stop, "string", True)


def _token(endpoint: OpenAIEndpoint, token: int, text: str) -> StopCheck:
    if endpoint.kind == "ollama":
        return StopCheck(text, "token", None, "Ollama's OpenAI API has no logit_bias")
    given = _forced(endpoint, forced_token(token), 8)
    if isinstance(given, str):
        return StopCheck(text, "token", None, given)
    said = given.thinking + given.text
    if said.replace(text, ""):
        return StopCheck(text, "token", None, f"the server could not be made to write it ({said!r})")
    if said or given.finish_reason != "stop":
        return StopCheck(text, "token", False, f"8 of them did not end it ({said!r}, {given.finish_reason})")
    return StopCheck(text, "token", True)


def _forced(endpoint: OpenAIEndpoint, extra: dict[str, Any], max_tokens: int) -> OpenAIAnswer | str:
    """The answer, or why the server gives none."""
    question: list[Message] = [{"role": "user", "content": "Answer:"}]
    try:
        return endpoint.chat(question, max_tokens=max_tokens, think=False, extra=extra)
    except EndpointRefusedError as error:
        return error.problem


def check_parsed(
    endpoint: OpenAIEndpoint, prompt: Prompt
) -> tuple[tuple[ParsedCheck, ...], tuple[StreamCheck, ...]]:
    """Whether thinking and tool calls come in their own fields, and calls in a stream as well.

    A server may need to be told how to find them (vLLM: ``--enable-auto-tool-choice``,
    ``--tool-call-parser``, ``--reasoning-parser``). Where it refuses tools, or the model uses none, nothing
    is known.

    Raises:
        RegistryError: the server failed.
    """
    readings = prompt.plan.readings
    if prompt.template is None or readings is None:
        return (), ()
    carried = (readings.go if prompt.plan.strategy == "go" else readings.native).capabilities
    tags = find_tags(prompt.template, readings.traits)
    found: list[ParsedCheck] = []
    streams: list[StreamCheck] = []
    if "thinking" in carried and readings.traits.thinking:
        given = endpoint.chat([SUM], max_tokens=_CALL_TOKENS, think=True)
        found.append(judge_thinking(_as_chat(given), tags))
    if "tools" in carried and readings.traits.calls:
        options: dict[str, Any] = {"max_tokens": _CALL_TOKENS, "think": prompt.plan.think, "tools": TOOLS[:1]}
        try:
            given = endpoint.chat([WEATHER], **options)
        except EndpointRefusedError as error:
            found.append(ParsedCheck("tool_calls", None, error.problem))
        else:
            check = judge_calls(_as_chat(given), tags)
            if check.parsed and given.finish_reason != "tool_calls":
                detail = f"the reason of the end is {given.finish_reason!r}, not 'tool_calls'"
                check = ParsedCheck("tool_calls", False, detail)
            found.append(check)
            if check.parsed:
                streams.append(compare_streamed("a tool call", given, endpoint.stream([WEATHER], **options)))
    return tuple(found), tuple(streams)


def _as_chat(given: OpenAIAnswer) -> ChatAnswer:
    calls = [{"function": {"name": call.name, "arguments": call.arguments}} for call in given.calls]
    raw = {"message": {"tool_calls": calls}}
    return ChatAnswer(given.text, given.thinking, given.finish_reason, 0, 0, raw)
