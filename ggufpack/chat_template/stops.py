"""Stop strings: where an assistant's turn ends, read off what the template renders."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ggufpack.chat_template.render import ChatTemplate
from ggufpack.errors import ChatTemplateError

# Contents that no template prints by itself, and that no trim or split changes.
_USER, _ANSWER, _NEXT_USER, _THOUGHT = "Kuser1K", "Kanswer1K", "Kuser2K", "Kthought1K"
_CALL, _RESULT = "Kcall{}K", "Kresult1K"
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "Ktool1K",
            "description": "Kabout1K",
            "parameters": {"type": "object", "properties": {"Kkey1K": {"type": "string"}}},
        },
    }
]


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
    message, then the one that ends a turn of tool calls, then every end-of-sequence text. A token
    that the model writes inside an answer (gpt-oss ends its reasoning with ``<|end|>``) is left
    out, or it would cut answers short. A template that closes a turn with plain text gives that
    text (``"USER:"``), unless a special token is there.

    Args:
        template: compiled with the tokenizer's special tokens as variables.
        special_texts: texts of the tokenizer's special and added control tokens; the tokenizer
            decides what is special, not the look of a text.
        eos_texts: texts of ``eos_token`` and of every id in ``generation_config.eos_token_id``.

    Returns:
        Without repetitions: mid-conversation, last message, tool calls, then ``eos_texts`` in their
        order.
        Only ``eos_texts`` when the template refuses a plain conversation.
    """
    specials = {text for text in (*special_texts, *eos_texts) if text}
    turn = _plain_turn(template, specials)
    if turn is None:
        return _unique(eos_texts)

    written = _tokens(turn.written, specials)
    calls = _call_turn(template, specials)
    inside = {*written, *_tokens(_reasoning_scaffold(template, specials), specials), *calls.inside}
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
    after_calls = [token for token in calls.after if token not in inside]
    # what closes the list of calls comes before what ends the turn (Cohere, Kimi): a known end goes first
    known = [token for token in after_calls if token in (*found, *eos_texts)]
    return _unique([*found, *(known or after_calls)[:1], *eos_texts])


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


def _written(
    template: ChatTemplate, rendered: str, specials: Collection[str], tools: Sequence[Any] | None = None
) -> str:
    """The part of ``rendered`` between the generation prompt and the answer."""
    user = [{"role": "user", "content": _USER}]
    closed = _render(template, user, tools=tools)
    opened = _render(template, user, add_generation_prompt=True, tools=tools)
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


@dataclass(frozen=True)
class _Calls:
    """Special tokens of a turn of tool calls: those the model writes before it is done, and what follows."""

    inside: frozenset[str] = frozenset()
    after: tuple[str, ...] = ()


def _call_turn(template: ChatTemplate, specials: Collection[str]) -> _Calls:
    one, two = (_called(template, count) for count in (1, 2))
    last, result = _CALL.format(0), _RESULT
    if one is None or not 0 <= one.find(last) < one.find(result):
        return _Calls()
    behind = one[one.rindex(last, 0, one.index(result)) + len(last) : one.index(result)]
    before = _tokens(_written(template, one[: one.index(last)], specials, _TOOLS), specials)
    if two is not None and -1 < two.find(last) < two.find(_CALL.format(1)):
        between = two.split(last, 1)[1].split(_CALL.format(1))[0]
        # what follows a call whether or not another one comes is the call's own
        same = next((i for i, (a, b) in enumerate(zip(behind, between, strict=False)) if a != b), 0)
        # a token that only begins alike is not common
        closing = [token for token in _tokens(behind, specials) if behind.find(token) + len(token) <= same]
    else:
        closing = []
    closing += [token for token in _tokens(behind, specials) if _opening(token) in before]
    after = [token for token in _tokens(behind, specials) if token not in closing]
    return _Calls(frozenset(before) | frozenset(closing), tuple(after))


def _opening(token: str) -> str:
    """``<call>`` for ``</call>``."""
    return token.replace("/", "", 1)


def _called(template: ChatTemplate, count: int) -> str | None:
    """A question, calls, a result, an answer; the calls come with texts that are easy to find."""
    calls = [
        {
            "id": f"call0000{i}",
            "type": "function",
            "function": {"name": "Ktool1K", "arguments": {"Kkey1K": _CALL.format(i)}},
        }
        for i in range(count)
    ]
    results = [
        {"role": "tool", "name": "Ktool1K", "tool_call_id": call["id"], "content": _RESULT} for call in calls
    ]
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": _USER},
        {"role": "assistant", "content": "", "tool_calls": calls},
        *results,
    ]
    return _render(template, messages, tools=_TOOLS)


def end_tokens(stops: Sequence[str], eos: str | None) -> tuple[str | None, str | None]:
    """Which stops become ``eot`` and ``eom`` in the GGUF, so that llama.cpp ends at them by itself.

    llama.cpp (src/llama-vocab.cpp) ends at eos, eot and eom, and at about 25 texts that it knows. The
    end of a turn is eot, the first other one eom; ``<|eom_id|>`` is eom always, as llama.cpp takes it.
    There is no third key: what is left ends by the stop string alone.

    Args:
        stops: those that are one token each, in order.
        eos: the text of the GGUF's eos token.
    """
    rest = [stop for stop in stops if stop != eos and stop not in KNOWN_ENDS]
    known = [stop for stop in stops if stop != eos and stop in KNOWN_ENDS]
    if _EOM in known:
        rest.insert(1, _EOM)
        known.remove(_EOM)
    ordered = [*rest, *known] if rest != [_EOM] else [*known[:1], _EOM, *known[1:]]
    eot, eom = (*ordered, None, None)[:2]
    return (None, _EOM) if eot == _EOM else (eot, eom)


_EOM = "<|eom_id|>"
# Texts that llama.cpp ends at without being told (src/llama-vocab.cpp, special_eog_ids).
KNOWN_ENDS = frozenset(
    {
        "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
        "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
        "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
        "<｜end▁of▁sentence｜>", "[e~[",
    }
)  # fmt: skip


def _render(
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = False,
    tools: Sequence[Any] | None = None,
) -> str | None:
    try:
        return template.render(messages, add_generation_prompt=add_generation_prompt, tools=tools)
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
