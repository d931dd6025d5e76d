"""What verification asks of an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypedDict


class Message(TypedDict):
    """One chat message, as Ollama's API and Hugging Face's templates both take it."""

    role: str
    content: str


@dataclass(frozen=True)
class Generation:
    """One answer. ``done_reason`` is ``"stop"`` or ``"length"``; token counts as the engine gives them."""

    text: str
    done_reason: str
    prompt_tokens: int
    generated_tokens: int


class Engine(Protocol):
    """A running model. Errors are RegistryError (a server) or VerificationError (the embedded engine)."""

    @property
    def name(self) -> str:
        """Program and version, for people: ``"Ollama 0.33.0"``."""

    def render(self, messages: Sequence[Message], *, think: bool | None = None) -> str:
        """The exact prompt text that the engine would send to the model for these messages.

        ``think``: what the caller asks for; ``None`` when nothing.
        """

    def generate(
        self, messages: Sequence[Message], *, max_tokens: int, seed: int = 0, think: bool | None = None
    ) -> Generation:
        """A deterministic generation: temperature 0, no repeat penalty."""

    def force_text(self, text: str, *, max_tokens: int) -> Generation:
        """An answer that can be nothing but ``text``, until something ends it. The prompt is not a chat.

        An engine may put something in front (a quote), or write ``text`` several times.
        """

    def force_token(self, token: int, text: str, *, max_tokens: int) -> Generation:
        """An answer whose every token is this one, until something ends it. ``text``: of the token."""
