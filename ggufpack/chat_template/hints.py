"""Dead blocks from which Ollama reads what a TEMPLATE can do.

Ollama 0.30 and later runs the GGUF's Jinja instead of a TEMPLATE in which it finds fewer capabilities
(``capabilities.py``). It looks for words, in a Jinja too: one that only mentions tools counts as one
that has them. So a TEMPLATE that does what the Jinja does mentions what the Jinja mentions.
"""

from __future__ import annotations

from ggufpack.chat_template.capabilities import (
    has_thinking_support,
    has_tool_round_trip,
    has_tool_support,
)
from ggufpack.chat_template.go.emit import emit
from ggufpack.chat_template.go.inspect import capabilities as read_capabilities
from ggufpack.chat_template.go.inspect import go_is_used, tool_round_trip
from ggufpack.chat_template.go.nodes import Call, If, Literal, Node, Path, Print, Range, Template, Text
from ggufpack.chat_template.traits import Traits

_NEVER = Literal(False)
_ROOT_MESSAGES = Path("", ("Messages",))


def with_hints(template: Template, jinja: str, traits: Traits, learned: frozenset[str]) -> Template:
    """``template``, with what Ollama has to find in it so that it is run.

    Nothing is hinted at that the Jinja does and the TEMPLATE does not.

    Args:
        template: learned.
        jinja: the text in the GGUF.
        traits: of the Jinja.
        learned: the capabilities that the TEMPLATE was learned for.
    """
    text = emit(template)
    if go_is_used(text, jinja):
        return template
    found = read_capabilities(template)
    loses_tools = traits.tools and "tools" not in learned
    loses_calls = loses_tools or "calls" not in learned
    loses_thinking = (traits.thinking or bool(traits.switches)) and "thinking" not in learned
    hints: list[Node] = []
    if has_tool_round_trip(jinja) and not tool_round_trip(text) and not loses_calls:
        is_result = Call("eq", (Path("", ("Role",)), Literal("tool")))
        body: tuple[Node, ...] = (
            Print(Path("$", ("Tools",))),
            If(Path("", ("ToolCalls",)), (Text("{"),)),
            If(is_result, (Text("{"),)),
        )
        hints.append(Range(_ROOT_MESSAGES, body))
    elif has_tool_support(jinja) and "tools" not in found and not loses_tools:
        hints.append(Print(Path("", ("Tools",))))
    if has_thinking_support(jinja) and "thinking" not in found and not loses_thinking:
        shown: tuple[Node, ...] = (Text("<think>"), Print(Path("", ("Thinking",))), Text("</think>"))
        hints.append(Range(_ROOT_MESSAGES, shown))
    return (*template, If(_NEVER, tuple(hints))) if hints else template
