"""ggufpack: package a fine-tuned Hugging Face checkpoint for Ollama, exactly as trained.

    import ggufpack

    result = ggufpack.build("path/to/checkpoint", name="mymodel")

Names are imported on first use: ``import ggufpack`` loads neither torch, transformers nor the
ollama client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ggufpack.errors import GgufpackError as GgufpackError
    from ggufpack.pipeline import build as build
    from ggufpack.pipeline import open_worker as open_worker
    from ggufpack.pipeline import plan as plan
    from ggufpack.proofs import Verification as Verification
    from ggufpack.recheck import VerifyResult as VerifyResult
    from ggufpack.recheck import verify as verify
    from ggufpack.served import verify_endpoint as verify_endpoint
    from ggufpack.spec import BuildResult as BuildResult
    from ggufpack.spec import BuildSpec as BuildSpec
    from ggufpack.spec import Finding as Finding
    from ggufpack.spec import Severity as Severity
    from ggufpack.transfer import TransferResult as TransferResult
    from ggufpack.transfer import pull as pull
    from ggufpack.transfer import push as push

__version__ = "0.1.0"

_HOMES = {
    "build": "ggufpack.pipeline",
    "open_worker": "ggufpack.pipeline",
    "plan": "ggufpack.pipeline",
    "verify": "ggufpack.recheck",
    "verify_endpoint": "ggufpack.served",
    "VerifyResult": "ggufpack.recheck",
    "Verification": "ggufpack.proofs",
    "BuildResult": "ggufpack.spec",
    "BuildSpec": "ggufpack.spec",
    "Finding": "ggufpack.spec",
    "Severity": "ggufpack.spec",
    "GgufpackError": "ggufpack.errors",
    "TransferResult": "ggufpack.transfer",
    "pull": "ggufpack.transfer",
    "push": "ggufpack.transfer",
}
__all__ = [*_HOMES, "__version__"]  # noqa: PLE0604 - the names are strings


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
