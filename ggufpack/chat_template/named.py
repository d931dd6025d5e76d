"""Named chat templates, for checkpoints that come without one. Chosen by the user only.

The templates are the files ``templates/chat/NAME.jinja``; each says in its first comment what the
format is and where it is written down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ggufpack.errors import UsageError
from ggufpack.resources import data_folder

# The token that ends an assistant turn; None: the tokenizer's own eos_token.
_TURN_ENDS: Mapping[str, str | None] = MappingProxyType(
    {
        "alpaca": None,
        "chatml": "<|im_end|>",
        "deepseek": None,
        "gemma": "<end_of_turn>",
        "llama2": None,
        "llama3": "<|eot_id|>",
        "mistral": None,
        "phi3": "<|end|>",
        "qwen3": "<|im_end|>",
        "vicuna": None,
        "zephyr": None,
    }
)


@dataclass(frozen=True)
class NamedTemplate:
    """A chat template of ours.

    ``turn_end`` is the text of the token that ends an assistant turn; ``None`` means the
    tokenizer's ``eos_token``, which the template prints through that variable. A tokenizer that
    does not hold ``turn_end`` as one token was not trained with this format.
    """

    name: str
    text: str
    path: Path
    turn_end: str | None


def names() -> tuple[str, ...]:
    """The names that :func:`load` knows, in alphabetical order."""
    return tuple(sorted(_TURN_ENDS))


def load(name: str) -> NamedTemplate:
    """The template called ``name``.

    Raises:
        UsageError: there is none of this name; the message lists those there are.
    """
    if name not in _TURN_ENDS:
        raise UsageError(
            f"There is no chat template named {name!r}.",
            action=f"Choose one of: {', '.join(names())}; or give the path of a Jinja file.",
            key="template",
        )
    path = data_folder("templates") / "chat" / f"{name}.jinja"
    return NamedTemplate(name, path.read_text(encoding="utf-8"), path, _TURN_ENDS[name])
