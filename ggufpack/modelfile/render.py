"""A Modelfile as text, through ``templates/Modelfile.jinja``.

The format has no escape, and Ollama's parser drops characters that do not print; so each value is
written in the plainest quoting that the parser reads back as it was, and a value for which there
is none is an error, never a changed text. ``Modelfile.to_create_request`` has no such limit.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import jinja2
import jinja2.sandbox

from ggufpack.errors import ModelfileError
from ggufpack.modelfile.findings import NOT_PRINTABLE, QUOTES, make_finding
from ggufpack.modelfile.model import Modelfile
from ggufpack.modelfile.parse import is_kept, parse_commands
from ggufpack.resources import data_folder
from ggufpack.spec import Finding


def render(modelfile: Modelfile) -> str:
    """The text of ``modelfile``: UTF-8, line ends as they are in its values (write it in binary mode
    or with ``newline=""``).

    Raises:
        ModelfileError: GP502 or GP503, a value that the text form cannot hold; names the
            instruction. :func:`inexpressible` gives the same as findings.
    """
    for finding in inexpressible(modelfile):
        raise ModelfileError(finding.message, action=finding.action, key=finding.key, finding=finding.id)
    return _template().render(modelfile=modelfile)


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["quoted"] = quoted
    source = (data_folder("templates") / "Modelfile.jinja").read_text(encoding="utf-8")
    return environment.from_string(source)


def inexpressible(modelfile: Modelfile) -> tuple[Finding, ...]:
    """A finding for each value that the text form cannot hold; empty when :func:`render` works."""
    found = []
    for instruction, value in _values(modelfile):
        dropped = sorted({character for character in value if not is_kept(character)})
        if dropped:
            characters = ", ".join(f"U+{ord(character):04X}" for character in dropped)
            found.append(make_finding(NOT_PRINTABLE, key=instruction, characters=characters))
        elif quoted(value) is None:
            found.append(make_finding(QUOTES, key=instruction))
    return tuple(found)


def quoted(value: str) -> str | None:
    """``value`` in the plainest quoting that is read back as ``value``; ``None`` for none."""
    triple = f'"""{value}"""'
    plain = [value, f'"{value}"'] if value else ['""']
    forms = [triple] if "\n" in value else [*plain, triple]
    return next((form for form in forms if _reads_back(form, value)), None)


def _reads_back(form: str, value: str) -> bool:
    try:
        # a second instruction behind it: what would swallow the next line must not pass
        commands = parse_commands(f"FROM {form}\nSYSTEM end\n")
    except ModelfileError:
        return False
    return [command.value for command in commands] == [value, "end"]


def _values(modelfile: Modelfile) -> Iterator[tuple[str, str]]:
    yield "FROM", modelfile.from_
    for instruction, value in (
        ("FROM", modelfile.projector),
        ("TEMPLATE", modelfile.template),
        ("SYSTEM", modelfile.system),
        ("RENDERER", modelfile.renderer),
        ("PARSER", modelfile.parser),
        ("REQUIRES", modelfile.requires),
        ("DRAFT", modelfile.draft),
    ):
        if value is not None:
            yield instruction, value
    for path in modelfile.adapters:
        yield "ADAPTER", path
    for key, value in modelfile.parameters:
        yield f"PARAMETER {key}", value
    for text in modelfile.license:
        yield "LICENSE", text
    for role, content in modelfile.messages:
        yield f"MESSAGE {role}", content
