"""Whether a server puts a model's thinking and its tool calls where a caller looks for them.

A server knows both by tags that it read out of the template. Where it missed them, thinking and calls come
as text of the answer, between those tags. A model cannot be forced to show either (Ollama lifts a
``format`` while a model thinks), so it is asked what mostly brings them about; an answer without proves
nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from ggufpack.chat_template.answers import CALL, calling_answer
from ggufpack.chat_template.conversation import Conversation
from ggufpack.chat_template.conversation import Message as Turn
from ggufpack.chat_template.heldout import TOOLS
from ggufpack.chat_template.prompt import Prompt
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.traits import Traits
from ggufpack.engine.ollama import OllamaEngine
from ggufpack.engine.protocol import Message
from ggufpack.errors import ChatTemplateError
from ggufpack.proofs import ParsedCheck
from ggufpack.registry.chat import ChatAnswer

_MAX_TOKENS = 128
_TAG = r"<[^<>\s]+>|\[[^\[\]\s]+\]"
_THOUGHT, _ANSWER = "Kthought1K", "Kanswer1K"
SUM: Message = {"role": "user", "content": "What is 17 + 25? Think first."}
WEATHER: Message = {"role": "user", "content": "What is the weather in Bern now? Use the tool."}


@dataclass(frozen=True)
class Tags:
    """What a template prints around reasoning, and in front of a call; empty where it prints none.

    ``json_calls``: a call is a JSON object, or a list of such.
    """

    thinking: tuple[str, ...] = ()
    call: str = ""
    json_calls: bool = False


def check_parsed(
    engine: OllamaEngine, prompt: Prompt, capabilities: Collection[str]
) -> tuple[ParsedCheck, ...]:
    """Ask one question for each of thinking and tool calls that the package is to carry over.

    Args:
        engine: the server's model.
        prompt: the package's.
        capabilities: those that the server names. It refuses to be asked for others.

    Raises:
        RegistryError: the server failed.
    """
    readings = prompt.plan.readings
    if prompt.template is None or readings is None:
        return ()
    carried = (readings.go if prompt.plan.strategy == "go" else readings.native).capabilities
    tags = find_tags(prompt.template, readings.traits)
    found = []
    if "thinking" in carried and readings.traits.thinking:
        if "thinking" in capabilities:
            found.append(judge_thinking(engine.ask([SUM], max_tokens=_MAX_TOKENS, think=True), tags))
        else:
            found.append(_unable("thinking"))
    if "tools" in carried and readings.traits.calls:
        if "tools" in capabilities:
            answer = engine.ask([WEATHER], max_tokens=_MAX_TOKENS, think=prompt.plan.think, tools=TOOLS[:1])
            found.append(judge_calls(answer, tags))
        else:
            found.append(_unable("tool_calls"))
    return tuple(found)


def find_tags(template: ChatTemplate, traits: Traits) -> Tags:
    """The tags that this template prints, by rendering it."""
    thinking = _thinking_tags(template, traits)
    answer = calling_answer(template, traits) if traits.calls else None
    head = (answer or "").partition(CALL.name)[0]
    # an empty block of reasoning may stand in front
    found = re.findall(_TAG, head)
    tag = next((one for one in reversed(found) if one not in thinking), "")
    call = head.rpartition(found[-1])[2] if found else head
    return Tags(thinking, tag, call.lstrip().startswith(("{", "[")))


def judge_thinking(answer: ChatAnswer, tags: Tags) -> ParsedCheck:
    """What an answer to a request with ``think`` says."""
    shown = [tag for tag in tags.thinking if tag in answer.text]
    if shown:
        return ParsedCheck("thinking", False, f"the answer shows {shown[0]!r}: {answer.text[:80]!r}")
    if answer.thinking.strip():
        return ParsedCheck("thinking", True)
    return ParsedCheck("thinking", None, f"the model did not think: {answer.text[:80]!r}")


def judge_calls(answer: ChatAnswer, tags: Tags) -> ParsedCheck:
    """What an answer to a request with a tool says."""
    if (answer.raw.get("message") or {}).get("tool_calls"):
        return ParsedCheck("tool_calls", True)
    _, tag, call = answer.text.partition(tags.call) if tags.call else ("", "", answer.text)
    is_shown = bool(tag) or (not tags.call and call.lstrip().startswith(("{", "[")))
    if is_shown and CALL.name in call and (not tags.json_calls or _is_json(call)):
        return ParsedCheck("tool_calls", False, f"the call is in the text: {answer.text[:120]!r}")
    return ParsedCheck("tool_calls", None, f"the model called no tool: {answer.text[:80]!r}")


def _thinking_tags(template: ChatTemplate, traits: Traits) -> tuple[str, ...]:
    turns = (Turn("user", "Kuser1K"), Turn("assistant", _ANSWER, thinking=_THOUGHT))
    try:
        text = traits.turns(template, Conversation("thinking", turns))
    except ChatTemplateError:
        return ()
    before, shown, behind = text.partition(_THOUGHT)
    if not shown:
        return ()
    edges = (re.search(f"(?:{_TAG})$", before.rstrip()), re.match(_TAG, behind.lstrip()))
    return tuple(edge.group() for edge in edges if edge is not None)


def _is_json(call: str) -> bool:
    """Whether JSON stands at its begin: what a server can read. A small model may write half of one."""
    try:
        json.JSONDecoder().raw_decode(call.lstrip())
    except ValueError:
        return False
    return True


def _unable(field: Literal["thinking", "tool_calls"]) -> ParsedCheck:
    return ParsedCheck(field, None, "the server does not name it among the model's capabilities")
