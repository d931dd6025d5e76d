"""The process of a trained embedding model: ``python -m …embedding_worker EVENT_FD VENDOR BYTECODE``.

sentence-transformers runs the model as it was trained: its own cut of long texts, pooling and
normalisation. The parent has looked at modules.json before, so that no class of another package is loaded.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ggufpack.child import Reporter, leave
from ggufpack.errors import VerificationError
from ggufpack.quantize.types import TensorType
from ggufpack.verification.fidelity.rounding import GgufTypes, round_weights, rounded_inputs
from ggufpack.verification.fidelity.source_worker import decoded_copy, device_of, first_line, serve_source

Vectors = NDArray[np.float32]


class EmbeddingSource:
    """One checkpoint in sentence-transformers. Weights are float32.

    Args:
        request: ``checkpoint``, ``trust_remote_code``, ``threads``, ``device``, ``max_length``.
        reporter: told about texts done.
        gguf: the vendored module.
    """

    def __init__(self, request: dict[str, Any], reporter: Reporter, gguf: Any) -> None:
        self._gguf = gguf
        self._reporter = reporter
        torch.set_num_threads(request["threads"])
        torch.set_grad_enabled(False)
        self._model = _load(request)
        self._tokenizer = self._model.tokenizer
        limit = request["max_length"]
        self._longest = min(limit or sys.maxsize, self._model.max_seq_length or sys.maxsize)

    def tokenize(self, request: dict[str, Any]) -> dict[str, Any]:
        """Token ids of whole texts; ``special`` says whether the tokenizer's own are added."""
        return {"tokens": [self._ids(text, special=request["special"]) for text in request["texts"]]}

    def fit(self, request: dict[str, Any]) -> dict[str, Any]:
        """The texts, each cut in front of the first token that the model has no room for."""
        return {"texts": [self._cut(text) for text in request["texts"]], "longest": self._longest}

    def embed(self, request: dict[str, Any]) -> dict[str, Any]:
        """The trained model's vectors, and what computed them."""
        vectors = self._vectors(self._model, request["texts"], "the trained model")
        device = self._model.device.type
        name = f"sentence-transformers {_version()}, torch {torch.__version__} float32 on {device}"
        return {"vectors": vectors.tolist(), "reference": name}

    def rounded(self, request: dict[str, Any]) -> dict[str, Any]:
        """The vectors with the weights rounded as a GGUF's types say.

        ``exact``: whether every weight was that the vectors depend on. ``engine`` and ``float``: the same
        with what goes into each product rounded as llama.cpp does, and to F16.
        """
        texts, types = request["texts"], GgufTypes(Path(request["gguf"]), self._gguf)
        model = copy.deepcopy(self._model)
        inner = model[0].auto_model
        if hasattr(inner, "pooler"):
            inner.pooler = None  # of BERT's next-sentence head: no vector depends on it, and no GGUF has it
        done = round_weights(inner, types, self._gguf)
        inner.get_output_embeddings = lambda: None
        answer = {"vectors": self._vectors(model, texts, "the weights rounded as in the file").tolist()}
        half = dict.fromkeys(done.types, TensorType.F16)
        for name, kinds in (("engine", done.types), ("float", half)):
            with rounded_inputs(inner, kinds):
                answer[name] = self._vectors(model, texts, "the engine's arithmetic").tolist()
        return {**answer, "exact": done.unknown == 0 and not types.imatrix}

    def decoded(self, request: dict[str, Any]) -> dict[str, Any]:
        """See ``decoded_copy``."""
        return decoded_copy(request, self._gguf)

    def _ids(self, text: str, *, special: bool) -> list[int]:
        encoded = self._tokenizer(text, add_special_tokens=special, truncation=False, padding=False)
        return list(encoded["input_ids"])

    def _cut(self, text: str) -> str:
        if len(self._ids(text, special=True)) <= self._longest:
            return text
        encoded = self._tokenizer(
            text, truncation=True, max_length=self._longest, padding=False, return_offsets_mapping=True
        )
        return text[: max(end for _, end in encoded["offset_mapping"])].rstrip()

    def _vectors(self, model: Any, texts: Sequence[str], item: str) -> Vectors:
        """One by one: padding beside other texts would change the last bits."""
        rows = []
        for number, text in enumerate(texts, 1):
            try:
                # prompts are part of the texts here; an empty one overrules the default
                rows.append(model.encode(text, prompt="", convert_to_numpy=True, show_progress_bar=False))
            except Exception as error:
                why = f"{type(error).__name__}: {first_line(error)}"
                raise VerificationError(
                    f"sentence-transformers cannot run the model ({why})",
                    action="Use --verify smoke, which needs no source model.",
                ) from error
            self._reporter.progress(number, len(texts), item)
        return np.stack(rows).astype(np.float32)


def _load(request: dict[str, Any]) -> Any:
    folder = Path(request["checkpoint"])
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise VerificationError(
            f"Comparing embeddings needs the package sentence-transformers ({error})",
            action="Run: pip install 'ggufpack[embeddings]'.",
        ) from error
    try:
        model = SentenceTransformer(
            str(folder),
            device=str(device_of(request["device"])),
            local_files_only=True,
            trust_remote_code=bool(request["trust_remote_code"]),
            model_kwargs={"use_safetensors": True},
        )
    except VerificationError:
        raise
    except Exception as error:
        raise VerificationError(
            f"sentence-transformers cannot load {folder} ({type(error).__name__}: {first_line(error)})",
            action="Update it, or use --verify smoke, which needs no source model.",
            path=folder,
        ) from error
    return model.float().eval()


def _version() -> str:
    from importlib.metadata import version

    return version("sentence-transformers")


if __name__ == "__main__":
    serve_source(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), EmbeddingSource)
    leave()
