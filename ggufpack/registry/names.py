"""Ollama model names: ``[HOST/][NAMESPACE/]MODEL[:TAG]``, judged as the server does.

Source: Ollama 0.33.0, types/model/name.go (ParseNameBare, isValidPart), and for tags that mean
another server, internal/modelref/modelref.go (parseSourceSuffix).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ggufpack.errors import InvalidModelNameError

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

_MAX_HOST = 350
_MAX_PART = 80
_PART_RULES = {
    "host": re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.:-]{{0,{_MAX_HOST - 1}}}\Z"),
    "namespace": re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_-]{{0,{_MAX_PART - 1}}}\Z"),
    "model": re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{_MAX_PART - 1}}}\Z"),
    "tag": re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{_MAX_PART - 1}}}\Z"),
}
_FALLBACK_SUGGESTION = "model"


@dataclass(frozen=True)
class ModelName:
    """One valid name, with the server's defaults filled in."""

    host: str
    namespace: str
    model: str
    tag: str

    def __str__(self) -> str:
        """The shortest form that means the same (name.go: DisplayShortest); the tag is always there."""
        if self.host.lower() != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"

    @property
    def key(self) -> str:
        """Equal for names that the server takes for one: it folds case (routes.go: getExistingName)."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}".lower()


def parse(name: str) -> ModelName:
    """A name as the user gives it, with or without a tag.

    Raises:
        InvalidModelNameError: the server would refuse it, or would look for it elsewhere; the error
            suggests a name that is valid.
    """
    rest, tag = name.rsplit(":", 1) if _has_tag(name) else (name, DEFAULT_TAG)
    *owners, model = rest.rsplit("/", 2)
    host, namespace = [DEFAULT_HOST, DEFAULT_NAMESPACE][: 2 - len(owners)] + owners
    parts = {"host": host.rpartition("://")[2], "namespace": namespace, "model": model, "tag": tag}
    for part, text in parts.items():
        if not _PART_RULES[part].match(text):
            raise _invalid(name, _reason(part, text))
    if tag.lower() in {"cloud", "local"} or tag.lower().endswith("-cloud"):
        raise _invalid(name, f'the tag "{tag}" means another place to the server, not a tag')
    return ModelName(**parts)


def validate(name: str) -> str:
    """The name as given, when the server would take it.

    Raises:
        InvalidModelNameError: it would not.
    """
    parse(name)
    return name


def tagged(name: str, quantization: str) -> str:
    """``tagged("security", "Q4_K_M")`` is ``"security:q4_k_m"``.

    Raises:
        InvalidModelNameError: the name is invalid or has a tag already.
    """
    return _with_tag(name, quantization.lower())


def latest(name: str) -> str:
    """``latest("security")`` is ``"security:latest"``.

    Raises:
        InvalidModelNameError: the name is invalid or has a tag already.
    """
    return _with_tag(name, DEFAULT_TAG)


def suggested(text: str) -> str:
    """A valid name without a tag that resembles ``text`` (a folder's name, a refused name).

    Lower case, because the public registry takes no other.
    """
    words = re.sub(r"[^a-z0-9_.-]+", "-", text.lower())
    trimmed = re.sub(r"-{2,}", "-", words).lstrip("-.")[:_MAX_PART].rstrip("-.")
    return trimmed or _FALLBACK_SUGGESTION


def _with_tag(name: str, tag: str) -> str:
    if _has_tag(name):
        raise InvalidModelNameError(
            f'The model name "{name}" has a tag, and ggufpack sets the tag itself',
            action=f'Give "{name.rsplit(":", 1)[0]}".',
        )
    return validate(f"{validate(name)}:{tag}")


def _has_tag(name: str) -> bool:
    """Whether the last colon is a tag's, not a host's port."""
    return name.rfind(":") > name.rfind("/")


def _reason(part: str, text: str) -> str:
    limit = _MAX_HOST if part == "host" else _MAX_PART
    if not text:
        return f"the {part} is empty"
    if len(text.encode(errors="surrogatepass")) > limit:  # half a character: an argument that is no UTF-8
        return f"the {part} is longer than {limit} characters"
    first, rest = text[0], "" if part == "namespace" else "."
    if not re.match(r"[A-Za-z0-9_]", first):
        return f'the {part} starts with "{first}", not with a letter, a digit or _'
    bad = next(char for char in text[1:] if not re.match(rf"[A-Za-z0-9_{rest}-]", char))
    return f"the {part} has {bad!r}; allowed are letters, digits, _ - {rest}".rstrip()


def _invalid(name: str, reason: str) -> InvalidModelNameError:
    without_tag = name.rsplit(":", 1)[0] if _has_tag(name) else name
    return InvalidModelNameError(
        f'"{name}" is not a model name: {reason}',
        action=f'For example: "{suggested(without_tag.rpartition("/")[2] or without_tag)}".',
    )
