"""Greedy answers of a served model against the trained model's, or against another served model's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from ggufpack.chat_template.prompt import Prompt
from ggufpack.engine.openai_answers import OpenAIAnswer
from ggufpack.engine.openai_endpoint import OpenAIEndpoint
from ggufpack.engine.protocol import Message
from ggufpack.proofs import Agreement
from ggufpack.spec import EventHandler, Progress, Stage
from ggufpack.verification.agreement import MARGIN, Choice, Parting, choices, compare
from ggufpack.verification.endpoint import COMPARED_TOKENS, answer
from ggufpack.verification.fidelity.measure import FidelityCheck, SourceChoice
from ggufpack.verification.logprobs import PLAIN
from ggufpack.verification.prompts import ExpectedPrompt

TokenText = Callable[[int], "str | None"]


def agree_with_endpoint(
    endpoint: OpenAIEndpoint, other: OpenAIEndpoint, prompt: Prompt, on_event: EventHandler
) -> Agreement:
    """Two served models, each on its own path. Conversations without log probabilities are left out.

    Raises:
        RegistryError: a server failed.
    """

    def part(messages: Sequence[Message]) -> Parting | None:
        given = [answer(one, messages, prompt, COMPARED_TOKENS) for one in (endpoint, other)]
        if not all(one.tokens for one in given):
            return None
        return compare(choices(given[0]), choices(given[1]))

    return _agreement(f"{other.model} on {other.name}", part, on_event)


def agree_with_source(
    endpoint: OpenAIEndpoint,
    check: FidelityCheck,
    prompt: Prompt,
    expected: ExpectedPrompt,
    end_tokens: Collection[int],
    text_of: TokenText,
    on_event: EventHandler,
) -> Agreement:
    """The trained model reads prompt and answer, and says at each place what it would have written.

    It needs no log probabilities. Answers whose text the tokenizer cuts otherwise than the model wrote it,
    and those with thinking in a field of its own, cannot be laid beside it and are left out.

    Args:
        endpoint: the served model.
        check: the trained model, entered.
        prompt: of the checkpoint.
        expected: see ``check_prompts``.
        end_tokens: ids that end a turn.
        text_of: the text of a token id, for people.
        on_event: told after each conversation.

    Raises:
        RegistryError: the server failed.
        VerificationError: the trained model cannot be run.
    """

    def part(messages: Sequence[Message]) -> Parting | None:
        text = expected(messages)
        if text is None:
            return None
        given = answer(endpoint, messages, prompt, COMPARED_TOKENS)
        written = _written(given)
        before, whole = check.tokenize([text, text + written])
        ids = whole[len(before) :]
        if whole[: len(before)] != before or not _is_cut_alike(given, ids):
            return None
        found = check.choices(whole, len(before))
        left, right = _lay(given, ids, found, end_tokens, text_of)
        return compare(left, right, one_path=True)

    return _agreement("the trained model", part, on_event)


def _agreement(
    against: str, part: Callable[[Sequence[Message]], Parting | None], on_event: EventHandler
) -> Agreement:
    partings: list[tuple[str, Parting]] = []
    for done, conversation in enumerate(PLAIN, start=1):
        found = part(conversation.messages)
        if found is not None:
            partings.append((conversation.name, found))
        on_event(Progress(Stage.VERIFICATION, done, len(PLAIN), "answers", item=conversation.name))
    known = [found.largest for _, found in partings if found.largest is not None]
    wrong = next((one for one in partings if one[1].detail is not None), None)
    return Agreement(
        against=against,
        cases=len(partings),
        places=sum(found.places for _, found in partings),
        agreed=sum(found.agreed for _, found in partings),
        demanded=sum(found.demanded for _, found in partings),
        margin=MARGIN,
        largest=max(known, default=None),
        detail=None if wrong is None else f"conversation '{wrong[0]}', {wrong[1].detail}",
    )


def _written(given: OpenAIAnswer) -> str:
    """What the model wrote: servers trim the text of a message, not the tokens."""
    if given.tokens:
        return b"".join(token.token for token in given.tokens).decode("utf-8", "replace")
    return given.text


def _is_cut_alike(given: OpenAIAnswer, ids: Sequence[int]) -> bool:
    """Whether these ids stand for the tokens that were generated: as many, the end token or not."""
    if given.thinking or not ids:
        return False
    count = len([token for token in given.tokens if token.token]) or given.generated_tokens
    return count in (len(ids), len(ids) + (given.finish_reason == "stop"))


def _lay(
    given: OpenAIAnswer,
    ids: Sequence[int],
    source: Sequence[SourceChoice],
    end_tokens: Collection[int],
    text_of: TokenText,
) -> tuple[list[Choice], list[Choice]]:
    """The answer's choices, and the source's in the same words."""

    def token_of(token: int) -> bytes:
        return (text_of(token) or str(token)).encode()

    own = choices(given)
    if not given.tokens:
        ended = [Choice(None)] if given.finish_reason == "stop" else []
        own = (*(Choice(token_of(token)) for token in ids), *ended)
    right = []
    for at, one in enumerate(source):
        if at < len(ids) and one.token == ids[at]:
            right.append(Choice(own[at].token, one.probability, one.gap))
        else:
            token = None if one.token in end_tokens else token_of(one.token)
            right.append(Choice(token, one.probability, one.gap))
    return list(own), right
