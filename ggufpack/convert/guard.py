"""Worker side: what the converter and its libraries may not do.

The converter asks for remote code at each of its tokenizer sites; a checkpoint must not be able to
run code, load a pickle or reach the network. Audit hooks cannot be removed again, so no library
can undo this.
"""

from __future__ import annotations

import sys
from functools import wraps
from typing import Any

from ggufpack.convert.libraries import Imports
from ggufpack.errors import ConversionError, TokenizerConversionError

_NETWORK = frozenset({"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"})
_AUTO_CLASSES = ("AutoConfig", "AutoTokenizer")  # the only ones that llama.cpp b11434 asks


def forbid_network_and_pickle() -> None:
    """From now on, name look-ups, connections and unpickling raise ConversionError."""

    def hook(event: str, _arguments: tuple[Any, ...]) -> None:
        if event in _NETWORK:
            raise ConversionError(
                "The conversion tried to reach the network, which is never needed.",
                action="Save every file of the checkpoint in its folder (see `ggufpack doctor`).",
            )
        if event == "pickle.find_class":
            raise ConversionError(
                "The conversion tried to load a pickle, which could run code.",
                action="Save the checkpoint with safe_serialization=True.",
            )

    sys.addaudithook(hook)


class AllOfTransformersNeeded(BaseException):
    """transformers failed without torch; it may know more with it.

    Not an Exception: the converter catches those, and goes on with what it reads from config.json
    itself, where values that are not written down would be missing.
    """


def guard_pretrained(*, trusted: bool, imports: Imports) -> None:
    """Decide on remote code in every ``from_pretrained`` of transformers' auto classes.

    The converter passes ``trust_remote_code=True`` in 14 places (llama.cpp b11434): without trust none
    counts. With trust its own answer stays, which is ``False`` where it reads config.json. Where it
    gives none transformers would ask on standard input, the job pipe.

    Args:
        trusted: whether code of the checkpoint may run.
        imports: how transformers was loaded. With ``LIGHT`` every failure is an
            ``AllOfTransformersNeeded``.
    """
    import transformers

    for name in _AUTO_CLASSES:
        auto = getattr(transformers, name)
        # the wrapper of an earlier job in this worker is replaced, not stacked
        original = getattr(auto.from_pretrained, "_ggufpack_original", auto.from_pretrained)
        auto.from_pretrained = _guarded(original, trusted, imports)


def _guarded(original: Any, trusted: bool, imports: Imports) -> Any:
    @wraps(original)
    def from_pretrained(*args: Any, **kwargs: Any) -> Any:
        kwargs["trust_remote_code"] = trusted and kwargs.get("trust_remote_code", True)
        try:
            return original(*args, **kwargs)
        except ConversionError:
            raise
        except Exception as error:
            if not trusted and isinstance(error, ValueError) and "trust_remote_code" in str(error):
                raise TokenizerConversionError(
                    "tokenizer_config.json or config.json names Python code of its own (auto_map), which"
                    " ggufpack does not run.",
                    action="Read that code; if you trust it, pass --trust-remote-code.",
                    key="auto_map",
                ) from error
            if imports is Imports.LIGHT:
                raise AllOfTransformersNeeded from error
            raise

    from_pretrained._ggufpack_original = original  # type: ignore[attr-defined]
    return from_pretrained
