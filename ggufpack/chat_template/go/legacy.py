"""What is left of a TEMPLATE for the last turn of a chat without ``.Messages``.

Source: Ollama 0.33.0, ``template/template.go``, ``Execute`` and ``deleteNode``: everything behind the
first ``.Response`` goes, that is everything that stands behind it in the text, at any depth.
"""

from __future__ import annotations

from dataclasses import replace

from ggufpack.chat_template.go import nodes
from ggufpack.chat_template.go.errors import GoTemplateError


def until_response(body: nodes.Template) -> nodes.Template:
    """``body`` up to the first ``{{ .Response }}``, which stays.

    Raises:
        GoTemplateError: ``.Response`` stands in an ``if`` that has an ``else``: Ollama panics.
    """
    return _Cutter().cut(body)


class _Cutter:
    def __init__(self) -> None:
        self.is_cut = False

    def cut(self, body: tuple[nodes.Node, ...]) -> tuple[nodes.Node, ...]:
        return tuple(kept for node in body if (kept := self.node(node)) is not None)

    def node(self, node: nodes.Node) -> nodes.Node | None:
        if self.is_cut:
            return None
        if isinstance(node, (nodes.If, nodes.With)):
            # conditions are not looked at, as in Ollama
            return replace(node, then=self.cut(node.then), otherwise=self.otherwise(node.otherwise))
        if isinstance(node, nodes.Range):
            return replace(node, body=self.cut(node.body), otherwise=self.otherwise(node.otherwise))
        if isinstance(node, (nodes.Print, nodes.Assign)):
            kept = self.pipeline(node.expression)
            return None if kept is None else replace(node, expression=kept)
        return node

    def otherwise(self, body: tuple[nodes.Node, ...]) -> tuple[nodes.Node, ...]:
        if body and self.is_cut:
            raise GoTemplateError("Ollama panics on .Response in an if that has an else")
        return self.cut(body)

    def pipeline(self, expression: nodes.Expression) -> nodes.Expression | None:
        """The arguments behind ``.Response`` go; a command that has none left takes its action with it."""
        stages = expression.stages if isinstance(expression, nodes.Pipe) else (expression,)
        kept: list[nodes.Expression] = []
        for stage in stages:
            if isinstance(stage, nodes.Call):
                if self.is_cut:
                    return None
                arguments = tuple(arg for each in stage.arguments if (arg := self.operand(each)) is not None)
                kept.append(nodes.Call(stage.function, arguments))
                continue
            found = self.operand(stage)
            if found is None:
                return None
            kept.append(found)
        return nodes.Pipe(tuple(kept)) if isinstance(expression, nodes.Pipe) else kept[0]

    def operand(self, expression: nodes.Expression) -> nodes.Expression | None:
        if self.is_cut:
            return None
        if isinstance(expression, (nodes.Call, nodes.Pipe)):
            return self.pipeline(expression)
        if isinstance(expression, nodes.Path) and not expression.base and "Response" in expression.fields:
            self.is_cut = True
        return expression
