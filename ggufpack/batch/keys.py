"""The keys of a manifest's items: what each takes, and how it gets into a ``BuildSpec``. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ggufpack.batch.located import Located, manifest_error
from ggufpack.batch.names import check_pattern
from ggufpack.batch.urls import check_url, url_of
from ggufpack.checkpoint.adapter_sources import parse_adapter
from ggufpack.errors import GgufpackError, UsageError
from ggufpack.proofs import VERIFY_LEVELS
from ggufpack.quantize.types import parse_file_types
from ggufpack.spec import AdapterSpec

# keys of BuildSpec, and "name", which is a pattern here
Values: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """The manifest that a value is from; its paths are relative to ``folder``."""

    path: Path

    @property
    def folder(self) -> Path:
        """Of the manifest."""
        return self.path.parent

    def resolve(self, text: str) -> Path:
        """A path as the manifest gives it; a URL stays.

        Raises:
            UsageError: a URL with credentials in it.
        """
        path = check_url(Path(text))
        return path if url_of(path) is not None else self.folder / path.expanduser()


def read_values(source: Source, entries: Mapping[str, Located], *, extra: tuple[str, ...] = ()) -> Values:
    """Keys of ``defaults`` or of one item, as values of a ``BuildSpec``.

    Args:
        source: the manifest.
        entries: key to value.
        extra: keys that are allowed, and the caller's business.

    Raises:
        ManifestError: an unknown key, a value of the wrong type or one that cannot be meant.
    """
    found: dict[str, Any] = {}
    for key, entry in entries.items():
        if key in extra:
            continue
        if key not in _KEYS:
            raise _unknown(source, key, entry.line, (*_KEYS, *extra))
        wanted, target, read = _KEYS[key]
        try:
            found[target] = read(source, entry.plain())
        except _WrongTypeError:
            raise manifest_error(
                source.path,
                entry.line,
                f"{key} must be {wanted}, and is {_kind(entry.plain())}.",
                key=key,
            ) from None
        except GgufpackError as error:
            raise manifest_error(
                source.path, entry.line, f"{key}: {error.problem}", action=error.action, key=key
            ) from error
    return found


def check_keys(source: Source, entries: Mapping[str, Located], known: tuple[str, ...]) -> None:
    """Refuse keys beside ``known``.

    Raises:
        ManifestError: an unknown key, with a suggestion.
    """
    for key, entry in entries.items():
        if key not in known:
            raise _unknown(source, key, entry.line, known)


def _unknown(source: Source, key: str, line: int, known: tuple[str, ...]) -> GgufpackError:
    near = difflib.get_close_matches(key, known, 1)
    action = f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(known)}."
    return manifest_error(source.path, line, f"{key} is no key of a manifest.", action=action, key=key)


# --- values ---------------------------------------------------------------------


class _WrongTypeError(Exception):
    """Told by the reader of a value; ``read_values`` knows key and line."""


def _text(_source: Source, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _WrongTypeError
    return value


def _flag(_source: Source, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _WrongTypeError
    return value


def _count(_source: Source, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise _WrongTypeError
    return value


def _texts(source: Source, value: Any) -> tuple[str, ...]:
    return tuple(_text(source, item) for item in (value if isinstance(value, list) else [value]))


def _folder(source: Source, value: Any) -> Path:
    return source.resolve(_text(source, value))


def _existing(source: Source, value: Any) -> Path:
    return _require(_folder(source, value))


def _require(path: Path) -> Path:
    if not path.exists():
        raise UsageError(f"{path} does not exist.", action="Paths are relative to the manifest's folder.")
    return path


def _model(source: Source, value: Any) -> Path:
    """A folder of this machine, or one by URL: whether that exists shows when it is read."""
    path = _folder(source, value)
    return path if url_of(path) is not None else _existing(source, value)


def _types(source: Source, value: Any) -> tuple[str, ...]:
    return parse_file_types(",".join(_texts(source, value)))


def _pattern(source: Source, value: Any) -> str:
    return check_pattern(_text(source, value))


def _template(source: Source, value: Any) -> str:
    """A file beside the manifest, or a word that a build knows."""
    text = _text(source, value)
    path = source.resolve(text)
    return str(path) if path.is_file() else text


def _level(source: Source, value: Any) -> str:
    text = _text(source, value)
    if text not in VERIFY_LEVELS:
        raise UsageError(f"{text!r} is no level.", action=f"Use one of {', '.join(VERIFY_LEVELS)}.")
    return text


def _parameters(_source: Source, value: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise _WrongTypeError
    return {key: tuple(map(_word, item if isinstance(item, list) else [item])) for key, item in value.items()}


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, (str, int, float)):
        raise _WrongTypeError
    return str(value)


def _adapters(source: Source, value: Any) -> tuple[AdapterSpec, ...]:
    found = tuple(parse_adapter(word, source.resolve) for word in _texts(source, value))
    for adapter in found:
        if url_of(adapter.folder) is None:
            _require(adapter.folder)
    return found


def _ids(source: Source, value: Any) -> frozenset[str]:
    return frozenset(word.upper() for word in _texts(source, value))


def _kind(value: Any) -> str:
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list"}
    if value is None or value == "":
        return "empty"
    return kinds.get(type(value), "a mapping" if isinstance(value, dict) else f"a {type(value).__name__}")


Reader: TypeAlias = Callable[[Source, Any], Any]
# key: what it takes, field of BuildSpec, reader
_KEYS: Mapping[str, tuple[str, str, Reader]] = {
    "name": ("a name pattern", "name", _pattern),
    "quantization": ("a type or a list of types", "quantizations", _types),
    "output": ("a folder", "output", _folder),
    "template": ("a text", "template", _template),
    "system": ("a text", "system", _text),
    "parameters": ("a mapping of Modelfile parameters", "parameters", _parameters),
    "host": ("a URL", "host", _text),
    "register": ("true or false", "register", _flag),
    "verify": ("a level", "verify", _level),
    "overwrite": ("true or false", "overwrite", _flag),
    "trust_remote_code": ("true or false", "trust_remote_code", _flag),
    "allow": ("a finding id or a list of them", "allow", _ids),
    "threads": ("a number from 1", "threads", _count),
    "imatrix": ("a file", "imatrix", _existing),
    "calibration": ("a file or folder", "calibration", _existing),
    "device": ("a text", "device", _text),
    "base": ("a folder", "base", _model),
    "adapter": ("DIR, DIR=WEIGHT, or a list of them", "adapters", _adapters),
    "from": ("a model's name", "from_model", _text),
    "reuse": ("true or false", "reuse", _flag),
    "cache": ("a folder", "cache", _folder),
}
