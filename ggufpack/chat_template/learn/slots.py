"""Cuts renders into slots: a head, one piece a message, and a tail.

What stands between two messages belongs to one of them. It is the first's as far as it is printed
behind that message alone, too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise

from ggufpack.chat_template.conversation import Conversation, Message, ToolCall
from ggufpack.chat_template.learn.conversations import Sample, tool
from ggufpack.chat_template.learn.pieces import Pieces, common_prefix
from ggufpack.chat_template.learn.spans import LearningError, Span, Spellings, find_spans
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.traits import Traits
from ggufpack.errors import ChatTemplateError

HEAD, TAIL = "head", "tail"


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
        self._ids_in_calls = _ids_in_calls(template, traits)
        self.texts: list[str] = []
        self._behind: dict[tuple[str, bool], str] = {}
        self._alone: dict[tuple[object, ...], tuple[str, ...]] = {}

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
        openings: dict[str, set[str]] = defaultdict(set)
        for cut in cuts:
            placed = list(cut.ends)
            for before, i in pairwise(placed):
                opening = cut.text[cut.ends[before] : cut.limits[before]]
                openings[cut.conversation.messages[i].role].add(opening)
        return [sequence for cut in cuts for sequence in self._sequences(cut, openings)]

    def _cut(self, sample: Sample) -> _Cut:
        conversation = sample.conversation
        messages = conversation.messages
        spellings = Spellings(conversation, self.gathered, self.last_only)
        text = self.traits.prompt(self.template, conversation)
        self.texts.append(text)
        spans = find_spans(spellings, text, conversation, self._ids_in_calls)
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
                    raise LearningError(f"the text of a message of {message.role} is absent")
                ends[i] = previous or last_ends[i]
                continue
            behind = self._printed_behind(sample, i, spellings)
            ends[i] = previous = last_ends[i] + len(common_prefix([behind, text[last_ends[i] : limits[i]]]))
        return _Cut(conversation, text, spans, ends, limits)

    def _printed_behind(self, sample: Sample, i: int, spellings: Spellings) -> str:
        """What is printed behind message ``i`` when it is the last, without a generation prompt."""
        conversation = sample.conversation
        key = (conversation.messages[i].role, bool(conversation.messages[i].calls))
        alone = Conversation("alone", conversation.messages[: i + 1], conversation.tools, conversation.think)
        known = (sample.shape[: i + 1], len(conversation.tools), str(conversation.tools)[:200], alone.think)
        if known not in self._alone:
            try:
                text = self.template.render(
                    self.traits.messages(alone),
                    add_generation_prompt=False,
                    tools=alone.tools or None,
                    **self.traits.variables(alone.think),
                ).removeprefix(self.traits.bos)
            except ChatTemplateError:
                self._alone[known] = ()
            else:
                spans = find_spans(spellings, text, alone, self._ids_in_calls)
                self._alone[known] = (text[_last_end(spans, i) :],)
        rendered = self._alone[known]
        if not rendered:
            return self._behind.get(key, "")
        self._behind.setdefault(key, rendered[0])
        return rendered[0]

    def _sequences(self, cut: _Cut, openings: dict[str, set[str]]) -> list[Sequence]:
        conversation, text = cut.conversation, cut.text
        start = self._head_end(cut, openings)
        parts = [(HEAD, -1, 0, start)]
        for i, end in cut.ends.items():
            parts.append((conversation.messages[i].role, i, start, max(start, end)))
            start = max(start, end)
        if not conversation.is_prefill:
            parts.append((TAIL, len(conversation.messages), start, len(text)))
        return [
            Sequence(slot, conversation, i, self._pieces(cut, begin, end)) for slot, i, begin, end in parts
        ]

    def _head_end(self, cut: _Cut, openings: dict[str, set[str]]) -> int:
        """Where the first message's opening begins: the longest that this role has elsewhere."""
        owned = [span.start for span in cut.spans if span.atom.owner is not None]
        before = cut.text[: min(owned, default=len(cut.text))]
        if not cut.ends:
            return len(before)
        known = openings.get(cut.conversation.messages[next(iter(cut.ends))].role, set())
        fitting = [opening for opening in known if before.endswith(opening)]
        if fitting:
            return len(before) - max(map(len, fitting))
        placed = [before.rfind(opening) for opening in known if opening and "Qz" not in opening]
        return max([*placed, 0])

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


def _ids_in_calls(template: ChatTemplate, traits: Traits) -> bool:
    """Whether a call shows its id, and not only its result."""
    if not traits.ids:
        return False
    call = ToolCall("Qz000000W", "QznameW", {"k": "QzvalueW"})
    result = Message("tool", "QzresultW", tool_name="QznameW", tool_call_id="Qz000001W")
    messages = (Message("user", "QzuserW"), Message("assistant", calls=(call,)), result)
    conversation = Conversation("ids", messages, (tool(0),))
    try:
        text = template.render(
            traits.messages(conversation), add_generation_prompt=False, tools=conversation.tools
        )
    except ChatTemplateError:
        return True
    return call.id in text


def _last_end(spans: list[Span], i: int) -> int:
    return max(
        (span.end for span in spans if span.atom.owner is not None and span.atom.owner <= i), default=0
    )
