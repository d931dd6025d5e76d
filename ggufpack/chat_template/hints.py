"""Dead blocks from which Ollama reads what a TEMPLATE can do.

Ollama 0.30 and later runs the GGUF's Jinja instead of a TEMPLATE in which it finds fewer capabilities
(``capabilities.py``). It looks for words, in a Jinja too: one that only mentions tools counts as one
that has them. So a TEMPLATE that does what the Jinja does mentions what the Jinja mentions. It also
takes the tag in front of a model's calls from the first text of the first ``if .ToolCalls``.
"""

from __future__ import annotations

import re

from ggufpack.chat_template.answers import CALL, calling_answer
from ggufpack.chat_template.capabilities import (
    has_thinking_support,
    has_tool_round_trip,
    has_tool_support,
)
from ggufpack.chat_template.go.emit import emit
from ggufpack.chat_template.go.inspect import capabilities as read_capabilities
from ggufpack.chat_template.go.inspect import go_is_used, tool_round_trip
from ggufpack.chat_template.go.nodes import Call, If, Literal, Node, Path, Print, Range, Template, Text
from ggufpack.chat_template.go.tool_calls import reads_call
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.traits import Traits

_NEVER = Literal(False)
_CALLS = Path("", ("ToolCalls",))
_MESSAGES = Path("", ("Messages",))
_TAG = re.compile(r"\s*(<[^<>\s]+>|\[[A-Z_]+\])")


def with_hints(template: Template, jinja: ChatTemplate, traits: Traits, learned: frozenset[str]) -> Template:
    """``template``, with what Ollama has to find in it.

    Nothing is hinted at that the Jinja does and the TEMPLATE does not.

    Args:
        template: learned.
        jinja: the chat template in the GGUF.
        traits: of it.
        learned: the capabilities that the TEMPLATE was learned for.
    """
    if "calls" in learned:
        template = _with_tag(template, calling_answer(jinja, traits) or "")
    return _with_capabilities(template, jinja.text, traits, learned)


def _with_tag(template: Template, answer: str) -> Template:
    """With the tag of calls in front, where Ollama would not find calls without it."""
    tag = _TAG.match(answer)
    if tag is None or reads_call(template, answer, CALL.name, CALL.arguments):
        return template
    hinted = (If(_NEVER, (Range(_MESSAGES, (If(_CALLS, (Text(tag[1]),)),)),)), *template)
    return hinted if reads_call(hinted, answer, CALL.name, CALL.arguments) else template


def _with_capabilities(template: Template, jinja: str, traits: Traits, learned: frozenset[str]) -> Template:
    text = emit(template)
    if go_is_used(text, jinja):
        return template
    found = read_capabilities(template)
    loses_tools = traits.tools and "tools" not in learned
    loses_thinking = (traits.thinking or bool(traits.switches)) and "thinking" not in learned
    hints: list[Node] = []
    if has_tool_round_trip(jinja) and not tool_round_trip(text) and not loses_tools and "calls" in learned:
        is_result = Call("eq", (Path("", ("Role",)), Literal("tool")))
        body: tuple[Node, ...] = (
            Print(Path("$", ("Tools",))),
            If(_CALLS, (Text("{"),)),
            If(is_result, (Text("{"),)),
        )
        hints.append(Range(_MESSAGES, body))
    elif has_tool_support(jinja) and "tools" not in found and not loses_tools:
        hints.append(Print(Path("", ("Tools",))))
    if has_thinking_support(jinja) and "thinking" not in found and not loses_thinking:
        shown: tuple[Node, ...] = (Text("<think>"), Print(Path("", ("Thinking",))), Text("</think>"))
        hints.append(Range(_MESSAGES, shown))
    return (*template, If(_NEVER, tuple(hints))) if hints else template
