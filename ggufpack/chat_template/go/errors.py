"""The one error of this package."""

from __future__ import annotations


class GoTemplateError(ValueError):
    """A TEMPLATE that Go or Ollama refuses, fails on, or that this package cannot run exactly.

    Never ends a command: the stage that evaluates a TEMPLATE turns it into a refusal.

    Args:
        problem: what is wrong.
        line: of the text, counted from one, where there is a text.
    """

    def __init__(self, problem: str, *, line: int | None = None) -> None:
        self.problem = problem
        self.line = line
        super().__init__(problem if line is None else f"line {line}: {problem}")
