"""Worker side: which part of the converter's libraries is loaded.

The converter asks transformers for configurations and tokenizers only. Both work without torch,
and transformers supports such an installation; with torch it also loads its modelling code,
torch's compiler and torch.distributed, which takes more than a second.
"""

from __future__ import annotations

import sys
from enum import Enum
from importlib import import_module


class Imports(str, Enum):
    """How transformers is loaded."""

    LIGHT = "light"
    ALL = "all"


# what a job imports late, so that a worker without one starts sooner; a copy would load it for each job
_OF_EVERY_JOB = (
    "blake3",
    "ggufpack.convert.reuse",
    "ggufpack.convert.sink",
    "ggufpack.convert.vocabulary",
    "ggufpack.convert.whole",
    "ggufpack.quantize.imatrix",
    "ggufpack.quantize.kernels",
    "ggufpack.tensor_cache",
)


def load_for_jobs() -> None:
    """Import what every job needs, in the process that is copied for each.

    After the vendored modules: some of ours use them. Of transformers, one model's configuration: its
    class is small, and brings what all of them share.
    """
    for name in _OF_EVERY_JOB:
        import_module(name)
    from transformers import LlamaConfig

    del LlamaConfig


def load_libraries(imports: Imports) -> None:
    """Import numpy, torch and transformers; ``LIGHT`` lets transformers believe there is no torch."""
    if imports is Imports.LIGHT:
        sys.modules["torch"] = None  # type: ignore[assignment]  # importing it raises ImportError
    try:
        import transformers
        from transformers import AutoConfig, AutoTokenizer

        if imports is Imports.LIGHT and transformers.utils.is_torch_available():  # it remembers the answer
            raise RuntimeError("transformers finds torch where it should not")
    finally:
        if imports is Imports.LIGHT:
            del sys.modules["torch"]
    import numpy
    import torch

    del numpy, torch, AutoConfig, AutoTokenizer
