"""Learns a Go TEMPLATE from a chat template's own renders.

    samples -> spans -> slots -> loops -> tables -> build

Conversations of sentinels are rendered; every value is found in the render and cut away into slots;
what stands in a slot under which features becomes a decision tree, and the trees a template.
Learning is no proof: what is learned is rendered on other conversations before it is shipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ggufpack.chat_template.go.nodes import Template
from ggufpack.chat_template.learn.build import Builder, Learnt
from ggufpack.chat_template.learn.conversations import Sample, samples, samples_to_empty
from ggufpack.chat_template.learn.counters import find_counters
from ggufpack.chat_template.learn.loops import Folding
from ggufpack.chat_template.learn.slots import Sequence, Slots
from ggufpack.chat_template.learn.spans import PROPERTY_LOOPS, settle
from ggufpack.chat_template.learn.tables import grow
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.traits import Traits, with_marked_dates

CAPABILITIES = frozenset(("system", "tools", "calls", "thinking", "prefill"))


class NothingLearnedError(Exception):
    """No conversation could be learned from; says the commonest reason."""


@dataclass(frozen=True)
class Learned:
    """What was learned.

    Attributes:
        template: for ``go.emit``.
        confused: slots in which conversations that look alike were printed differently.
        lossy: values whose spelling Go cannot copy.
        errors: why conversations were left out, with how many.
    """

    template: Template
    confused: tuple[str, ...]
    lossy: tuple[str, ...]
    errors: tuple[tuple[str, int], ...] = ()


def learn(template: ChatTemplate, traits: Traits, capabilities: frozenset[str] = CAPABILITIES) -> Learned:
    """Learn ``template`` for conversations that use ``capabilities``.

    Args:
        template: the checkpoint's.
        traits: of it, from ``probe_traits``.
        capabilities: of ``system``, ``tools``, ``calls``, ``thinking`` and ``prefill``; those that
            ``traits`` lack are not tried.

    Raises:
        NothingLearnedError: no conversation rendered in a way that can be cut.
    """
    able = capabilities & traits.able
    marked = with_marked_dates(template)
    taken = list(samples(traits, able))
    slots = Slots(marked, traits)
    sequences = slots.collect(taken)
    if not sequences:
        raise NothingLearnedError(slots.errors.most_common(1)[0][0] if slots.errors else "no conversation")
    emptied = list(slots.emptied(samples_to_empty(traits, able)))
    sequences += emptied
    settle(sequence.pieces for sequence in sequences)
    find_counters(sequences)
    texts = slots.texts
    folding = Folding(sequences)
    rows = folding.fold()
    # a schema has many types, each with its own text
    grown = {slot: grow(found, 20 if slot.startswith(PROPERTY_LOOPS) else 9) for slot, found in rows.items()}
    uneven = [slot for slot, (_, is_open) in grown.items() if is_open and slot.startswith("inner")]
    for slot in uneven:  # not printed alike at every depth
        grown[slot] = ((), True)
    builder = Builder(
        Learnt(
            {slot: tree for slot, (tree, _) in grown.items()},
            first_call_only=folding.several_calls == {False},
            required_loops=frozenset(folding.required_loops),
            by_value=traits.by_value,
            empty_system=traits.empty_system or _is_system_emptied(emptied),
            spelling=slots.spelling,
            thinking_tags=_thinking_tags(taken, texts) if "thinking" in able else None,
        )
    )
    unknown = {f"{slot}: a value in a spelling unknown to us" for slot in (*folding.unknown, *uneven)}
    nodes = builder.template()
    return Learned(
        nodes,
        tuple(slot for slot, (_, is_open) in grown.items() if is_open),
        tuple(sorted(builder.lossy | builder.helpers.lossy | unknown)),
        tuple((slots.errors + folding.errors).most_common()),
    )


def _is_system_emptied(emptied: Iterable[Sequence]) -> bool:
    firsts = (sequence.conversation.messages[0] for sequence in emptied)
    return any(first.role == "system" and not first.content for first in firsts)


_OPENING = re.compile(r"(<[^<>\s]+>|\[[A-Za-z_]+\])\s*$")
_CLOSING = re.compile(r"\s*(<[^<>\s]+>|\[/?[A-Za-z_]+\])")
_EMPTY_PAIR = re.compile(r"(<([^<>/\s]+)>)\s*(</\2>)")
_LAST_TAG = re.compile(r"<([^<>/|\s]+)>\s*$")


def _thinking_tags(taken: Iterable[Sample], texts: Iterable[str]) -> tuple[str, str] | None:
    """The tags around reasoning in history, or those that the generation prompt opens."""
    texts = list(texts)
    thoughts = [m.thinking.strip() for sample in taken for m in sample.conversation.messages if m.thinking]
    for thought in dict.fromkeys(thoughts):
        for text in texts:
            before, found, behind = text.partition(thought)
            opening, closing = _OPENING.search(before), _CLOSING.match(behind)
            if found and opening and closing:
                return opening[1], closing[1]
    for text in texts:
        if pair := _EMPTY_PAIR.search(text):
            return pair[1], pair[3]
    for text in texts:
        if tag := _LAST_TAG.search(text):
            return f"<{tag[1]}>", f"</{tag[1]}>"
    return None


__all__ = ["CAPABILITIES", "Learned", "NothingLearnedError", "learn"]
