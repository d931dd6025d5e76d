"""Go template text to nodes (text/template/parse/parse.go): what we write, and what people write for Ollama.

It reads the text that is shipped, so a proof that runs on its result covers the emitter too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

from ggufpack.chat_template.go import nodes
from ggufpack.chat_template.go.errors import GoTemplateError
from ggufpack.chat_template.go.functions import FUNCTION_NAMES
from ggufpack.chat_template.go.lex import SPACE, Token, tokens
from ggufpack.chat_template.go.quoting import unquote

_KEYWORDS = {"block", "break", "continue", "define", "else", "end", "if", "nil", "range", "template", "with"}
_OPERANDS = {"string", "char", "number", "variable", "field", "dot", "word", "open"}
_CONSTANTS = {"true": True, "false": False, "nil": None}
_INTEGER = re.compile(
    r"[+-]?(?:0[xX](?P<hex>_?[0-9a-fA-F_]+)|0[bB](?P<bin>_?[01_]+)|0[oO]?(?P<oct>_?[0-7_]+)|(?P<dec>[0-9][0-9_]*))"
)
_FLOAT = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_BASES = {"hex": 16, "bin": 2, "oct": 8, "dec": 10}
_DEEPEST = 200
MAX_CHARACTERS = 1 << 18  # Ollama's own templates have up to 10,000
_INT64_DIGITS = 19


def parse(text: str) -> nodes.Template:
    """``text`` as nodes: the definitions first, then the rest in order.

    Raises:
        GoTemplateError: with the line: text that Go refuses, that Ollama refuses (a ``template``
            without an argument), or that this package does not know. Without one: text of more
            than ``MAX_CHARACTERS``.
    """
    if len(text) > MAX_CHARACTERS:
        raise GoTemplateError(f"it has {len(text):,} characters, more than the {MAX_CHARACTERS:,} allowed")
    parser = _Parser(text)
    try:
        body = parser.template()
    except RecursionError:
        raise GoTemplateError("nested too deep") from None
    return (*(nodes.Define(name, content) for name, content in parser.definitions.items()), *body)


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens = list(tokens(text))
        self.at = 0
        self.definitions: dict[str, tuple[nodes.Node, ...]] = {}
        self.variables = ["$"]
        self.loops = 0
        self.depth = 0

    # --- tokens ---------------------------------------------------------------

    def peek(self) -> Token:
        """The next token; white space is passed over."""
        while self.tokens[self.at].kind == "space":
            self.at += 1
        return self.tokens[self.at]

    def take(self) -> Token:
        token = self.peek()
        self.at += 1
        return token

    def is_word(self, *words: str) -> bool:
        return self.peek().kind == "word" and self.peek().text in words

    def expect(self, kind: str, context: str) -> Token:
        token = self.take()
        if token.kind != kind:
            raise self.unexpected(token, context)
        return token

    @staticmethod
    def unexpected(token: Token, context: str) -> GoTemplateError:
        what = "the end of the text" if token.kind == "end" else repr(token.text)
        return GoTemplateError(f"unexpected {what} in {context}", line=token.line)

    # --- nodes ----------------------------------------------------------------

    def template(self) -> tuple[nodes.Node, ...]:
        found: list[nodes.Node] = []
        while self.peek().kind != "end":
            if self.peek().kind == "text":
                found.append(nodes.Text(self.take().text))
                continue
            self.take()  # {{
            if self.is_word("define"):
                self.take()
                self.define(self.name("define"))
            elif self.is_word("else", "end"):
                raise self.unexpected(self.peek(), "the template")
            else:
                found.append(self.action())
        return tuple(found)

    def name(self, context: str) -> str:
        return _decoded(self.expect("string", context))

    def define(self, name: str) -> None:
        """The body of ``define`` or ``block``: it sees no variable of its surroundings."""
        line = self.expect("right", "define").line
        outside = self.variables, self.loops
        self.variables, self.loops = ["$"], 0
        body, stop = self.items()
        self.variables, self.loops = outside
        if stop != "end":
            raise GoTemplateError(f"unexpected else in the definition of {name!r}", line=line)
        self.expect("right", "end")
        if not _is_empty(self.definitions.get(name, ())):
            if not _is_empty(body):
                raise GoTemplateError(f"multiple definition of template {name!r}", line=line)
            return
        self.definitions[name] = body

    def items(self) -> tuple[tuple[nodes.Node, ...], str]:
        """The nodes up to ``end`` or ``else``, and which of them; the keyword has been read."""
        found: list[nodes.Node] = []
        while self.peek().kind != "end":
            if self.peek().kind == "text":
                found.append(nodes.Text(self.take().text))
                continue
            self.take()  # {{
            if self.is_word("end", "else"):
                return tuple(found), self.take().text
            found.append(self.action())
        raise self.unexpected(self.peek(), "a block that has no end")

    def action(self) -> nodes.Node:
        token = self.peek()
        word = token.text if token.kind == "word" else ""
        if word in ("if", "with", "range", "template", "block"):
            self.take()
            if word in ("template", "block"):
                return self.include(is_block=word == "block")
            with self.scope():
                return self.range() if word == "range" else self.branch(word)
        if word in ("break", "continue") and self.loops:
            self.take()
            self.expect("right", word)
            return nodes.Break() if word == "break" else nodes.Continue()
        return self.print_or_assign()

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Variables declared inside are gone afterwards."""
        before = len(self.variables)
        self.depth += 1
        if self.depth > _DEEPEST:
            raise GoTemplateError("nested too deep", line=self.peek().line)
        yield
        self.depth -= 1
        del self.variables[before:]

    def include(self, *, is_block: bool) -> nodes.Include:
        line = self.peek().line
        name = self.name("template")
        if self.peek().kind == "right":
            raise GoTemplateError(
                f'Ollama refuses {{{{ template "{name}" }}}} without an argument: write a dot', line=line
            )
        argument = self.pipeline("template")
        if is_block:
            self.define(name)
        else:
            self.expect("right", "template")
        return nodes.Include(name, argument)

    def print_or_assign(self) -> nodes.Node:
        name, declares = self.declaration()
        expression = self.pipeline("an action")
        self.expect("right", "an action")
        return nodes.Assign(name, expression, declares) if name else nodes.Print(expression)

    def declaration(self) -> tuple[str, bool]:
        """``$name :=`` or ``$name =`` where the next tokens are that: the name, and whether it is new."""
        start = self.at
        if self.peek().kind == "variable":
            name = self.take().text
            if self.peek().kind in ("declare", "assign"):
                self.variables.append(name)
                return name, self.take().kind == "declare"
        self.at = start
        return "", False

    def branch(self, word: str) -> nodes.If | nodes.With:
        """``if`` and ``with``, with their ``else``."""
        variable, declares = self.declaration()
        if variable and not declares:
            raise GoTemplateError(f"{word} with = is not supported: write :=", line=self.peek().line)
        condition = self.pipeline(word)
        self.expect("right", word)
        then, stop = self.items()
        otherwise: tuple[nodes.Node, ...] = ()
        if stop == "else" and self.is_word(word):
            self.take()
            with self.scope():
                otherwise = (self.branch(word),)
        else:
            otherwise = self.otherwise(stop)
        if word == "if":
            return nodes.If(condition, then, otherwise, variable)
        return nodes.With(condition, then, otherwise, variable)

    def otherwise(self, stop: str) -> tuple[nodes.Node, ...]:
        if stop == "end":
            self.expect("right", "end")
            return ()
        if self.peek().kind != "right":
            raise self.unexpected(self.peek(), "else")
        self.take()
        body, stop = self.items()
        if stop != "end":
            raise GoTemplateError("a second else", line=self.peek().line)
        self.expect("right", "end")
        return body

    def range(self) -> nodes.Range:
        names = self.range_variables()
        expression = self.pipeline("range")
        self.variables += names
        self.expect("right", "range")
        self.loops += 1
        body, stop = self.items()
        self.loops -= 1
        key, value = names if len(names) == 2 else ("", *names) if names else ("", "")
        return nodes.Range(expression, body, key, value, self.otherwise(stop))

    def range_variables(self) -> list[str]:
        start = self.at
        names: list[str] = []
        while self.peek().kind == "variable" and len(names) < 2:
            names.append(self.take().text)
            if self.peek().kind == "comma":
                self.take()
                continue
            if self.peek().kind == "assign":
                raise GoTemplateError("range with = is not supported: write :=", line=self.peek().line)
            if self.peek().kind == "declare":
                self.take()
                return names
            break
        self.at = start
        return []

    # --- expressions ----------------------------------------------------------

    def pipeline(self, context: str) -> nodes.Expression:
        """``command | command …``, up to the end of the action or a closing parenthesis."""
        stages = [self.command(context)]
        while self.peek().kind == "pipe":
            line = self.take().line
            if self.peek().kind in ("right", "close"):
                break  # Go lets a last | pass
            stages.append(self.command(context))
            if isinstance(stages[-1], nodes.Literal) or stages[-1] == nodes.Path(""):
                raise GoTemplateError("a constant or a dot behind |", line=line)
        return stages[0] if len(stages) == 1 else nodes.Pipe(tuple(stages))

    def command(self, context: str) -> nodes.Expression:
        first = self.peek()
        head, in_parentheses = self.operand(context)
        arguments: list[nodes.Expression] = []
        while self.tokens[self.at].kind == "space" and self.peek().kind in _OPERANDS:
            arguments.append(self.argument(context))
        if self.peek().kind not in ("right", "close", "pipe"):
            raise self.unexpected(self.peek(), context)
        if isinstance(head, nodes.Call) and not in_parentheses:
            return nodes.Call(head.function, tuple(arguments))
        if arguments:
            raise GoTemplateError(f"{first.text!r} is no function and cannot have arguments", line=first.line)
        return nodes.Pipe((head,)) if in_parentheses else head

    def argument(self, context: str) -> nodes.Expression:
        operand, in_parentheses = self.operand(context)
        implied = isinstance(operand, nodes.Call) or (
            isinstance(operand, nodes.Pipe) and len(operand.stages) > 1
        )
        return nodes.Pipe((operand,)) if in_parentheses and not implied else operand

    def operand(self, context: str) -> tuple[nodes.Expression, bool]:
        """A term and fields of it; and whether it is a pipeline in parentheses, without fields."""
        token = self.take()
        term = self.term(token, context)
        fields = self.fields()
        if not fields:
            return term, token.kind == "open"
        if isinstance(term, nodes.Path) and token.kind in ("field", "variable"):
            return nodes.Path(term.base, term.fields + fields), False
        if token.kind in ("open", "word") and token.text not in ("true", "false", "nil"):
            return nodes.Chain(term, fields), False
        raise GoTemplateError(f"a field of {token.text}", line=token.line)

    def fields(self) -> tuple[str, ...]:
        found: list[str] = []
        while self.tokens[self.at].kind == "field":
            found.append(self.tokens[self.at].text[1:])
            self.at += 1
        return tuple(found)

    def term(self, token: Token, context: str) -> nodes.Expression:
        if token.kind == "open":
            self.depth += 1
            if self.depth > _DEEPEST:
                raise GoTemplateError("nested too deep", line=token.line)
            inside = self.pipeline("parentheses")
            self.expect("close", "parentheses")
            self.depth -= 1
            return inside
        if token.kind == "variable":
            if token.text not in self.variables:
                raise GoTemplateError(f"undefined variable {token.text}", line=token.line)
            return nodes.Path(token.text)
        if token.kind in ("dot", "field"):
            return nodes.Path("", (token.text[1:],) if token.kind == "field" else ())
        if token.kind == "string":
            return nodes.Literal(_decoded(token))
        if token.kind in ("number", "char"):
            return nodes.Literal(_number(token))
        if token.kind != "word" or token.text in _KEYWORDS - {"nil", "break", "continue"}:
            raise self.unexpected(token, context)
        if token.text in _CONSTANTS:
            return nodes.Literal(_CONSTANTS[token.text])
        if token.text not in FUNCTION_NAMES:
            raise GoTemplateError(f"function {token.text!r} not defined", line=token.line)
        return nodes.Call(token.text, ())


def _decoded(token: Token) -> str:
    try:
        return unquote(token.text).decode("utf-8", "surrogateescape")
    except GoTemplateError as error:
        raise GoTemplateError(error.problem, line=token.line) from None


def _number(token: Token) -> int | float:
    if token.kind == "char":
        text = _decoded(Token("string", token.text, token.line))
        if len(text) != 1:
            raise GoTemplateError(f"malformed character constant {token.text}", line=token.line)
        return ord(text) - (0xDC00 if 0xDC80 <= ord(text) <= 0xDCFF else 0)
    text = token.text
    if found := _INTEGER.fullmatch(text):
        base, digits = next((name, digits) for name, digits in found.groupdict().items() if digits)
        plain_digits = digits.replace("_", "")
        octal_with_nine = base == "dec" and len(plain_digits) > 1 and plain_digits[0] == "0"
        too_large = base == "dec" and len(plain_digits) > _INT64_DIGITS
        if (
            plain_digits
            and not too_large
            and not octal_with_nine
            and not digits.endswith("_")
            and "__" not in digits
        ):
            number = int(plain_digits, _BASES[base]) * (-1 if text[0] == "-" else 1)
            if -(2**63) <= number < 2**63:
                return number
    elif _FLOAT.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    why = "a complex number is not supported here" if text.endswith("i") else "bad number syntax"
    raise GoTemplateError(f"{why}: {text}", line=token.line)


def _is_empty(body: tuple[nodes.Node, ...]) -> bool:
    return all(isinstance(node, nodes.Text) and not node.text.strip(SPACE) for node in body)
