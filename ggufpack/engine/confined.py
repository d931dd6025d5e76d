"""The embedded engine in a confined process of its own: llama.cpp reads what a stranger's checkpoint became.

Requests go through the process's pipe; a render goes to the socket that llama.cpp listens on, because its
process may listen there and connect to nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from ggufpack.child import Child
from ggufpack.confinement import Confined, Confinement
from ggufpack.engine.embedded import SOCKET_NAME, private_folder, render_at
from ggufpack.engine.protocol import Generation, Message
from ggufpack.errors import VerificationError

_LONGEST_FILE = 1 << 30  # it writes none: what a library keeps for itself


class ConfinedEngine:
    """A GGUF, loaded by llama.cpp in a confined process. A context manager, as ``EmbeddedEngine``.

    Args:
        model: the GGUF file.
        stops: the package's stop strings.

    Attributes:
        confined: what holds the process, once it is entered.

    Raises:
        VerificationError: xllamacpp is missing, or cannot load the file.
    """

    def __init__(self, model: Path, *, stops: Sequence[str] = ()) -> None:
        self._model = model.absolute()
        self._stops = tuple(stops)
        self._stack = contextlib.ExitStack()
        self.confined = Confined()

    @property
    def name(self) -> str:
        """Program and version."""
        return f"xllamacpp {metadata.version('xllamacpp')}"

    def __enter__(self) -> ConfinedEngine:
        with contextlib.ExitStack() as stack:
            self._child = stack.enter_context(
                Child("ggufpack.engine.worker", (), what="embedded engine", error=VerificationError)
            )
            self._child.start()
            folder = stack.enter_context(private_folder())
            opened = {"model": str(self._model), "stops": self._stops, "folder": str(folder)}
            answer = self._child.call({"do": "open", **opened})
            self.confined = Confined.from_json(answer["confined"])
            self._socket = folder / SOCKET_NAME
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def render(self, messages: Sequence[Message], *, think: bool | None = None) -> str:
        """As ``EmbeddedEngine.render``."""
        return render_at(self._socket, messages, think)

    def generate(
        self, messages: Sequence[Message], *, max_tokens: int, seed: int = 0, think: bool | None = None
    ) -> Generation:
        """As ``EmbeddedEngine.generate``."""
        request = {"messages": list(messages), "max_tokens": max_tokens, "seed": seed, "think": think}
        return self._call("generate", request)

    def force_text(self, text: str, *, max_tokens: int) -> Generation:
        """As ``EmbeddedEngine.force_text``."""
        return self._call("force_text", {"text": text, "max_tokens": max_tokens})

    def force_token(self, token: int, text: str, *, max_tokens: int) -> Generation:
        """As ``EmbeddedEngine.force_token``."""
        return self._call("force_token", {"token": token, "text": text, "max_tokens": max_tokens})

    def _call(self, name: str, request: Mapping[str, Any]) -> Generation:
        answer = self._child.call({"do": name, **request})
        return generation_of(answer)


def generation_of(answer: Mapping[str, Any]) -> Generation:
    """What the process said, which llama.cpp may have been made to say."""
    texts = (answer.get("text"), answer.get("done_reason"))
    numbers = (answer.get("prompt_tokens"), answer.get("generated_tokens"))
    if not (all(isinstance(text, str) for text in texts) and all(type(number) is int for number in numbers)):
        raise VerificationError(f"The embedded engine answered with something else: {answer!s:.300}")
    return Generation(
        answer["text"], answer["done_reason"], answer["prompt_tokens"], answer["generated_tokens"]
    )


def generation_to_json(generation: Generation) -> dict[str, Any]:
    """For the pipe."""
    return asdict(generation)


def engine_confinement(request: Mapping[str, Any]) -> Confinement:
    """Of the process. ``request``: "open", with ``model`` and the ``folder`` of the socket."""
    folder = Path(request["folder"])
    return Confinement(
        read=(Path(request["model"]),),
        write=(Path.cwd(),),
        listen=folder,
        longest_file=_LONGEST_FILE,
        written=_LONGEST_FILE,
    )
