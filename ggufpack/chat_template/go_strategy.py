"""The search for the Go TEMPLATE that can do the most of what a chat template can, and nothing wrong.

Everything that the traits promise is learned at once and proven on the held-out conversations. What
turns out wrong is given up, as little as possible, and the rest is learned again without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cache, partial
from typing import Any, Protocol

from ggufpack.chat_template.content_form import refusal_of_a_question
from ggufpack.chat_template.conversation import Conversation, Message
from ggufpack.chat_template.heldout import CAPABILITIES, TOOLS, Case, heldout_cases
from ggufpack.chat_template.parity import Judged, Parity, Reference, canonical, judge, make_reference, table
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.traits import Traits
from ggufpack.errors import ChatTemplateError

# What learning is asked for, and what goes first when it is not known what is to blame.
LEARNED = ("calls", "thinking", "tools", "prefill", "system")
# A wrong case of these shapes takes the capability away; of the others, only the shape.
_BLAMED = {
    "system": "system",
    "tools:definition": "tools",
    "tools:call": "calls",
    "tools:result": "calls",
    "thinking:true": "thinking",
    "thinking:false": "thinking",
    "prefill": "prefill",
}
CALL_SHAPES = ("tools:call", "tools:parallel", "tools:result", "tools:history")
_OF_CAPABILITY: Mapping[str, tuple[str, ...]] = {
    "system": ("system", "system:middle", "system:several"),
    "tools": ("tools:definition", *CALL_SHAPES),
    "calls": CALL_SHAPES,
    "thinking": ("thinking:history", "thinking:true", "thinking:false"),
    "prefill": ("prefill",),
}
_CONTEXT = 40
# Refusals with this reason are the Jinja's own: a TEMPLATE loses nothing by them.
REFUSED_BY_JINJA = "the chat template itself refuses these conversations"

STOPPED = "learning was stopped: "


class Engine(Protocol):
    """Learns a TEMPLATE and renders it: the packages ``learn`` and ``go``."""

    def learn(self, template: ChatTemplate, traits: Traits, capabilities: frozenset[str]) -> str:
        """The text of a TEMPLATE. Raises ``ValueError`` when nothing can be learned."""

    def render(self, text: str, conversation: Conversation, today: date) -> str:
        """What Ollama renders. Raises ``ValueError`` when it fails."""

    def is_used(self, go_text: str, jinja_text: str) -> bool:
        """Whether Ollama ≥ 0.30 runs the TEMPLATE when the GGUF holds this Jinja."""


@dataclass(frozen=True)
class Refusal:
    """A shape (see the page of the chat templates) that is not reproduced, and why."""

    shape: str
    reason: str

    def to_json(self) -> dict[str, str]:
        """As ``--json`` prints it."""
        return {"shape": self.shape, "reason": self.reason}


@dataclass(frozen=True)
class GoTemplate:
    """What the search found.

    Attributes:
        text: the TEMPLATE, or ``None`` when not even plain chat is right.
        capabilities: of ``heldout.CAPABILITIES``, each proven.
        refused: what the text cannot do, or the chat template refuses.
        parity: a row for each capability.
        judged: every case that was asked, for reports and tests.
    """

    text: str | None
    capabilities: tuple[str, ...]
    refused: tuple[Refusal, ...]
    parity: Mapping[str, Parity]
    judged: tuple[Judged, ...] = field(default=(), repr=False)

    @property
    def complete(self) -> bool:
        """Whether the text does everything that the chat template does."""
        return self.text is not None and all(one.reason == REFUSED_BY_JINJA for one in self.refused)

    @property
    def stopped(self) -> str | None:
        """Why the search was stopped, if it was."""
        reasons = (one.reason.partition(STOPPED)[2] for one in self.refused if one.shape == "chat")
        return next((reason for reason in reasons if reason), None)

    def covers(self, case: Case) -> bool:
        """Whether a refusal covers a case."""
        return is_refused(case, self.refused)


def covers(shape: str, case: Case) -> bool:
    """Whether a refusal of ``shape`` covers ``case``.

    A role path covers what begins with it, calls and definitions what has any, a date everything.
    """
    if shape in (case.shape, "date"):
        return True
    if shape == "tools:call":
        return any(message.calls for message in case.conversation.messages)
    if shape == "tools:definition":
        return bool(case.conversation.tools)
    path = shape.removesuffix("/*")
    roles = case.conversation.roles
    is_path = path.split("/")[0] in ("user", "assistant", "system", "tool") and shape != "system"
    return is_path and (roles == path or roles.startswith(f"{path}/"))


def is_refused(case: Case, refused: Iterable[Refusal]) -> bool:
    """Whether one of the refusals covers the case."""
    return any(covers(one.shape, case) for one in refused)


def plain_shapes(messages: Sequence[Mapping[str, Any]]) -> set[str]:
    """The shapes that cover a conversation without tools and reasoning.

    Args:
        messages: each with ``role`` and ``content``.
    """
    roles = [str(message["role"]) for message in messages]
    paths = ["/".join(roles[:length]) for length in range(1, len(roles) + 1)]
    found = {*paths, *(f"{path}/*" for path in paths)} - {"system"}
    systems = roles.count("system")
    found |= {"system"} if systems else set()
    if systems and (systems > 1 or roles[0] != "system"):
        found.add("system:several" if systems > 1 else "system:middle")
    if roles[-1] == "assistant":
        found.add("prefill")
    if any(
        str(message["content"]).strip() != message["content"] or not message["content"]
        for message in messages
    ):
        found.add("edge-spaces")
    return found


def learn_template(
    template: ChatTemplate, traits: Traits, engine: Engine, cases: Sequence[Case] | None = None
) -> GoTemplate:
    """Search for the TEMPLATE.

    Args:
        template: the checkpoint's.
        traits: of it.
        engine: learns and renders.
        cases: what to prove it on; the held-out conversations.
    """
    cases = asked_cases(traits, heldout_cases() if cases is None else cases)
    own = [*_refused_by_jinja(traits), *_unnamed_tools(template, traits)]
    wanted = traits.able
    given_up: list[Refusal] = []
    if traits.chat == "never":
        rows = dict.fromkeys(CAPABILITIES, Parity(0, 0, 0, 0))
        reason = refusal_of_a_question(template)
        return GoTemplate(None, (), (Refusal("chat", f"{REFUSED_BY_JINJA}: {reason}"),), rows)
    reference_of = cache(partial(make_reference, template, traits, cases))
    while True:
        reference = reference_of(thinks="thinking" in wanted)
        text: str | None = None
        judged: tuple[Judged, ...] = ()
        try:
            text = engine.learn(template, traits, wanted)
        except ValueError as error:
            given_up.append(Refusal("chat", f"nothing could be learned: {error}"))
        else:
            judged = judge(reference, partial(engine.render, text), wanted)
        wrong = [one for one in judged if one.verdict == "wrong"]
        blamed = _blamed(wrong, wanted) if text is not None else _next(wanted)
        if blamed is None:
            return _found(text, wanted, judged, reference, [*own, *given_up, *_of_shapes(wrong, traits)])
        if text is None:
            given_up.pop()
        given_up += [
            Refusal(shape, _reason_of(wrong, blamed))
            for shape in _OF_CAPABILITY[blamed]
            if _shown(shape, traits)
        ]
        wanted -= {blamed, "calls"} if blamed == "tools" else {blamed}


def stopped_search(reason: str, reference: Reference) -> GoTemplate:
    """What is found when learning may not go on."""
    rows = table(reference, (), lambda _case: True)
    return GoTemplate(None, (), (Refusal("chat", f"{STOPPED}{reason}"),), rows)


def asked_cases(traits: Traits, cases: Sequence[Case]) -> tuple[Case, ...]:
    """Those about what the chat template has: without tools of its own, tools are no case.

    A template may print results without calls, and calls without the tools on offer.
    """
    able = traits.able
    never = {"tools", "thinking", "system", "prefill"} - able - ({"tools"} if traits.calls else set())
    return tuple(replace(case, needs=case.needs & able) for case in cases if not case.needs & never)


def _refused_by_jinja(traits: Traits) -> list[Refusal]:
    found = {
        "system": traits.system == "raises",
        "system:middle": traits.system_middle == "raises",
        "system:several": traits.system_several == "raises",
        "tools:parallel": traits.calls and traits.parallel == "raises",
        "assistant/*": not traits.assistant_first,
    }
    return [Refusal(shape, REFUSED_BY_JINJA) for shape, is_refused in found.items() if is_refused]


def _unnamed_tools(template: ChatTemplate, traits: Traits) -> list[Refusal]:
    """Tools that change the prompt without being named in it: nothing to learn from."""
    if traits.tools or traits.chat != "plain":
        return []
    plain = Conversation("plain", (Message("user", "Hello"),))
    try:
        same = traits.prompt(template, plain) == traits.prompt(template, replace(plain, tools=TOOLS))
    except ChatTemplateError:
        same = False
    return [] if same else [Refusal("tools:definition", "tools change the prompt, which names none of them")]


def _shown(shape: str, traits: Traits) -> bool:
    """Whether giving up a capability loses this shape at all."""
    return not (shape == "thinking:history" and not traits.thinking) and not (
        shape in ("thinking:true", "thinking:false") and not traits.switches
    )


def _next(wanted: frozenset[str]) -> str | None:
    return next((name for name in LEARNED if name in wanted), None)


def _blamed(wrong: Sequence[Judged], wanted: frozenset[str]) -> str | None:
    """The capability to give up; ``None`` when the wrong cases can be refused by their shapes."""
    counts = Counter(_BLAMED.get(one.case.shape) for one in wrong)
    del counts[None]
    if counts["tools"] and "tools" in wanted:
        return "tools"  # calls come with tools on offer: they are wrong because of these
    present = [(count, name) for name, count in counts.items() if name in wanted]
    if present:
        return str(max(present)[1])
    # plain chat is wrong because of what was learned with it, or by itself
    return (
        _next(wanted)
        if any(one.case.conversation.roles == "user" and _is_path(one) for one in wrong)
        else None
    )


def _is_path(one: Judged) -> bool:
    return one.case.shape == one.case.conversation.roles


def _of_shapes(wrong: Sequence[Judged], traits: Traits) -> list[Refusal]:
    found: dict[str, Refusal] = {}
    paths = {one.case.shape for one in wrong if _is_path(one)}
    for one in wrong:
        shape = one.case.shape
        if shape in paths and any(shape.startswith(f"{path}/") for path in paths):
            continue  # a shorter path covers it
        if shape == "user":
            shape = "date" if traits.dates else "chat"
        if shape == "assistant/user":
            shape = "assistant/*"
        found.setdefault(shape, Refusal(shape, _reason(one)))
    return list(found.values())


def _found(
    text: str | None,
    wanted: frozenset[str],
    judged: Sequence[Judged],
    reference: Reference,
    refused: Sequence[Refusal],
) -> GoTemplate:
    by_shape: dict[str, Refusal] = {}
    for one in refused:
        by_shape.setdefault(one.shape, one)
    if text is None or {"chat", "date"} & set(by_shape):
        rows = table(reference, (), lambda _case: True)
        return GoTemplate(None, (), tuple(by_shape.values()), rows, tuple(judged))
    rows = table(reference, judged, lambda case: is_refused(case, by_shape.values()))
    # a template that needs tools shows its systems and prefills in conversations with tools only
    used = {need for one in judged if one.verdict != "wrong" for need in one.case.needs}
    capabilities = tuple(
        name
        for name in CAPABILITIES
        if (name == "chat" or name in wanted) and (name in used or rows[name].exact + rows[name].semantic)
    )
    if not capabilities:
        nothing = Refusal("chat", "no conversation could be compared")
        return GoTemplate(None, (), (*by_shape.values(), nothing), rows, tuple(judged))
    return GoTemplate(text, capabilities, tuple(by_shape.values()), rows, tuple(judged))


def _reason_of(wrong: Sequence[Judged], blamed: str) -> str:
    own = [one for one in wrong if _BLAMED.get(one.case.shape) == blamed]
    return _reason(own[0]) if own else "it could not be learned together with the rest"


def _reason(one: Judged) -> str:
    """Where the two texts part."""
    name = f"conversation {one.case.conversation.name!r}"
    if one.actual is None:
        return f"{name}: the TEMPLATE fails"
    # how JSON is written is not what makes a case wrong
    expected, actual = canonical(one.expected), canonical(one.actual)
    limit = min(len(expected), len(actual))
    at = next((i for i in range(limit) if expected[i] != actual[i]), limit)
    start = max(0, at - _CONTEXT // 2)
    return (
        f"{name} differs at character {at}: {expected[start : at + _CONTEXT]!r}"
        f" would be {actual[start : at + _CONTEXT]!r}"
    )
