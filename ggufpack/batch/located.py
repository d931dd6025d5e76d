"""YAML and TOML as data in which every value has its line, so that errors can name it.

YAML: ``yaml.compose`` gives nodes with their marks. TOML: ``tomllib`` gives no positions; the line of a
key is looked up in the text (``_TomlLines``), which serves messages and nothing else.

Hostile files are refused: more than ``MAX_BYTES``, deeper than ``MAX_DEPTH``, YAML aliases (a few lines of
them can stand for gigabytes) and tags.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from ggufpack.errors import ManifestError

tomllib = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

MAX_BYTES = 4 << 20
MAX_DEPTH = 16


@dataclass(frozen=True)
class Located:
    """A value of a file, and the line (from 1) it begins at; a mapping's entries have their keys' lines.

    ``value`` is a ``dict[str, Located]``, a ``list[Located]``, or a scalar.
    """

    value: Any
    line: int

    def plain(self) -> Any:
        """The value as Python data without lines."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value


def load_located(path: Path) -> Located:
    """A YAML file, or a TOML file by its suffix.

    Raises:
        ManifestError: it cannot be read, is hostile or has an error of syntax, a key given twice included.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ManifestError(f"{path} is larger than {MAX_BYTES >> 20} MiB.", path=path)
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror or error}.", path=path) from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path} is not UTF-8 (byte {error.start}).", path=path) from error
    return _load_toml(path, text) if path.suffix == ".toml" else _load_yaml(path, text)


def manifest_error(
    path: Path, line: int, problem: str, *, action: str | None = None, key: str | None = None
) -> ManifestError:
    """An error that begins with FILE:LINE."""
    return ManifestError(f"{path}:{line}: {problem}", action=action, path=path, key=key)


# --- YAML -----------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Composes plain trees only."""

    path: Path
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise manifest_error(
                self.path, line, "YAML aliases are not taken.", action="Put what items share into defaults."
            )
        if getattr(event, "tag", None) is not None:
            raise manifest_error(
                self.path, line, f"the YAML tag {event.tag} is not taken.", action="Leave it out."
            )
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise manifest_error(self.path, line, f"nested deeper than {MAX_DEPTH} levels.")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _load_yaml(path: Path, text: str) -> Located:
    try:
        loader = _Loader(text)
        loader.path = path
        node: Any = loader.get_single_node()
        return Located({}, 1) if node is None else _from_node(path, loader, node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "not YAML"
        raise manifest_error(path, 1 if mark is None else mark.line + 1, f"{problem}.") from error
    except yaml.YAMLError as error:
        raise ManifestError(f"{path} is not YAML: {error}.", path=path) from error


def _from_node(path: Path, loader: _Loader, node: Any) -> Located:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Located] = {}
        for key_node, value_node in node.value:
            key_line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise manifest_error(path, key_line, "a key must be a word.")
            key = str(key_node.value)
            if key in found:
                raise manifest_error(
                    path,
                    key_line,
                    f"{key} is given twice (first in line {found[key].line}).",
                    action="Remove one of them.",
                    key=key,
                )
            found[key] = Located(_from_node(path, loader, value_node).value, key_line)
        return Located(found, line)
    if isinstance(node, yaml.SequenceNode):
        return Located([_from_node(path, loader, item) for item in node.value], line)
    try:
        return Located(loader.construct_object(node), line)
    except ValueError as error:  # a date that is none, an integer of too many digits
        raise manifest_error(
            path, line, f"{node.value[:80]!r} cannot be read: {error}.", action="Quote it if it is text."
        ) from error


# --- TOML -----------------------------------------------------------------------


def _load_toml(path: Path, text: str) -> Located:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+)", str(error))
        problem = re.sub(r" \(at .*\)$", "", str(error))
        raise manifest_error(path, int(found[1]) if found else 1, f"{problem}.") from error
    except RecursionError as error:
        raise ManifestError(f"{path} is nested too deep.", path=path) from error
    return _from_toml(path, data, _TomlLines(text), ())


def _from_toml(path: Path, value: Any, lines: _TomlLines, place: tuple[str | int, ...]) -> Located:
    line = lines.of(place)
    if len(place) > MAX_DEPTH:
        raise manifest_error(path, line, f"nested deeper than {MAX_DEPTH} levels.")
    if isinstance(value, Mapping):
        return Located(
            {key: _from_toml(path, item, lines, (*place, key)) for key, item in value.items()}, line
        )
    if isinstance(value, list):
        return Located([_from_toml(path, item, lines, (*place, i)) for i, item in enumerate(value)], line)
    return Located(value, line)


class _TomlLines:
    """Where keys stand: table headers and ``key =`` at the beginning of a line."""

    _HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
    _KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*[\w-]+)*)\s*=""")

    def __init__(self, text: str) -> None:
        self._lines: dict[tuple[str | int, ...], int] = {}
        tables: dict[tuple[str | int, ...], int] = {}
        table: tuple[str | int, ...] = ()
        for number, line in enumerate(text.splitlines(), 1):
            if header := self._HEADER.match(line):
                table = ()
                for word in (words := self._words(header[2])):
                    table = (*table, word)
                    last = len(table) == len(words)
                    if not last and table in tables:
                        table = (*table, tables[table] - 1)
                if header[1] == "[[":
                    tables[table] = tables.get(table, 0) + 1
                    self._lines.setdefault(table, number)
                    table = (*table, tables[table] - 1)
                self._lines.setdefault(table, number)
            elif key := self._KEY.match(line):
                self._lines.setdefault((*table, *self._words(key[1])), number)

    def of(self, place: tuple[str | int, ...]) -> int:
        """The line of a place, or of the nearest place around it."""
        while place and place not in self._lines:
            place = place[:-1]
        return self._lines.get(place, 1)

    @staticmethod
    def _words(dotted: str) -> list[str]:
        return [word.strip().strip("\"'") for word in dotted.split(".")]
