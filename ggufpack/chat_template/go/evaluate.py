"""Running a TEMPLATE as Ollama does (text/template/exec.go; Ollama's template/template.go, Execute)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date

from ggufpack.chat_template.conversation import Conversation
from ggufpack.chat_template.go import nodes
from ggufpack.chat_template.go.errors import GoTemplateError
from ggufpack.chat_template.go.formatting import formatted, printable
from ggufpack.chat_template.go.functions import (
    BUILTIN_NAMES,
    SHORT_CIRCUIT,
    UNSUPPORTED,
    Function,
    functions,
)
from ggufpack.chat_template.go.inspect import variables
from ggufpack.chat_template.go.legacy import until_response
from ggufpack.chat_template.go.methods import method
from ggufpack.chat_template.go.ollama import chat_data, collate, root
from ggufpack.chat_template.go.quoting import decode
from ggufpack.chat_template.go.values import (
    INVALID,
    NIL,
    Map,
    Nothing,
    OrderedProperties,
    Pairs,
    Pointer,
    Slice,
    Struct,
    Value,
    concrete,
    truth,
    type_name,
)

_RESPONSE = nodes.Print(nodes.Path("", ("Response",)))
_DEEPEST = 100
MAX_STEPS = 1_000_000  # a long conversation through a large TEMPLATE takes some 10,000
MAX_BYTES = 4 << 20  # of the prompt, and of any one text on its way there
_BYTES_A_STEP = 1 << 12  # so that long texts count as well


def render(template: nodes.Template, conversation: Conversation, *, today: date) -> str:
    """The prompt that Ollama makes of ``conversation``.

    Raises:
        GoTemplateError: Ollama would fail, or something here cannot be run exactly.
    """
    try:
        return decode(_render(template, conversation, today))
    except RecursionError:
        raise GoTemplateError("nested too deep") from None


def _render(template: nodes.Template, conversation: Conversation, today: date) -> bytes:
    names = variables(template)
    if "messages" in names:
        return _Program(template, today).run(chat_data(conversation))
    if "response" not in names:
        template = (*template, _RESPONSE)
    return _legacy(template, conversation, today)


def _legacy(template: nodes.Template, conversation: Conversation, today: date) -> bytes:
    """A TEMPLATE without ``.Messages`` is run once a turn, with ``.System``, ``.Prompt``, ``.Response``."""
    program = _Program(template, today)
    text = b""
    turn = {"System": "", "Prompt": "", "Response": ""}

    def data() -> Map:
        found = root({key: value.encode() for key, value in turn.items()}, conversation.think)
        turn.update(dict.fromkeys(turn, ""))
        return found

    for message in collate(conversation.messages).messages:
        ends_turn = turn["Response"] or (message.role == "system" and turn["Prompt"])
        if ends_turn and message.role in ("system", "user"):
            text += program.run(data())
        if message.role != "tool":
            key = {"system": "System", "user": "Prompt", "assistant": "Response"}[message.role]
            turn[key] = message.content
    # the last turn runs without its end, without definitions, and without Ollama's functions
    body = until_response(tuple(node for node in template if not isinstance(node, nodes.Define)))
    return text + _Program(body, today, is_bare=True).run(data())


class _Break(Exception):  # noqa: N818 - control flow, as in Go
    pass


class _Continue(Exception):  # noqa: N818 - control flow, as in Go
    pass


@dataclass
class _Variable:
    name: str
    value: Value


class _Program:
    """A template and what it may call.

    Args:
        is_bare: as ``AddParseTree`` on a new template leaves it: text/template's functions only, and
            a missing key is no value instead of nil.
    """

    def __init__(self, template: nodes.Template, today: date, *, is_bare: bool = False) -> None:
        self.body = tuple(node for node in template if not isinstance(node, nodes.Define))
        self.definitions = {node.name: node.body for node in template if isinstance(node, nodes.Define)}
        known = functions(today)
        self.functions: Mapping[str, Function] = (
            {name: known[name] for name in known if name in BUILTIN_NAMES} if is_bare else known
        )
        self.missing: Nothing = INVALID if is_bare else NIL
        self.steps = 0
        self.printed = 0

    def work(self, steps: int) -> None:
        """Count what was done, a node or an argument each: a TEMPLATE is a program, and may loop or grow."""
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise GoTemplateError(f"it takes more than {MAX_STEPS:,} steps")

    def run(self, data: Map) -> bytes:
        self.steps = self.printed = 0
        out: list[bytes] = []
        _State(self, out, data, 0).walk(data, self.body)
        return b"".join(out)


class _State:
    """One execution of the template or of a definition: a stack of variables, and where to print."""

    def __init__(self, program: _Program, out: list[bytes], data: Value, depth: int) -> None:
        if depth > _DEEPEST:
            raise GoTemplateError(f"templates call each other more than {_DEEPEST} deep")
        self.program = program
        self.out = out
        self.depth = depth
        self.stack = [_Variable("$", data)]

    # --- nodes ----------------------------------------------------------------

    def walk(self, dot: Value, body: Sequence[nodes.Node]) -> None:
        for node in body:
            self.node(dot, node)

    def node(self, dot: Value, node: nodes.Node) -> None:
        self.program.work(1)
        if isinstance(node, nodes.Text):
            self.print(node.text.encode("utf-8", "surrogateescape"))
        elif isinstance(node, nodes.Print):
            self.print(formatted(printable(self.pipeline(dot, node.expression))))
        elif isinstance(node, nodes.Assign):
            value = self.pipeline(dot, node.expression)
            if node.declare:
                self.stack.append(_Variable(node.name, value))
            else:
                self.variable(node.name).value = value
        elif isinstance(node, (nodes.If, nodes.With)):
            self.branch(dot, node)
        elif isinstance(node, nodes.Range):
            self.range(dot, node)
        elif isinstance(node, nodes.Include):
            self.include(dot, node)
        elif isinstance(node, nodes.Break):
            raise _Break
        elif isinstance(node, nodes.Continue):
            raise _Continue

    def print(self, text: bytes) -> None:
        self.program.printed += len(text)
        if self.program.printed > MAX_BYTES:
            raise GoTemplateError(f"it prints more than {MAX_BYTES:,} bytes")
        self.out.append(text)

    @contextmanager
    def scope(self) -> Iterator[None]:
        mark = len(self.stack)
        try:
            yield
        finally:
            del self.stack[mark:]

    def variable(self, name: str) -> _Variable:
        for distance, variable in enumerate(reversed(self.stack)):
            if variable.name == name:
                self.program.work(distance >> 4)
                return variable
        raise GoTemplateError(f"undefined variable: {name}")

    def branch(self, dot: Value, node: nodes.If | nodes.With) -> None:
        with self.scope():
            value = self.pipeline(dot, node.condition if isinstance(node, nodes.If) else node.expression)
            if node.variable:
                self.stack.append(_Variable(node.variable, value))
            if truth(value):
                self.walk(value if isinstance(node, nodes.With) else dot, node.then)
            else:
                self.walk(dot, node.otherwise)

    def range(self, dot: Value, node: nodes.Range) -> None:
        with self.scope():
            value = self.pipeline(dot, node.expression)
            own = [_Variable(name, value) for name in (node.key, node.value) if name]
            self.stack += own  # an else sees them too: they hold what is ranged over
            has_run = False
            try:
                for pair in _rounds(value, len(own)):
                    self.program.work(1)
                    has_run = True
                    for variable, item in zip(own, pair[-len(own) :], strict=True) if own else ():
                        variable.value = item
                    with self.scope():
                        self.round(pair[-1], node.body)
                if not has_run:
                    self.walk(dot, node.otherwise)  # a break in here ends this range too, as in Go
            except _Break:
                return

    def round(self, item: Value, body: Sequence[nodes.Node]) -> None:
        try:
            self.walk(item, body)
        except _Continue:
            return

    def include(self, dot: Value, node: nodes.Include) -> None:
        if node.name not in self.program.definitions:
            raise GoTemplateError(f"template {node.name!r} not defined")
        argument = self.pipeline(dot, node.argument)
        state = _State(self.program, self.out, argument, self.depth + 1)
        state.walk(argument, self.program.definitions[node.name])

    # --- expressions ----------------------------------------------------------

    def pipeline(self, dot: Value, expression: nodes.Expression) -> Value:
        """The value of a pipeline, which is never a nil interface: that becomes no value."""
        stages = expression.stages if isinstance(expression, nodes.Pipe) else (expression,)
        if len(stages) == 1 and isinstance(expression, nodes.Pipe):
            return self.pipeline(dot, stages[0])
        value = concrete(self.command(dot, stages[0], ()))
        for stage in stages[1:]:
            value = concrete(self.command(dot, stage, (value,)))
        return value

    def command(self, dot: Value, expression: nodes.Expression, last: tuple[Value, ...]) -> Value:
        """A stage of a pipeline; ``last`` is what the stage before it gave."""
        if isinstance(expression, nodes.Call):
            return self.call(dot, expression, last)
        if last:
            raise GoTemplateError("can't give argument to non-function")
        if isinstance(expression, nodes.Literal) and expression.value is None:
            raise GoTemplateError("nil is not a command")
        return self.argument(dot, expression)

    def argument(self, dot: Value, expression: nodes.Expression) -> Value:
        if isinstance(expression, nodes.Literal):
            value = expression.value
            if isinstance(value, str):
                return value.encode("utf-8", "surrogateescape")
            return INVALID if value is None else value
        if isinstance(expression, nodes.Path):
            base = self.variable(expression.base).value if expression.base else dot
            return self.fields(base, expression.fields)
        if isinstance(expression, nodes.Chain):
            return self.fields(self.pipeline(dot, expression.expression), expression.fields)
        if isinstance(expression, nodes.Call):
            return concrete(self.call(dot, expression, ()))
        return self.pipeline(dot, expression)

    def call(self, dot: Value, call: nodes.Call, last: tuple[Value, ...]) -> Value:
        name = call.function
        if name in UNSUPPORTED:
            raise GoTemplateError(f"the function {name} is not supported here")
        if name in SHORT_CIRCUIT:
            return self.short_circuit(dot, call, last)
        if name not in self.program.functions:
            raise GoTemplateError(f"{name!r} is not a defined function")
        arguments = [*(self.argument(dot, argument) for argument in call.arguments), *last]
        size = sum(len(argument) for argument in arguments if isinstance(argument, bytes))
        if size > MAX_BYTES:
            raise GoTemplateError(f"{name} is given more than {MAX_BYTES:,} bytes")
        self.program.work(1 + len(arguments) + size // _BYTES_A_STEP)
        try:
            return self.program.functions[name](arguments)
        except GoTemplateError as error:
            raise GoTemplateError(f"error calling {name}: {error}") from None

    def short_circuit(self, dot: Value, call: nodes.Call, last: tuple[Value, ...]) -> Value:
        if not call.arguments and not last:
            raise GoTemplateError(f"wrong number of args for {call.function}: want at least 1 got 0")
        value: Value = INVALID
        self.program.work(len(call.arguments))
        for argument in call.arguments:
            value = self.argument(dot, argument)
            if truth(value) == (call.function == "or"):
                return value
        return last[0] if last else value

    def fields(self, value: Value, names: Sequence[str]) -> Value:
        self.program.work(len(names))
        for name in names:
            value = self.field(value, name)
        return value

    def field(self, value: Value, name: str) -> Value:
        """evalField: a method, a field of a struct, or a key of a map."""
        if value is INVALID:
            return INVALID
        if value is NIL:
            raise GoTemplateError(f"nil pointer evaluating interface {{}}.{name}")
        own = method(value, name)
        if own is not None:
            return own()
        item = value.to if isinstance(value, Pointer) else value
        if isinstance(item, Map):
            missing = self.program.missing if item.zero is NIL else item.zero
            return (item.entries or {}).get(name.encode(), missing)
        found = item.get(name) if isinstance(item, Struct) else None
        if found is None:
            raise GoTemplateError(f"can't evaluate field {name} in type {type_name(value)}")
        return found


def _rounds(value: Value, names: int) -> Iterator[tuple[Value, Value]]:
    """Key and value of each round of a range; of a number, the value only."""
    if isinstance(value, Slice):
        yield from enumerate(value.elements)
    elif isinstance(value, Map):
        yield from value.sorted()
    elif isinstance(value, Pairs):
        for key, item in value.entries.items():
            yield key, item if names == 2 else key
    elif isinstance(value, int) and not isinstance(value, bool):
        if names == 2:
            raise GoTemplateError("can't use a number to iterate over more than one variable")
        for number in range(value):
            yield INVALID, number
    elif value is not INVALID:
        if isinstance(value, OrderedProperties) and value.entries is None:
            raise GoTemplateError("range can't iterate over a nil pointer")
        raise GoTemplateError(f"range can't iterate over {type_name(value)}")
