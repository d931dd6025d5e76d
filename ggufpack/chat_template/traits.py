"""What a chat template can do, found by rendering it and never by reading it.

Each trait is one or two renders of tiny conversations whose texts are unmistakable. A render that
fails is an answer like any other: the template refuses that conversation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from ggufpack.chat_template.conversation import Conversation, Json, Message, ToolCall
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.errors import ChatTemplateError

Chat = Literal["plain", "with-tools", "never"]
SystemFirst = Literal["kept", "moved", "dropped", "raises", "needs-tools"]
SystemLater = Literal["kept", "first-only", "last-only", "gathered", "dropped", "raises"]
Parallel = Literal["all", "first", "raises"]

DATE_MARK = re.compile(r"QzD(-?[a-zA-Z])W")

_DIRECTIVE = re.compile(r"%(-?[a-zA-Z])")
_KNOWN_SWITCHES = ("enable_thinking", "thinking", "think", "reasoning", "enable_reasoning", "add_thoughts")
_SWITCH_WORDS = re.compile(r"think|thought|reason|\bcot\b|_cot|cot_", re.IGNORECASE)
_OFF_WORDS = re.compile(r"(^|_)(no|non|not|disable|disabled|skip|without|hide|suppress)(_|$)", re.IGNORECASE)
# Given by the caller of every render; never a switch.
_GIVEN = frozenset(("messages", "tools", "documents", "add_generation_prompt", "continue_final_message"))


class _MarkedDate(datetime):
    """A date whose ``strftime`` names each directive instead of filling it in."""

    def strftime(self, format: str) -> str:  # noqa: A002  datetime's name for it
        return _DIRECTIVE.sub(lambda found: f"QzD{found[1]}W", format)


def with_marked_dates(template: ChatTemplate) -> ChatTemplate:
    """The template by a clock that prints ``QzDdW`` for ``%d``: see ``DATE_MARK``."""
    return template.with_clock(lambda: _MarkedDate(2001, 2, 3))


@dataclass(frozen=True)
class Traits:
    """What probing found.

    Attributes:
        chat: whether a user's message renders without tools, only with some, or not at all.
        bos: the BOS text that stands once in front of everything and an engine adds; mostly empty.
        system: a leading system message: printed in front of the first user message, moved behind
            it, dropped, refused, or printed only when there are tools.
        system_middle: a system message after an answer.
        system_several: two of them. ``gathered``: both stand in front of the first user message;
            ``last-only``: the second does, in place of the first.
        by_value: whether tools are printed at each user's message that repeats the last one's text:
            the template compares messages and not their places.
        empty_system: whether a leading system message without text is printed as one, and not as none.
        default_system: what stands where the system text would, when there is none.
        tools, calls, results, ids: whether tools' names, calls' names, results' texts and calls' ids
            show in the prompt.
        parallel: of two calls in one message.
        thinking: whether an assistant's reasoning shows in history.
        switches: names of the variables that turn thinking on and off.
        inverted: those of ``switches`` that turn it off when true.
        unset: the value of the switches that renders as none given; ``None`` for neither.
        prefill: whether a last assistant message can be continued.
        dates: directives asked of ``strftime_now``, such as ``d``.
        trims: how contents' edges are trimmed, by role and for ``thinking``: ``none``, ``both``,
            ``left``, ``right``; ``-newlines`` behind it when spaces stay.
        string_arguments: whether a call's arguments must be given as JSON text and not as an object.
        user_after_user, assistant_first: whether such conversations render.
    """

    chat: Chat
    bos: str = ""
    system: SystemFirst = "kept"
    system_middle: SystemLater = "kept"
    system_several: SystemLater = "kept"
    by_value: bool = False
    empty_system: bool = False
    default_system: str = ""
    tools: bool = False
    calls: bool = False
    results: bool = False
    ids: bool = False
    parallel: Parallel = "all"
    thinking: bool = False
    switches: tuple[str, ...] = ()
    inverted: tuple[str, ...] = ()
    unset: bool | None = None
    prefill: bool = False
    dates: tuple[str, ...] = ()
    trims: tuple[tuple[str, str], ...] = ()
    string_arguments: bool = False
    user_after_user: bool = True
    assistant_first: bool = True

    def variables(self, think: bool | None) -> dict[str, bool]:
        """Template variables for a conversation's ``think``."""
        if think is None:
            return {}
        return {name: think is not (name in self.inverted) for name in self.switches}

    @property
    def able(self) -> frozenset[str]:
        """What the template prints: of ``system``, ``tools``, ``calls``, ``thinking`` and ``prefill``."""
        found = {
            "system": self.system != "raises",
            "tools": self.tools or self.chat == "with-tools",
            "calls": self.calls,
            "thinking": self.thinking or bool(self.switches),
            "prefill": self.prefill,
        }
        return frozenset(name for name, is_able in found.items() if is_able)

    def messages(self, conversation: Conversation) -> list[dict[str, Any]]:
        """The conversation's messages in the form that the template takes."""
        return _with_string_arguments(conversation) if self.string_arguments else conversation.for_jinja()

    def turns(self, template: ChatTemplate, conversation: Conversation) -> str:
        """The conversation's turns, whole and without a generation prompt or the BOS an engine adds.

        Raises:
            ChatTemplateError: the template refuses the conversation, or fails.
        """
        text = template.render(
            self.messages(conversation),
            add_generation_prompt=False,
            tools=conversation.tools or None,
            **self.variables(conversation.think),
        )
        return text.removeprefix(self.bos)

    def prompt(self, template: ChatTemplate, conversation: Conversation) -> str:
        """The prompt that the checkpoint was trained with, without the BOS an engine adds.

        Raises:
            ChatTemplateError: the template refuses the conversation, or fails.
        """
        text = template.render(
            self.messages(conversation),
            add_generation_prompt=not conversation.is_prefill,
            continue_final_message=conversation.is_prefill,
            tools=conversation.tools or None,
            **self.variables(conversation.think),
        )
        return text.removeprefix(self.bos)


def _with_string_arguments(conversation: Conversation) -> list[dict[str, Any]]:
    messages = conversation.for_jinja()
    for message in messages:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return messages


def probe_traits(template: ChatTemplate) -> Traits:
    """Probe a template; about eighty renders."""
    return _Probe(template).traits()


# --- conversations --------------------------------------------------------------

_SYSTEM, _SYSTEM2, _USER, _ANSWER, _USER2, _REASON, _RESULT = (
    f"Qz{name}W" for name in ("system", "system2", "user", "answer", "user2", "reason", "result")
)
_TOOL_NAME, _CALL_NAME, _CALL_NAME2 = "Qztool_W", "Qzcall_W", "Qzother_W"
_CALL_ID, _CALL_ID2, _CALL_VALUE, _CALL_VALUE2 = "Qz000001W", "Qz000002W", "QzvalueW", "Qzvalue2W"
_SYSTEM_TURN, _SYSTEM2_TURN = Message("system", _SYSTEM), Message("system", _SYSTEM2)
_USER_TURN, _ANSWER_TURN, _USER2_TURN = (
    Message("user", _USER),
    Message("assistant", _ANSWER),
    Message("user", _USER2),
)
_CALL = ToolCall(_CALL_ID, _CALL_NAME, {"Qzkey": _CALL_VALUE})
_CALL2 = ToolCall(_CALL_ID2, _CALL_NAME2, {"Qzkey": _CALL_VALUE2})
_RESULT_TURN = Message("tool", _RESULT, tool_name=_CALL_NAME, tool_call_id=_CALL_ID)
_RESULT2_TURN = Message("tool", "Qzresult2W", tool_name=_CALL_NAME2, tool_call_id=_CALL_ID2)


def _tool(name: str) -> Json:
    properties = {"Qzkey": {"type": "string", "description": "Qzabout"}}
    parameters = {"type": "object", "properties": properties, "required": ["Qzkey"]}
    function = {"name": name, "description": "Qzdescription", "parameters": parameters}
    return {"type": "function", "function": function}


_TOOLS = (_tool(_TOOL_NAME),)


class _Probe:
    """Renders of one template, and what follows from them."""

    def __init__(self, template: ChatTemplate) -> None:
        self.template = with_marked_dates(template)
        self.string_arguments = False
        self.plain = self.render([_USER_TURN])
        self.with_tools = self.render([_USER_TURN], tools=_TOOLS)
        # a template that needs tools is probed with them
        self.tools: tuple[Json, ...] = () if self.plain is not None else _TOOLS
        if self._history() is None:
            self.string_arguments = True
            self.string_arguments = self._history() is not None

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Json] = (),
        variables: dict[str, Any] | None = None,
        generate: bool | None = None,
        continues: bool = False,
    ) -> str | None:
        """The render, or ``None`` where the template fails."""
        conversation = Conversation("probe", tuple(messages), tuple(tools))
        if generate is None:
            generate = not conversation.is_prefill and not continues
        try:
            return self.template.render(
                _with_string_arguments(conversation) if self.string_arguments else conversation.for_jinja(),
                add_generation_prompt=generate,
                continue_final_message=continues,
                tools=conversation.tools or None,
                **(variables or {}),
            )
        except ChatTemplateError:
            return None

    def chat(self, messages: Sequence[Message], **options: Any) -> str | None:
        """As ``render``, with the tools without which this template renders nothing."""
        return self.render(messages, tools=self.tools, **options)

    def traits(self) -> Traits:
        chat: Chat = "plain" if self._shows(self.plain, _USER) else "never"
        if chat == "never" and self._shows(self.with_tools, _USER):
            chat = "with-tools"
        if chat == "never":
            return Traits(chat)
        middle, several = self._system_later()
        switches, inverted, unset = self._switches()
        return Traits(
            chat=chat,
            bos=self._bos(),
            system=self._system(),
            system_middle=middle,
            system_several=several,
            by_value=self._by_value(),
            empty_system=self._empty_system(),
            default_system=self._default_system(),
            tools=self._shows(self.with_tools, _TOOL_NAME) or self._shows(self.with_tools, "Qzdescription"),
            calls=self._history() is not None,
            results=self._history(shows=_RESULT) is not None,
            ids=self._shows(self._history(), _CALL_ID),
            parallel=self._parallel(),
            thinking=self._thinking({name: name not in inverted for name in switches}),
            switches=switches,
            inverted=inverted,
            unset=unset,
            prefill=self.chat([_USER_TURN, _ANSWER_TURN], continues=True) is not None,
            dates=self._dates(),
            trims=self._trims(),
            string_arguments=self.string_arguments,
            user_after_user=self.chat([_USER_TURN, _USER2_TURN]) is not None,
            assistant_first=self.chat([_ANSWER_TURN, _USER_TURN]) is not None,
        )

    @staticmethod
    def _shows(rendered: str | None, text: str) -> bool:
        return rendered is not None and text in rendered

    def _bos(self) -> str:
        bos = str(self.template.special_tokens.get("bos_token", ""))
        two_turns = self.chat([_USER_TURN, _ANSWER_TURN, _USER2_TURN]) or self.chat([_USER_TURN]) or ""
        # what comes again with the turns is a part of them
        return bos if bos and two_turns.startswith(bos) and two_turns.count(bos) == 1 else ""

    def _system(self) -> SystemFirst:
        rendered = self.chat([_SYSTEM_TURN, _USER_TURN, _ANSWER_TURN, _USER2_TURN])
        rendered = rendered or self.chat([_SYSTEM_TURN, _USER_TURN])
        if rendered is not None and _SYSTEM in rendered:
            return "kept" if rendered.index(_SYSTEM) < rendered.index(_USER) else "moved"
        if not self.tools and self._shows(self.render([_SYSTEM_TURN, _USER_TURN], tools=_TOOLS), _SYSTEM):
            return "needs-tools"
        return "raises" if rendered is None else "dropped"

    def _system_later(self) -> tuple[SystemLater, SystemLater]:
        middle = self.chat([_USER_TURN, _ANSWER_TURN, _SYSTEM2_TURN, _USER2_TURN])
        several = self.chat([_SYSTEM_TURN, _USER_TURN, _ANSWER_TURN, _SYSTEM2_TURN, _USER2_TURN])
        return self._later(middle, alone=True), self._later(several, alone=False)

    def _later(self, rendered: str | None, alone: bool) -> SystemLater:
        if rendered is None:
            return "raises"
        if _SYSTEM2 in rendered:
            if not alone and _SYSTEM not in rendered and self.chat([_SYSTEM_TURN, _USER_TURN]) is not None:
                return "last-only"
            return "gathered" if rendered.index(_SYSTEM2) < rendered.index(_USER) else "kept"
        return "first-only" if not alone and _SYSTEM in rendered else "dropped"

    def _by_value(self) -> bool:
        repeats, differs = (
            self.render([_USER_TURN, _ANSWER_TURN, last], tools=_TOOLS) or ""
            for last in (_USER_TURN, _USER2_TURN)
        )
        return repeats.count(_TOOL_NAME) > differs.count(_TOOL_NAME) > 0

    def _empty_system(self) -> bool:
        empty, none = self.chat([Message("system"), _USER_TURN]), self.chat([_USER_TURN])
        given = self.chat([_SYSTEM_TURN, _USER_TURN])
        return given is not None and empty == given.replace(_SYSTEM, "") and empty != none

    def _default_system(self) -> str:
        given, none = self.chat([_SYSTEM_TURN, _USER_TURN]), self.chat([_USER_TURN])
        if given is None or none is None or _SYSTEM not in given or _USER not in none or _USER not in given:
            return ""
        if given.index(_SYSTEM) > given.index(_USER):
            return ""
        before, behind = given.split(_USER)[0].split(_SYSTEM, 1)
        head = none.split(_USER)[0]
        framed = head.startswith(before) and head.endswith(behind) and len(head) > len(before + behind)
        return head[len(before) : len(head) - len(behind)] if framed else ""

    def _history(
        self,
        calls: tuple[ToolCall, ...] = (_CALL,),
        thinking: str = "",
        variables: dict[str, Any] | None = None,
        shows: str = _CALL_VALUE,
    ) -> str | None:
        """A call and its result, in the first conversation of which the template shows this text."""
        results = [_RESULT_TURN, _RESULT2_TURN][: len(calls)]
        caller = Message("assistant", thinking=thinking, calls=calls)
        chats: list[list[Message]] = [
            [_USER_TURN, caller, *results, _ANSWER_TURN, _USER2_TURN],
            [_USER_TURN, caller, *results],
        ]
        renders = (
            self.render(chat, tools=tools, variables=variables) for chat in chats for tools in (_TOOLS, ())
        )
        return next((text for text in renders if self._shows(text, shows)), None)

    def _parallel(self) -> Parallel:
        both = self._history((_CALL, _CALL2))
        if both is None:
            return "raises" if self._history() is not None else "all"
        called = both.split(_RESULT, maxsplit=1)[0]
        return "all" if _CALL_VALUE2 in called else "first"

    def _thinking(self, on: dict[str, Any]) -> bool:
        thought = Message("assistant", _ANSWER, thinking=_REASON)
        chats = ([_USER_TURN, thought, _USER2_TURN], [_USER_TURN, thought])
        for variables in ({}, on):
            renders = [self.chat(chat, generate=False, variables=variables) for chat in chats]
            renders.append(self._history(thinking=_REASON, variables=variables))
            if any(self._shows(text, _REASON) for text in renders):
                return True
        return False

    def _switches(self) -> tuple[tuple[str, ...], tuple[str, ...], bool | None]:
        """Names, those that turn thinking off, and what unset equals."""
        names = [name for name in sorted(self.template.undeclared) if name not in _GIVEN]
        names = [name for name in names if name not in self.template.special_tokens and self._is_switch(name)]
        known = [name for name in names if name in _KNOWN_SWITCHES]
        alike = [name for name in names if _SWITCH_WORDS.search(name)]
        switches = tuple(known or alike or [name for name in names if self._opens_answer(name)])
        inverted = tuple(name for name in switches if _OFF_WORDS.search(name))
        if not switches:
            return (), (), None
        unset = self._state({})
        states = {
            think: self._state({name: think is not (name in inverted) for name in switches})
            for think in (True, False)
        }
        same = [think for think, state in states.items() if state == unset]
        return switches, inverted, same[0] if same else None

    def _state(self, variables: dict[str, Any]) -> list[str | None]:
        chats = (
            [_USER_TURN],
            [_SYSTEM_TURN, _USER_TURN],
            [_USER_TURN, Message("assistant", _ANSWER, thinking=_REASON), _USER2_TURN],
        )
        return [self.chat(chat, variables=variables) for chat in chats]

    def _is_switch(self, name: str) -> bool:
        """Whether true and false give two prompts for a question; a variable that is printed is none."""
        texts = [self._state({name: value})[:2] for value in (True, False)]
        printed = any("True" in (text or "") or "False" in (text or "") for text in texts[0] + texts[1])
        return texts[0] != texts[1] and None not in texts[0] + texts[1] and not printed

    def _opens_answer(self, name: str) -> bool:
        """Whether the variable changes how the assistant's turn is opened, and nothing else."""
        texts = [self.chat([_USER_TURN], variables={name: value}) or "" for value in (True, False)]
        heads, tails = zip(*(text.rpartition(_USER)[::2] for text in texts), strict=True)
        return bool(heads[0] == heads[1] and tails[0] != tails[1])

    def _dates(self) -> tuple[str, ...]:
        renders: Iterable[str | None] = (
            self.plain,
            self.with_tools,
            self.chat([_SYSTEM_TURN, _USER_TURN]),
            self._history(),
        )
        marks = {directive for text in renders for directive in DATE_MARK.findall(text or "")}
        return tuple(sorted(marks))

    def _trims(self) -> tuple[tuple[str, str], ...]:
        edges = "\n ", " \n"
        spaced = {name: edges[0] + text + edges[1] for name, text in _SPACED.items()}
        caller = Message("assistant", calls=(_CALL,))
        result = Message("tool", spaced["tool"], tool_name=_CALL_NAME, tool_call_id=_CALL_ID)
        user, answer = Message("user", spaced["user"]), Message("assistant", spaced["assistant"])
        thought = Message("assistant", _ANSWER, thinking=spaced["thinking"])
        chats = {
            "system": self.chat([Message("system", spaced["system"]), _USER_TURN]),
            "user": self.chat([user, _ANSWER_TURN, _USER2_TURN]),
            "assistant": self.chat([_USER_TURN, answer, _USER2_TURN]),
            "tool": self.render([_USER_TURN, caller, result], tools=_TOOLS),
            "thinking": self.chat([_USER_TURN, thought, _USER2_TURN])
            if self._shows(self.chat([_USER_TURN, thought, _USER2_TURN]), _SPACED["thinking"])
            else self.chat([_USER_TURN, thought], generate=False),
        }
        found = [
            (name, _trim(text, _SPACED[name], edges))
            for name, text in chats.items()
            if text is not None and _SPACED[name] in text
        ]
        return tuple(found)


_SPACED = {name: f"Qz{name}spacedW" for name in ("system", "user", "assistant", "tool", "thinking")}


def _trim(rendered: str, text: str, edges: tuple[str, str]) -> str:
    start = rendered.index(text)
    before, behind = rendered[:start], rendered[start + len(text) :]
    left = "" if before.endswith(edges[0]) else "-newlines" if before.endswith(" ") else "all"
    right = "" if behind.startswith(edges[1]) else "-newlines" if behind.startswith(" ") else "all"
    if not left and not right:
        return "none"
    side = "both" if left and right else "left" if left else "right"
    return side + ("-newlines" if "-newlines" in (left, right) and "all" not in (left, right) else "")
