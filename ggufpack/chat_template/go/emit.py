"""Nodes to the text of a Go template that a person can read, byte for byte the same when run.

Structural actions (``if``, ``range``, ``$x :=`` …) stand on lines of their own, indented by depth. Go's
left trim, ``{{-``, takes that line break and indentation away again. It would also take white space at
the end of printed text, so behind such text the action follows directly and untrimmed. ``-}}`` is never
written: it would eat the beginning of what is printed next.
"""

from __future__ import annotations

from ggufpack.chat_template.go import nodes
from ggufpack.chat_template.go.lex import SPACE
from ggufpack.chat_template.go.quoting import literal

_INDENT = "  "


def emit(template: nodes.Template) -> str:
    """The text; ``parse`` of it does what ``template`` does."""
    writer = _Writer()
    writer.write(template, 0)
    return writer.finished()


class _Writer:
    def __init__(self) -> None:
        self._parts: list[str] = []
        self._text = ""  # printed text at the end, not yet in parts

    def finished(self) -> str:
        self._flush(escape_brace=False)
        return "".join(self._parts)

    def write(self, body: tuple[nodes.Node, ...], depth: int) -> None:
        for node in body:
            self._node(node, depth)

    def _node(self, node: nodes.Node, depth: int) -> None:
        if isinstance(node, nodes.Text):
            self._text += node.text
        elif isinstance(node, nodes.Print):
            self._inline(pipeline(node.expression))
        elif isinstance(node, nodes.Include):
            self._inline(f"template {literal(node.name)} {pipeline(node.argument)}")
        elif isinstance(node, nodes.Assign):
            sign = ":=" if node.declare else "="
            self._structural(f"{node.name} {sign} {pipeline(node.expression)}", depth)
        elif isinstance(node, (nodes.Break, nodes.Continue)):
            self._structural("break" if isinstance(node, nodes.Break) else "continue", depth)
        elif isinstance(node, nodes.Define):
            self._structural(f"define {literal(node.name)}", depth)
            self.write(node.body, depth + 1)
            self._structural("end", depth)
        elif isinstance(node, nodes.Range):
            self._structural(f"range {_range(node)}", depth)
            self.write(node.body, depth + 1)
            self._otherwise(node.otherwise, depth)
        else:
            self._branch(node, depth)

    def _branch(self, node: nodes.If | nodes.With, depth: int) -> None:
        """An ``if`` or ``with``, and as one chain whatever else stands alone in its ``else``."""
        word = "if" if isinstance(node, nodes.If) else "with"
        opening = word
        while True:
            declaration = f"{node.variable} := " if node.variable else ""
            condition = pipeline(node.condition if isinstance(node, nodes.If) else node.expression)
            self._structural(f"{opening} {declaration}{condition}", depth)
            self.write(node.then, depth + 1)
            following = node.otherwise[0] if len(node.otherwise) == 1 else None
            if not isinstance(following, type(node)):
                break
            node, opening = following, f"else {word}"
        self._otherwise(node.otherwise, depth)

    def _otherwise(self, body: tuple[nodes.Node, ...], depth: int) -> None:
        if body:
            self._structural("else", depth)
            self.write(body, depth + 1)
        self._structural("end", depth)

    def _inline(self, action: str) -> None:
        self._flush(escape_brace=True)
        self._parts.append(f"{{{{ {action} }}}}")

    def _structural(self, action: str, depth: int) -> None:
        if self._text and self._text[-1] in SPACE:
            self._inline(action)
            return
        self._flush(escape_brace=False)
        line = "\n" + _INDENT * depth if self._parts else ""
        self._parts.append(f"{line}{{{{- {action} }}}}")

    def _flush(self, *, escape_brace: bool) -> None:
        """Printed text, with Go's delimiter in it, or a brace right before one, as a string."""
        text = self._text.replace("{{", '{{ "{{" }}')
        if escape_brace and text.endswith("{"):
            text = text[:-1] + '{{ "{" }}'
        if text:
            self._parts.append(text)
        self._text = ""


def _range(node: nodes.Range) -> str:
    names = ", ".join(name for name in (node.key, node.value) if name)
    return f"{names} := {pipeline(node.expression)}" if names else pipeline(node.expression)


def pipeline(expression: nodes.Expression) -> str:
    """An expression where a pipeline may stand: after a keyword, in an action, in parentheses."""
    if isinstance(expression, nodes.Pipe) and len(expression.stages) > 1:
        return " | ".join(map(_command, expression.stages))
    return _command(expression)


def _command(expression: nodes.Expression) -> str:
    if isinstance(expression, nodes.Call):
        return " ".join([expression.function, *map(_operand, expression.arguments)])
    return _operand(expression)


def _operand(expression: nodes.Expression) -> str:
    if isinstance(expression, nodes.Literal):
        return _constant(expression.value)
    if isinstance(expression, nodes.Path):
        fields = "".join(f".{field}" for field in expression.fields)
        return expression.base + fields or "."
    if isinstance(expression, nodes.Chain):
        return f"({pipeline(expression.expression)})" + "".join(f".{field}" for field in expression.fields)
    if isinstance(expression, nodes.Call):
        return f"({_command(expression)})" if expression.arguments else expression.function
    inside = expression.stages[0] if len(expression.stages) == 1 else expression
    return f"({pipeline(inside)})"


def _constant(value: str | int | bool | float | None) -> str:
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "true" if value else "false"
    return literal(value) if isinstance(value, str) else repr(value)
