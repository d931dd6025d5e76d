"""Cuts renders into slots: a head, one piece a message, and a tail.

What stands between two messages belongs to one of them. It is the first's as far as it is printed
behind that message alone, too.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from ggufpack.chat_template.conversation import Conversation, Message, ToolCall
from ggufpack.chat_template.learn.conversations import MARKS, Sample, tool
from ggufpack.chat_template.learn.pieces import (
    Pieces,
    Value,
    common_prefix,
    common_suffix,
    whole_tokens,
    without_half_token,
)
from ggufpack.chat_template.learn.spans import CallStyle, LearningError, Span, Spellings, find_spans
from ggufpack.chat_template.learn.values import probe_spelling
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.traits import Traits
from ggufpack.errors import ChatTemplateError

HEAD, TAIL = "head", "tail"
_OWN = ("Qz",)
_BLANKS = ("", " ")
_STRIPPED = {"": "", "newlines": "\n", "all": None}  # a text without white space there


@dataclass
class Sequence:
    """The pieces of one slot in one render. ``index`` is the message's; -1 the head's."""

    slot: str
    conversation: Conversation
    index: int
    pieces: Pieces


@dataclass(frozen=True)
class _Cut:
    """A render, its spans, and where each message's piece ends."""

    conversation: Conversation
    text: str
    spans: list[Span]
    ends: dict[int, int]
    limits: list[int]  # where the next message's first value begins


class Slots:
    """Collects the sequences of many renders of one template."""

    def __init__(self, template: ChatTemplate, traits: Traits) -> None:
        self.template = template
        self.traits = traits
        self.gathered = "gathered" in (traits.system_middle, traits.system_several)
        self.last_only = self.gathered and traits.system_several == "last-only"
        self.errors: Counter[str] = Counter()
        self._calls = how_calls_print(template, traits)
        one_by_one = traits.calls and not self._calls.whole
        self.spelling = probe_spelling(template, traits) if one_by_one else None
        self.texts: list[str] = []
        self._behind: dict[tuple[str, bool], str] = {}
        self._alone: dict[tuple[object, ...], tuple[str, ...]] = {}
        self._forced: dict[tuple[bool, bool | None], str] = {}
        self._openings: dict[str, set[str]] = defaultdict(set)

    def collect(self, samples: list[Sample]) -> list[Sequence]:
        """The sequences of all samples that render."""
        cuts: list[_Cut] = []
        for sample in samples:
            try:
                cuts.append(self._cut(sample))
            except LearningError as error:
                self.errors[str(error)] += 1
            except ChatTemplateError as error:
                self.errors[f"raises: {error}"] += 1
        for cut in cuts:
            placed = list(cut.ends)
            for before, i in pairwise(placed):
                opening = cut.text[cut.ends[before] : cut.limits[before]]
                self._openings[cut.conversation.messages[i].role].add(opening)
        return [sequence for cut in cuts for sequence in self._sequences(cut)]

    def emptied(self, samples: Iterable[tuple[Sample, int]]) -> Iterator[Sequence]:
        """The sequences of samples in which one message has no text, told by those in which it has.

        Its own slot is printed as ever, with nothing in the text's place, or as something else; all
        others must be as they were.
        """
        for sample, i in samples:
            try:
                cut = self._cut(sample)
                for blank in _BLANKS:
                    yield from self._without_text(cut, i, blank)
            except (LearningError, ChatTemplateError):
                continue  # of no harm: nothing is learned of this one

    def _without_text(self, cut: _Cut, i: int, blank: str) -> Iterator[Sequence]:
        messages = list(cut.conversation.messages)
        messages[i] = replace(messages[i], content=blank)
        conversation = replace(cut.conversation, messages=tuple(messages))
        parts = self._parts(cut)
        text = self.traits.prompt(self.template, conversation)
        spans = [span for span in cut.spans if _is_text_of(span, i, messages[i].role)]
        if not spans and text == cut.text:  # it is never printed
            for slot, index, begin, until in parts:
                yield Sequence(slot, conversation, index, self._pieces(cut, begin, until))
        holders = [part for part in parts if any(part[2] <= span.start < part[3] for span in spans)]
        if len(spans) != 1 or len(holders) != 1:
            return
        (_, _, start, end), span = holders[0], spans[0]
        before, behind = cut.text[:start], cut.text[end:]
        if len(text) < len(before + behind) or not (text.startswith(before) and text.endswith(behind)):
            return
        found = text[start : len(text) - len(behind)]
        spelled = _spelled_blank(blank, span)
        as_ever = found == cut.text[start : span.start] + spelled + cut.text[span.end : end]
        for slot, index, begin, until in parts:
            pieces = self._pieces(cut, begin, until)
            if begin == start and not as_ever:
                spellings = Spellings(conversation, self.gathered, self.last_only, self.spelling)
                spans = find_spans(spellings, text, conversation, self._calls)
                other = _Cut(conversation, text, spans, {}, [])
                pieces = self._pieces(other, start, start + len(found))
            yield Sequence(slot, conversation, index, pieces)

    def _cut(self, sample: Sample) -> _Cut:
        conversation = sample.conversation
        messages = conversation.messages
        if self.spelling is not None and self.spelling.null is None:
            calls = [call for message in messages for call in message.calls if call.arguments]
            if any(all(value is None for value in call.arguments.values()) for call in calls):
                raise LearningError("a call all of whose arguments are left out")
        spellings = Spellings(conversation, self.gathered, self.last_only, self.spelling)
        text = self.traits.prompt(self.template, conversation)
        self.texts.append(text)
        spans = find_spans(spellings, text, conversation, self._calls)
        owned = [span for span in spans if span.atom.owner is not None]
        last_ends = [_last_end(owned, i) for i in range(len(messages))]
        limits = [
            min((span.start for span in owned if (span.atom.owner or 0) > i), default=len(text))
            for i in range(len(messages))
        ]
        ends: dict[int, int] = {}
        previous = 0
        for i, message in enumerate(messages):
            if message.role == "system" and (i == 0 or self.gathered):
                continue
            if i == len(messages) - 1 and conversation.is_prefill:
                ends[i] = len(text)
                continue
            if not any(span.atom.owner == i for span in owned):
                if message.role != "system":
                    previous = self._end_of_silent(conversation, text, i)
                ends[i] = previous or last_ends[i]
                continue
            behind = self._printed_behind(sample, i, spellings)
            shared = common_prefix([behind, text[last_ends[i] : limits[i]]])
            ends[i] = previous = last_ends[i] + len(
                shared if shared == behind else without_half_token(shared)
            )
        return _Cut(conversation, text, spans, ends, limits)

    def _end_of_silent(self, conversation: Conversation, text: str, i: int) -> int:
        """Where a message ends of which no value is printed: where the conversation up to it does."""
        message = conversation.messages[i]
        if (message.content or message.thinking) and message.role != "tool":
            raise LearningError(f"the text of a message of {message.role} is absent")
        shorter = replace(conversation, messages=conversation.messages[: i + 1])
        before = self._without_prompt(shorter)
        if not text.startswith(before):
            raise LearningError(
                f"a silent message of {message.role} is printed otherwise when it is the last"
            )
        return len(before)

    def _printed_behind(self, sample: Sample, i: int, spellings: Spellings) -> str:
        """What is printed behind message ``i`` when it is the last, without a generation prompt."""
        conversation = sample.conversation
        key = (conversation.messages[i].role, bool(conversation.messages[i].calls))
        alone = Conversation("alone", conversation.messages[: i + 1], conversation.tools, conversation.think)
        calls = conversation.messages[i].calls[-1:]
        last = tuple(
            (type(value), *(mark in str(value) for mark in MARKS))
            for call in calls
            for value in call.arguments.values()
        )
        known: tuple[object, ...] = (sample.shape[: i + 1], last, bool(conversation.tools), alone.think)
        if self._alone.get(known) == _OWN:  # what is printed behind holds values of this conversation
            known = (*known, str(conversation.tools))
        if known not in self._alone:
            try:
                text = self._without_prompt(alone)
            except ChatTemplateError:
                self._alone[known] = ()
            else:
                spans = find_spans(spellings, text, alone, self._calls)
                behind = text[_last_end(spans, i) :]
                if "Qz" in behind:
                    self._alone[known[:4]] = _OWN
                    known = (*known[:4], str(conversation.tools))
                self._alone[known] = (behind,)
        rendered = self._alone[known]
        if not rendered:
            return self._behind.get(key, "")
        self._behind.setdefault(key, rendered[0])
        return rendered[0]

    def _without_prompt(self, conversation: Conversation) -> str:
        """The conversation without a generation prompt."""
        rendered = self.traits.turns(self.template, conversation)
        return rendered.removesuffix(self._forced_prompt(conversation))

    def _forced_prompt(self, conversation: Conversation) -> str:
        """The generation prompt of a template that prints it whether or not it is asked to."""
        key = (bool(conversation.tools), conversation.think)
        if key not in self._forced:
            texts = []
            for roles in ("u", "ua", "uau"):
                messages = [Message("user" if role == "u" else "assistant", f"Qz{role}") for role in roles]
                chat = replace(conversation, messages=tuple(messages))
                options = self.traits.variables(chat.think)
                try:
                    texts += [
                        self.template.render(
                            self.traits.messages(chat),
                            add_generation_prompt=asked,
                            tools=chat.tools or None,
                            **options,
                        )
                        for asked in (False, True)
                    ]
                except ChatTemplateError:
                    texts.append("")
            self._forced[key] = common_suffix(texts) if texts[:1] == texts[1:2] else ""
        return self._forced[key]

    def _sequences(self, cut: _Cut) -> list[Sequence]:
        return [
            Sequence(slot, cut.conversation, i, self._pieces(cut, begin, end))
            for slot, i, begin, end in self._parts(cut)
        ]

    def _parts(self, cut: _Cut) -> list[tuple[str, int, int, int]]:
        """The slots, the messages they are of, and where each begins and ends."""
        conversation = cut.conversation
        start = self._head_end(cut)
        parts = [(HEAD, -1, 0, start)]
        for i, end in cut.ends.items():
            parts.append((conversation.messages[i].role, i, start, max(start, end)))
            start = max(start, end)
        if not conversation.is_prefill:
            parts.append((TAIL, len(conversation.messages), start, len(cut.text)))
        return parts

    def _head_end(self, cut: _Cut) -> int:
        """Where the first message's opening begins: the longest that this role has elsewhere."""
        owned = [span.start for span in cut.spans if span.atom.owner is not None]
        before = cut.text[: min(owned, default=len(cut.text))]
        if not cut.ends:
            return len(common_prefix([before, self._without_prompt(cut.conversation)]))
        role = cut.conversation.messages[next(iter(cut.ends))].role
        known = self._openings.get(role, set())
        fitting = [opening for opening in known if before.endswith(opening)]
        if fitting:
            return len(before) - max(map(len, fitting))
        placed = [before.rfind(opening) for opening in known if opening and "Qz" not in opening]
        if role != "assistant" and max(placed, default=-1) > 0:
            return max(placed)
        shared = [whole_tokens(common_suffix([before, opening])) for opening in known]
        if any(shared) or role == "assistant":
            return len(before) - max(map(len, shared), default=0)  # an assistant may have none at first
        return 0

    def _pieces(self, cut: _Cut, start: int, end: int) -> Pieces:
        pieces: Pieces = []
        at = start
        for span in cut.spans:
            if start <= span.start and span.end <= end:
                pieces += [cut.text[at : span.start]] * (span.start > at) + [span.atom]
                at = span.end
            elif span.start < end < span.end:
                self.errors["a value stands across two slots"] += 1
        if end > at:
            pieces.append(cut.text[at:end])
        return pieces


def how_calls_print(template: ChatTemplate, traits: Traits) -> CallStyle:
    """Probed with a call that has another id than its result, with one that has none, and with two."""
    first, second = (ToolCall(f"Qz{k:06d}W", f"Qzname{k}W", {"k": "QzvalueW"}) for k in range(2))
    result = Message("tool", "QzresultW", tool_name="QzotherW", tool_call_id="Qz000009W")
    texts: list[str] = []
    kinds: set[str] = set()
    for calls, results in (((first,), ()), ((first,), (result,)), ((first, second), ())):
        caller = Message("assistant", calls=calls)
        conversation = Conversation("calls", (Message("user", "QzuserW"), caller, *results), (tool(0),))
        try:
            text = traits.turns(template, conversation)
        except ChatTemplateError:
            text = ""
        spans = Spellings(conversation, gathered=False).find(text)
        kinds |= {span.atom.mark.kind for span in spans if isinstance(span.atom.mark, Value)}
        texts.append(text)
    alone, answered, both = texts
    single = max(1, alone.count(first.name))
    shown = answered or alone
    return CallStyle(
        first.id in shown if shown else traits.ids,
        (single, both.count(first.name) or single, both.count(second.name) or single),
        "arguments" in kinds,
    )


def _is_text_of(span: Span, i: int, role: str) -> bool:
    atom = span.atom
    kind = atom.mark.kind if isinstance(atom.mark, Value) else ""
    if atom.owner == i:
        return kind == "content"
    return role == "system" and kind in ("system", "last_system") and atom.owner is None


def _spelled_blank(blank: str, span: Span) -> str:
    """A blank text as it would be printed in a span's place."""
    mark = span.atom.mark
    if not isinstance(mark, Value) or mark.spelling not in ("raw", "quoted"):
        raise LearningError("a text in a spelling of its own")
    for side, strip in ((mark.left, str.lstrip), (mark.right, str.rstrip)):
        if side:
            blank = strip(blank, _STRIPPED[side])
    return json.dumps(blank) if mark.spelling == "quoted" else blank


def _last_end(spans: list[Span], i: int) -> int:
    return max(
        (span.end for span in spans if span.atom.owner is not None and span.atom.owner <= i), default=0
    )
