"""The process of the package's model: ``python -m …engine_worker EVENT_FD``.

Requests (``ggufpack.child``) are ``{"do": NAME, …}``, where NAME is ``open`` or a request of ``Package``.
llama.cpp ends its process when something is wrong inside, so it has one of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from ggufpack.child import Reporter, leave, serve
from ggufpack.engine.llama import LlamaModel
from ggufpack.verification.fidelity.compare import Compared, compare_text
from ggufpack.verification.fidelity.confined import begin_confined, package_confinement
from ggufpack.verification.fidelity.distributions import Distributions, log_softmax

CANDIDATES = 200  # of a next token: more than a server tells


class Package:
    """One GGUF.

    Args:
        model: loaded.
        reporter: told about tokens done.
    """

    def __init__(self, model: LlamaModel, reporter: Reporter) -> None:
        self._model = model
        self._reporter = reporter

    def tokenize(self, request: dict[str, Any]) -> dict[str, Any]:
        """Token ids of texts; ``special`` says whether BOS and EOS are added as the file says."""
        special = request["special"]
        return {"tokens": [self._model.tokenize(text, special=special) for text in request["texts"]]}

    def pieces(self, request: dict[str, Any]) -> dict[str, Any]:
        """The bytes of tokens, in hex; ``<id>`` for one that the file lacks: llama.cpp would abort."""
        known = range(self._model.vocabulary_size)
        pieces = (
            self._model.piece(token) if token in known else f"<{token}>".encode()
            for token in request["tokens"]
        )
        return {"pieces": [piece.hex() for piece in pieces]}

    def compare(self, request: dict[str, Any]) -> dict[str, Any]:
        """``Compared`` of all texts with ``source`` and ``against``; ``item`` names what is computed."""
        source = Distributions(Path(request["source"]))
        against = Distributions(Path(request["against"]))
        compared = Compared()
        total, start = sum(map(len, request["texts"])), 0
        for number, text in enumerate(request["texts"]):
            rows = self._model.logits(text)
            compare_text(compared, number, text, rows, source, start, against=against, worst=request["worst"])
            start += len(text)
            self._reporter.progress(start, total, request.get("item", "the package"))
        return compared.to_json()

    def embed(self, request: dict[str, Any]) -> dict[str, Any]:
        """The vector of each text, of unit length as servers give it; ``item`` names what is computed."""
        vectors = []
        for number, text in enumerate(request["texts"], 1):
            vector = self._model.embedding(text).astype(np.float64)
            vectors.append((vector / max(float(np.linalg.norm(vector)), 1e-12)).tolist())
            self._reporter.progress(number, len(request["texts"]), request["item"])
        return {"vectors": vectors}

    def next_token(self, request: dict[str, Any]) -> dict[str, Any]:
        """The most probable next tokens after each text: bytes in hex, with their probabilities."""
        return {"candidates": [self._candidates(tokens) for tokens in request["texts"]]}

    def _candidates(self, tokens: list[int]) -> dict[str, float]:
        *_, last = self._model.logits(tokens)
        probabilities = np.exp(log_softmax(last[None])[0])
        best = np.argsort(-probabilities)[:CANDIDATES]
        return {self._model.piece(int(token)).hex(): float(probabilities[token]) for token in best}


def run(descriptor: int) -> None:
    """Serve requests until standard input closes."""
    reporter = Reporter(descriptor)
    reporter.send("ready")

    def begin(request: dict[str, Any]) -> tuple[Package, dict[str, Any]]:
        begin_confined()
        path = Path(request["model"])
        model = LlamaModel(path, window=request["window"], threads=request["threads"]).__enter__()
        return Package(model, reporter), {"adds_bos": model.adds_bos}

    serve(reporter, begin, "package's model", package_confinement)


if __name__ == "__main__":
    run(int(sys.argv[1]))
    leave()
