"""A Modelfile as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ggufpack.modelfile.options import typed_parameters


@dataclass(frozen=True)
class Modelfile:
    """What a Modelfile says. ``None`` and empty tuples are instructions that are not there.

    Attributes:
        from_: FROM: a path or a model's name, as written.
        projector: a second FROM: the path of a vision tower.
        template: TEMPLATE, a Go template.
        system: SYSTEM.
        parameters: PARAMETER lines in their order; ``stop`` may be repeated.
        license: LICENSE texts.
        messages: MESSAGE lines as (role, content).
        adapters: ADAPTER paths.
        draft: DRAFT, the path of a draft model.
        renderer: RENDERER, the name of a prompt renderer built into Ollama.
        parser: PARSER, the name of an output parser built into Ollama.
        requires: REQUIRES, the least version of Ollama (stored, not enforced).
    """

    from_: str
    projector: str | None = None
    template: str | None = None
    system: str | None = None
    parameters: tuple[tuple[str, str], ...] = ()
    license: tuple[str, ...] = ()
    messages: tuple[tuple[str, str], ...] = ()
    adapters: tuple[str, ...] = ()
    draft: str | None = None
    renderer: str | None = None
    parser: str | None = None
    requires: str | None = None

    def to_create_request(self) -> dict[str, Any]:
        """The fields of ``POST /api/create`` that need no file: FROM (both), ADAPTER and DRAFT are left to
        the caller, who uploads what they name.

        Every text is possible here, other than in the text form. ``parameters`` holds numbers,
        booleans and the list ``stop``.

        Raises:
            UsageError: GP504, a parameter that Ollama would refuse.
        """
        fields: dict[str, Any] = {
            "template": self.template,
            "system": self.system,
            "renderer": self.renderer,
            "parser": self.parser,
            "requires": None if self.requires is None else self.requires.removeprefix("v"),
            "parameters": typed_parameters(self.parameters),
            "license": list(self.license),
            "messages": [{"role": role, "content": content} for role, content in self.messages],
        }
        return {name: value for name, value in fields.items() if value}
