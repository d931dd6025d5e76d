"""What Ollama concludes from a TEMPLATE without running it.

Source: Ollama 0.33.0; each function names the one it follows.
"""

from __future__ import annotations

from collections.abc import Iterator

from ggufpack.chat_template.capabilities import prefers_chat_template
from ggufpack.chat_template.go import nodes
from ggufpack.chat_template.go.parse import parse

#: what Go's strings.TrimSpace takes away; Python's strip takes a few more
_SPACE = (
    "\t\n\v\f\r \u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


def variables(template: nodes.Template) -> tuple[str, ...]:
    """Names of fields and variables in lower case, sorted (``template.Vars``).

    Not those of ``(expression).Field``: Ollama does not look there.
    """
    return tuple(sorted({name.lower() for name in _names(template)}))


def _names(body: tuple[nodes.Node, ...]) -> Iterator[str]:
    for node in body:
        for expression in _expressions(node):
            yield from _identifiers(expression)
        for inner in _bodies(node):
            yield from _names(inner)


def _expressions(node: nodes.Node) -> tuple[nodes.Expression, ...]:
    if isinstance(node, (nodes.Print, nodes.Assign, nodes.Range, nodes.With)):
        return (node.expression,)
    if isinstance(node, nodes.If):
        return (node.condition,)
    return (node.argument,) if isinstance(node, nodes.Include) else ()


def _bodies(node: nodes.Node) -> tuple[tuple[nodes.Node, ...], ...]:
    if isinstance(node, (nodes.If, nodes.With)):
        return node.then, node.otherwise
    if isinstance(node, nodes.Range):
        return node.body, node.otherwise
    return (node.body,) if isinstance(node, nodes.Define) else ()


def _identifiers(expression: nodes.Expression) -> Iterator[str]:
    if isinstance(expression, nodes.Path):
        yield from (expression.base,) if expression.base else ()
        yield from expression.fields
    elif isinstance(expression, nodes.Call):
        for argument in expression.arguments:
            yield from _identifiers(argument)
    elif isinstance(expression, nodes.Pipe):
        for stage in expression.stages:
            yield from _identifiers(stage)


def _dot_fields(expression: nodes.Expression) -> Iterator[tuple[str, ...]]:
    """The paths from the dot (``FieldNode``), at any depth."""
    if isinstance(expression, nodes.Path) and not expression.base and expression.fields:
        yield expression.fields
    elif isinstance(expression, nodes.Call):
        for argument in expression.arguments:
            yield from _dot_fields(argument)
    elif isinstance(expression, nodes.Pipe):
        for stage in expression.stages:
            yield from _dot_fields(stage)


def thinking_tags(template: nodes.Template) -> tuple[str, str]:
    """The tags around reasoning (``thinking.InferTags``): the last that a ``.Thinking`` stands between.

    Only inside a range over ``.Messages``, and only tags that begin and end the innermost block.
    """
    found = ["", ""]
    main = tuple(node for node in template if not isinstance(node, nodes.Define))
    _find_thinking(main, ranges_messages=False, found=found)
    return found[0], found[1]


def _find_thinking(body: tuple[nodes.Node, ...], *, ranges_messages: bool, found: list[str]) -> None:
    for node in body:
        inside = ranges_messages
        if isinstance(node, nodes.Range):
            inside = any(fields[0] == "Messages" for fields in _dot_fields(node.expression))
        names = (fields for expression in _expressions(node) for fields in _dot_fields(expression))
        if inside and any(fields[0] == "Thinking" for fields in names):
            for index, edge in enumerate((body[0], body[-1])):
                if isinstance(edge, nodes.Text):
                    found[index] = edge.text.strip(_SPACE)
        for inner in _bodies(node):
            _find_thinking(inner, ranges_messages=inside, found=found)


def tool_call_tag(template: nodes.Template) -> str:
    """The text that Ollama waits for before it reads tool calls (``tools/template.go``, ``parseTag``)."""
    found = _tool_calls(template)
    text = None if found is None else _first_text(found.then)
    if text is None:
        return "{"
    return text.replace("\r\n", "\n").partition("{")[0].strip(_SPACE) or "{"


def _tool_calls(body: tuple[nodes.Node, ...]) -> nodes.If | None:
    for node in body:
        if isinstance(node, nodes.If) and _names_tool_calls(node.condition):
            return node
        if isinstance(node, nodes.Define):
            continue
        for inner in _bodies(node):
            if (found := _tool_calls(inner)) is not None:
                return found
    return None


def _names_tool_calls(condition: nodes.Expression) -> bool:
    """``.ToolCalls`` itself or as a direct argument: Ollama does not look into parentheses."""
    is_pipe = isinstance(condition, nodes.Pipe) and len(condition.stages) > 1
    for stage in condition.stages if isinstance(condition, nodes.Pipe) and is_pipe else (condition,):
        for argument in stage.arguments if isinstance(stage, nodes.Call) else (stage,):
            if isinstance(argument, nodes.Path) and not argument.base and "ToolCalls" in argument.fields:
                return True
    return False


def _first_text(body: tuple[nodes.Node, ...]) -> str | None:
    for node in body:
        if isinstance(node, nodes.Text):
            if node.text.strip(_SPACE):
                return node.text
        elif isinstance(node, (nodes.If, nodes.With, nodes.Range)):
            inner = (_first_text(each) for each in _bodies(node))
            return next((text for text in inner if text is not None), None)
        elif isinstance(node, (nodes.Print, nodes.Assign)):
            return None
    return None


def capabilities(template: nodes.Template) -> tuple[str, ...]:
    """``tools``, ``insert``, ``thinking`` (``server/images.go``, ``goTemplateCapabilities``)."""
    names = variables(template)
    found = [
        ("tools", "tools" in names),
        ("insert", "suffix" in names),
        ("thinking", all(thinking_tags(template))),
    ]
    return tuple(name for name, is_there in found if is_there)


def tool_round_trip(go_text: str) -> bool:
    """Whether Ollama believes that calls and results are printed (``goTemplateHasToolRoundTrip``)."""
    names = variables(parse(go_text))
    if "tools" not in names or "toolcalls" not in names:
        return False
    return any(part in go_text for part in ('eq .Role "tool"', "tool_response", "TOOL_RESULTS"))


def go_is_used(go_text: str, jinja_text: str) -> bool:
    """Whether Ollama (0.30 on) runs the TEMPLATE, not the GGUF's Jinja (``shouldPreferChatTemplate``)."""
    return not prefers_chat_template(jinja_text, capabilities(parse(go_text)), tool_round_trip(go_text))
