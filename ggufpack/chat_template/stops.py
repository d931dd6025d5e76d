"""Stop strings: where an assistant's turn ends, read off what the template renders."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ggufpack.chat_template.render import ChatTemplate
from ggufpack.errors import ChatTemplateError

# Contents that no template prints by itself, and that no trim or split changes.
_USER, _ANSWER, _NEXT_USER, _THOUGHT = "Kuser1K", "Kanswer1K", "Kuser2K", "Kthought1K"


@dataclass(frozen=True)
class _Turn:
    """What the template prints around an assistant's content.

    ``written`` is printed before it and is the model's to write (beyond the generation prompt);
    ``last`` follows it when it is the last message, ``between`` up to the next user's content.
    """

    written: str
    last: str
    between: str


def derive_stops(
    template: ChatTemplate, special_texts: Collection[str], eos_texts: Sequence[str]
) -> tuple[str, ...]:
    """The stop strings of ``template``.

    The first special token after an assistant's content, in mid-conversation and as the last
    message, then every end-of-sequence text. A token that the model writes inside an answer
    (gpt-oss ends its reasoning with ``<|end|>``) is left out, or it would cut answers short. A
    template that closes a turn with plain text gives that text (``"USER:"``), unless a special
    token is there.

    Args:
        template: compiled with the tokenizer's special tokens as variables.
        special_texts: texts of the tokenizer's special and added control tokens; the tokenizer
            decides what is special, not the look of a text.
        eos_texts: texts of ``eos_token`` and of every id in ``generation_config.eos_token_id``.

    Returns:
        Without repetitions: mid-conversation, last message, then ``eos_texts`` in their order.
        Only ``eos_texts`` when the template refuses a plain conversation.
    """
    specials = {text for text in (*special_texts, *eos_texts) if text}
    turn = _plain_turn(template, specials)
    if turn is None:
        return _unique(eos_texts)

    written = _tokens(turn.written, specials)
    inside = {*written, *_tokens(_reasoning_scaffold(template, specials), specials)}
    after_last = _tokens(turn.last, specials)
    if written and len(after_last) > 1:
        # the answer stands in a block of its own, which the first token closes (Cohere R7B)
        inside.add(after_last[0])
    ends = [
        next((token for token in tokens if token not in inside), None)
        for tokens in (_tokens(turn.between, specials), after_last)
    ]
    found = [end for end in ends if end is not None]
    if not found and not _tokens(turn.between + turn.last, specials):
        # the next turn's opening words; leading spaces may be part of the token before them
        found = [turn.between.rstrip().lstrip(" ")]
    return _unique([*found, *eos_texts])


def _plain_turn(template: ChatTemplate, specials: Collection[str]) -> _Turn | None:
    user: Mapping[str, str] = {"role": "user", "content": _USER}
    answer: Mapping[str, str] = {"role": "assistant", "content": _ANSWER}
    next_user: Mapping[str, str] = {"role": "user", "content": _NEXT_USER}
    last = _render(template, [user, answer])
    between = _render(template, [user, answer, next_user])
    if between is None or _ANSWER not in between or _NEXT_USER not in between:
        return None
    after = between.split(_ANSWER, 1)[1]
    if last is None or _ANSWER not in last:
        return _Turn("", "", after.split(_NEXT_USER)[0])
    return _Turn(_written(template, last, specials), last.split(_ANSWER, 1)[1], after.split(_NEXT_USER)[0])


def _reasoning_scaffold(template: ChatTemplate, specials: Collection[str]) -> str:
    """What the model writes before an answer that it reasoned about first."""
    answer = {"role": "assistant", "content": _ANSWER, "reasoning_content": _THOUGHT}
    rendered = _render(template, [{"role": "user", "content": _USER}, answer])
    if rendered is None or _THOUGHT not in rendered:
        return ""
    return _written(template, rendered, specials)


def _written(template: ChatTemplate, rendered: str, specials: Collection[str]) -> str:
    """The part of ``rendered`` between the generation prompt and the answer."""
    user = [{"role": "user", "content": _USER}]
    closed = _render(template, user)
    opened = _render(template, user, add_generation_prompt=True)
    before = rendered.split(_ANSWER, 1)[0]
    if opened is None or (opened == closed and before.startswith(opened)):
        # no generation prompt: where the prompt ends cannot be told
        return ""
    size = 0
    while size < min(len(before), len(opened)) and before[size] == opened[size]:
        size += 1
    # <|START_THINKING|> and <|START_RESPONSE|> differ in the middle, but a token is one piece
    starts = [
        start
        for special in specials
        for start in range(max(0, size - len(special) + 1), size)
        if before.startswith(special, start)
    ]
    return before[min(starts, default=size) :]


def _render(
    template: ChatTemplate, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = False
) -> str | None:
    try:
        return template.render(messages, add_generation_prompt=add_generation_prompt)
    except ChatTemplateError:
        return None


def _tokens(text: str, specials: Collection[str]) -> list[str]:
    """The special tokens in ``text`` in their order; the longest where several begin."""
    found = []
    position = 0
    while position < len(text):
        here = [special for special in specials if text.startswith(special, position)]
        if here:
            found.append(max(here, key=len))
            position += len(found[-1])
        else:
            position += 1
    return found


def _unique(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in texts if text))
