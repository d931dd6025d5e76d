"""Modelfile text back to data, as Ollama reads it.

Source: Ollama 0.33.0, ``parser/parser.go``, ``ParseFile``. A test asks that parser itself. What is
surprising there and followed here: there is no escape; a quoted value ends at the first line end
where the text so far ends with its quotes; characters that do not print are dropped; two blanks
after PARAMETER make a parameter without a name.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass

from ggufpack.errors import ModelfileError
from ggufpack.modelfile.findings import NOT_A_MODELFILE, make_finding
from ggufpack.modelfile.model import Modelfile

_TEXTS = frozenset({"license", "template", "system", "renderer", "parser", "requires"})
_PATHS = frozenset({"from", "adapter", "draft"})
_COMMANDS = _TEXTS | _PATHS | {"parameter", "message"}
_ROLES = frozenset({"system", "user", "assistant"})
_LETTERS = frozenset(string.ascii_letters)
_PARAMETER_CHARACTERS = frozenset(string.ascii_letters + string.digits + "_")
_BLANKS = " \t"
_LINE_ENDS = "\r\n"


@dataclass(frozen=True)
class Command:
    """One instruction: its name in lower case, its value, and for PARAMETER and MESSAGE the word
    between (the key, the role)."""

    name: str
    value: str
    word: str | None = None


def parse(text: str) -> Modelfile:
    """The Modelfile in ``text``.

    Of a repeated single instruction the last counts, as in Ollama. Of two FROM lines the second is a
    vision tower, as ``render`` writes them; Ollama looks into the files and takes any order.

    Raises:
        ModelfileError: GP501, text that Ollama refuses (names the line), or more than two FROM lines.
    """
    commands = parse_commands(text)

    def values(name: str) -> tuple[str, ...]:
        return tuple(command.value for command in commands if command.name == name)

    def pairs(name: str) -> tuple[tuple[str, str], ...]:
        return tuple((command.word or "", command.value) for command in commands if command.name == name)

    def last(name: str) -> str | None:
        return values(name)[-1] if values(name) else None

    if len(values("from")) > 2:
        raise _error(None, "more than two FROM, where ggufpack reads a model and its vision tower")
    return Modelfile(
        from_=values("from")[0],
        projector=next(iter(values("from")[1:]), None),
        template=last("template"),
        system=last("system"),
        parameters=pairs("parameter"),
        license=values("license"),
        messages=pairs("message"),
        adapters=values("adapter"),
        draft=last("draft"),
        renderer=last("renderer"),
        parser=last("parser"),
        requires=last("requires"),
    )


def parse_commands(text: str) -> tuple[Command, ...]:
    """The instructions in ``text``, in their order.

    Raises:
        ModelfileError: GP501, text that Ollama refuses; names the line.
    """
    commands = tuple(_commands(_Reader(text.removeprefix("\ufeff"))))
    if all(command.name != "from" for command in commands):
        raise _error(None, "no FROM instruction")
    return commands


def unquote(text: str) -> str | None:
    """A value without its quotes; ``None`` when they are not closed."""
    for quotes in ('"""', '"'):
        if text.startswith(quotes):
            closed = len(text) >= 2 * len(quotes) and text.endswith(quotes)
            return text[len(quotes) : -len(quotes)] if closed else None
    return text


def is_kept(character: str) -> bool:
    """Whether Ollama's parser keeps ``character`` inside a quoted value.

    Go's ``strconv.IsPrint`` and Python's ``str.isprintable`` follow one rule (letters, marks,
    numbers, punctuation, symbols, the ASCII space), each with its own Unicode version: a character
    newer than this Python counts as dropped.
    """
    return character in _BLANKS or character in _LINE_ENDS or character.isprintable()


@dataclass
class _Reader:
    """The text with a position in it."""

    text: str
    position: int = 0

    def peek(self) -> str:
        return self.text[self.position : self.position + 1]

    def take(self) -> str:
        character = self.peek()
        self.position += 1
        return character

    def word(self, allowed: frozenset[str]) -> str:
        """Characters of ``allowed`` and the one blank that must follow them."""
        start = self.position
        while self.peek() in allowed:
            self.position += 1
        word = self.text[start : self.position]
        if self.peek() == "":
            raise _error(self.line(), f"the text ends after {word!r}")
        if self.peek() not in _BLANKS:
            raise _error(self.line(), f"{word + self.peek()!r} is no word of a Modelfile")
        self.position += 1
        return word

    def line(self, position: int | None = None) -> int:
        before = self.text[: self.position if position is None else position]
        return 1 + before.count("\n") + before.count("\r") - before.count("\r\n")


def _commands(reader: _Reader) -> Iterator[Command]:
    while character := reader.peek():
        if character in _BLANKS or character in _LINE_ENDS:
            reader.take()
        elif character == "#":
            while reader.peek() and reader.peek() not in _LINE_ENDS:
                reader.take()
        else:
            yield _command(reader)


def _command(reader: _Reader) -> Command:
    # the first character is taken unseen there: one that does not print is dropped, any other
    # that is not a letter makes a name that is not known
    if not reader.peek().isprintable():
        reader.take()
    name = reader.word(_LETTERS).lower()
    if name not in _COMMANDS:
        raise _error(reader.line(), f"{name!r} is not an instruction")
    word = None
    if name == "parameter":
        word = reader.word(_PARAMETER_CHARACTERS)
    elif name == "message":
        word = reader.word(_LETTERS)
        if word not in _ROLES:
            raise _error(reader.line(), f"{word!r} is not a role (system, user or assistant)")
    return Command(name, _value(reader), word)


def _value(reader: _Reader) -> str:
    start = reader.position
    kept: list[str] = []
    first = end = 0  # of what is kept, without the blanks and line ends around it
    while character := reader.take():
        if character in _LINE_ENDS and _is_closed(kept, first, end):
            break
        if is_kept(character):
            kept.append(character)
            if character not in _BLANKS and character not in _LINE_ENDS:
                first = first if end else len(kept) - 1
                end = len(kept)
    value = unquote("".join(kept[first:end]))
    if value is None:
        raise _error(reader.line(start), "the quotes opened here are not closed")
    return value


def _is_closed(kept: list[str], first: int, end: int) -> bool:
    """Whether a value may end here, from its quotes alone: a text of many lines is not gone through for
    each of them."""
    short = kept[first:end] if end - first <= 6 else kept[first : first + 3] + kept[end - 3 : end]
    return unquote("".join(short)) is not None


def _error(line: int | None, problem: str) -> ModelfileError:
    place = "Modelfile" if line is None else f"Modelfile, line {line}"
    finding = make_finding(NOT_A_MODELFILE, place=place, problem=problem)
    return ModelfileError(finding.message, finding=finding.id)
