"""Measures packages of one embedding model: their vectors against the trained model's."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache as remembered
from pathlib import Path
from types import TracebackType
from typing import Any

from ggufpack.chat_template.prompt import Prompt
from ggufpack.checkpoint import Checkpoint
from ggufpack.child import usable_cpus
from ggufpack.engine.llama import engine_name
from ggufpack.errors import VerificationError
from ggufpack.held import held_folder
from ggufpack.proofs import EmbeddingFidelity, TextCosine, TokenizerMiss, TokenizerParity
from ggufpack.spec import EventHandler, Progress, Stage, ignore_event
from ggufpack.verification.fidelity import cache
from ggufpack.verification.fidelity.builtin import BUILTIN_NAME
from ggufpack.verification.fidelity.confined import packages_beside
from ggufpack.verification.fidelity.judge import hides_mistakes
from ggufpack.verification.fidelity.measure import (
    FidelityOptions,
    PackageModel,
    package_model,
    source_process,
)
from ggufpack.verification.fidelity.texts import EvaluationText, builtin_texts, read_calibration
from ggufpack.verification.fidelity.vectors import (
    Vectors,
    as_vectors,
    cosines,
    distance,
    limit_of,
    similarity_change,
)
from ggufpack.verification.hard_texts import HardText
from ggufpack.verification.tokenizer_parity import check_tokenizer

MAX_TEXTS = 1000
MAX_BYTES = 1 << 20
WINDOW = 8192  # tokens of the longest text that is compared

# a server's vector of a text
Embed = Callable[[str], Sequence[float]]


class EmbeddingCheck:
    """The trained model of one checkpoint, and any number of packages. A context manager.

    Args:
        checkpoint: opened, of an encoder whose pipeline is whole and fits in a GGUF.
        prompt: of the checkpoint.
        vendor: the verified folder of the vendored converter.
        options: how to measure.
        on_event: told about the progress.

    Raises:
        UsageError: the user's texts cannot be read.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        prompt: Prompt,
        vendor: Path,
        options: FidelityOptions,
        on_event: EventHandler = ignore_event,
    ) -> None:
        self._checkpoint = checkpoint
        self._options = options
        self._on_event = on_event
        self._threads = options.threads or usable_cpus()
        self._window = min(WINDOW, checkpoint.context_length or WINDOW)
        self.left_out: tuple[str, ...] = ()
        self._given = self._read_texts(prompt)
        self._texts: tuple[EvaluationText, ...] = ()
        self._long = ""
        self._source_vectors: Vectors | None = None
        self._source_long: Vectors = as_vectors([])
        self._reference = ""
        self._packages: list[str] = []
        self.confinement: dict[str, Mapping[str, Any]] = {}
        self._source = source_process("embedding_worker", vendor, options)

    def __enter__(self) -> EmbeddingCheck:
        self._source.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._source.close()

    def measure(
        self, gguf: Path, server: Embed | None, engine: str | None
    ) -> tuple[EmbeddingFidelity, TokenizerParity]:
        """One package against the source.

        Args:
            gguf: the file.
            server: gives the vectors of the same file, registered; ``None`` to compute them here.
            engine: what ``server`` is.

        Raises:
            VerificationError: the source or the package cannot be run.
            RegistryError: the server failed.
        """
        if str(gguf.absolute()) not in self._packages:
            self._packages = packages_beside(gguf)
            if self._source_vectors is not None:  # what its process may read is settled when it begins
                self._source.close()
                self._source_vectors = None
        source = self._prepare()
        texts = [text.text for text in self._texts]
        tokens = self._tokenize(texts, special=True)
        with package_model(gguf, self._window, self._threads) as package:
            cut_alike = [a == b for a, b in zip(tokens, package.tokenize(texts, special=True), strict=True)]
            parity = self._parity(package)
            self.confinement["package"] = package.confined.to_json()
            if server is None:
                vectors = self._embedded(package, tokens, "the package")
            else:
                vectors = as_vectors([self._served(server, text, at) for at, text in enumerate(texts, 1)])
        if vectors.shape != source.shape:
            raise VerificationError(
                f"{gguf.name} gives vectors of {vectors.shape[-1]} values, the trained model of"
                f" {source.shape[-1]}.",
                action="The pooling, or a module after it, is not the trained model's.",
                path=gguf,
            )
        # what the tokenizer does to a text is told apart; without one text cut alike it is all there is
        where = cut_alike if any(cut_alike) else [True] * len(texts)
        request = {"do": "rounded", "gguf": str(gguf.absolute()), "texts": [*texts, self._long]}
        answer = self._source.call(request, self._told)
        whole = as_vectors(answer["vectors"])
        rounded = whole[:-1]
        arithmetic = cosines(whole, as_vectors(answer["engine"]))
        exact = bool(answer["exact"])
        against = rounded if exact else source
        moved = cosines(rounded, source)
        to_source, expected = cosines(vectors, source), cosines(vectors, against)
        difference, rank = similarity_change(source[where], vectors[where])
        truncated = None
        if server is not None:
            long = whole[-1:] if exact else self._source_long
            truncated = float(cosines(as_vectors([server(self._long)]), long)[0])
        found = EmbeddingFidelity(
            texts=str(self._options.calibration or BUILTIN_NAME),
            texts_digest=cache.digest_of(texts=texts),
            count=sum(where),
            dimensions=source.shape[-1],
            reference=self._reference,
            engine=engine or engine_name(),
            cosine_min=float(to_source[where].min()),
            cosine_mean=float(to_source[where].mean()),
            expected_min=float(expected[where].min()),
            expected_mean=float(expected[where].mean()),
            rounding_min=float(moved[where].min()),
            similarity_difference=difference,
            similarity_rank=rank,
            limit=limit_of(arithmetic, None if exact else moved),
            verdict="sound",
            detail="",
            truncated=truncated,
            by_text=self._by_text(tokens, to_source, expected, cut_alike),
        )
        found = _judged(found, exact=exact)
        hides = hides_mistakes(distance(float(arithmetic.min())))
        if found.verdict == "sound" and exact and hides:
            in_float = limit_of(cosines(whole, as_vectors(answer["float"])))
            found = self._judge_decoded(gguf, found, tokens, rounded, in_float)
        return found, parity

    def _judge_decoded(
        self,
        gguf: Path,
        found: EmbeddingFidelity,
        tokens: Sequence[Sequence[int]],
        rounded: Vectors,
        limit: float,
    ) -> EmbeddingFidelity:
        """The verdict once more, with the weights decoded and the source's own tokens."""
        with held_folder(".decoded-", _made(cache.root())) as folder:
            copy = folder / "decoded.gguf"
            request = {"do": "decoded", "gguf": str(gguf.absolute()), "target": str(copy)}
            made = self._source.call(request)
            if made["lacks"]:
                return replace(found, not_checked=made["lacks"])
            with package_model(copy, self._window, self._threads) as package:
                vectors = self._embedded(package, tokens, "the package, decoded")
        lowest = float(cosines(vectors, rounded).min())
        detail = (
            f"{found.detail}; with its weights decoded, so that the engine rounds next to nothing, the lowest"
            f" is {lowest:.6f}, and a sound file reaches {limit:.6f}"
        )
        verdict = found.verdict if lowest >= limit else "broken"
        return replace(found, verdict=verdict, detail=detail, decoded_min=lowest, decoded_limit=limit)

    # --- both sides -------------------------------------------------------------

    def _prepare(self) -> Vectors:
        """The source's vectors, once."""
        if self._source_vectors is not None:
            return self._source_vectors
        pipeline = self._checkpoint.pipeline
        assert pipeline is not None  # noqa: S101 - the caller's condition
        opened = self._source.call(
            {
                "do": "open",
                "checkpoint": str(self._checkpoint.folder.absolute()),
                "trust_remote_code": self._options.trust_remote_code,
                "threads": self._threads,
                "device": self._options.device,
                "packages": self._packages,
                "max_length": self._window,
            }
        )
        self.confinement["source"] = opened["confined"]
        whole = [pipeline.default_prompt + text.text for text in self._given]
        fitted = self._source.call({"do": "fit", "texts": whole})
        pairs = list(zip(self._given, whole, fitted["texts"], strict=True))
        self._texts = tuple(replace(text, text=kept) for text, _, kept in pairs)
        self.left_out = (
            *self.left_out,
            *(f"{text.name} after {len(kept):,} characters" for text, all_, kept in pairs if kept != all_),
        )
        self._long = _longer_than(fitted["longest"], whole)
        texts = [*(text.text for text in self._texts), self._long]
        answer = self._source.call({"do": "embed", "texts": texts}, self._told)
        self._reference = answer["reference"]
        vectors = as_vectors(answer["vectors"])
        self._source_vectors, self._source_long = vectors[:-1], vectors[-1:]
        return self._source_vectors

    def _tokenize(self, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
        request = {"do": "tokenize", "texts": list(texts), "special": special}
        tokens: list[list[int]] = self._source.call(request)["tokens"]
        return tokens

    def _served(self, server: Embed, text: str, number: int) -> Sequence[float]:
        self._told(number, len(self._texts), "the server's embeddings")
        return server(text)

    def _embedded(self, package: PackageModel, tokens: Sequence[Sequence[int]], item: str) -> Vectors:
        request = {"do": "embed", "texts": [list(text) for text in tokens], "item": item}
        return as_vectors(package.call(request, self._told)["vectors"])

    def _parity(self, package: PackageModel) -> TokenizerParity:
        """Of all texts. What llama.cpp does to every WordPiece model does not accuse this package."""

        @remembered
        def piece(token: int) -> str:
            return package.pieces([token])[0].decode("utf-8", "backslashreplace")

        def ordinary(miss: TokenizerMiss) -> bool:
            (expected,) = self._tokenize([_without_marks(miss.text)])
            return [expected] != package.tokenize([miss.text])

        texts = [HardText(text.name, text.text) for text in self._texts]
        plain = check_tokenizer(self._tokenize, package.tokenize, piece, texts)
        hard = check_tokenizer(self._tokenize, package.tokenize, piece)
        misses = [replace(miss, ordinary=ordinary(miss)) for miss in plain.misses]
        misses += [replace(miss, ordinary=False) for miss in hard.misses]
        return TokenizerParity(plain.texts + hard.texts, tuple(misses))

    def _told(self, done: int, total: int, item: str) -> None:
        self._on_event(Progress(Stage.VERIFICATION, done, total, "texts", item))

    # --- texts ------------------------------------------------------------------

    def _read_texts(self, prompt: Prompt) -> tuple[EvaluationText, ...]:
        path = self._options.calibration
        if path is None:
            return builtin_texts(prompt)
        found = read_calibration(path, prompt, max_texts=MAX_TEXTS, max_bytes=MAX_BYTES)
        self.left_out = found.left_out
        return found.texts

    def _by_text(
        self,
        tokens: Sequence[Sequence[int]],
        to_source: Vectors,
        expected: Vectors,
        cut_alike: Sequence[bool],
    ) -> tuple[TextCosine, ...]:
        rows = [
            TextCosine(text.name, text.kind, len(ids), float(one), float(other), not alike)
            for text, ids, one, other, alike in zip(
                self._texts, tokens, to_source, expected, cut_alike, strict=True
            )
        ]
        return tuple(sorted(rows, key=lambda row: row.expected))


def _judged(found: EmbeddingFidelity, *, exact: bool) -> EmbeddingFidelity:
    base = "the trained weights, rounded as the file says" if exact else "the trained model"
    explains = "the engine's arithmetic" if exact else "such rounding"
    detail = (
        f"the lowest cosine of its vectors to those of {base} is {found.expected_min:.6f};"
        f" {explains} explains down to {found.limit:.6f}"
    )
    return replace(found, verdict="sound" if found.expected_min >= found.limit else "broken", detail=detail)


def _without_marks(text: str) -> str:
    """Without spacing combining marks, which llama.cpp leaves out and BERT's normaliser does not.

    Both decompose a text and leave accents out; transformers those of the category Mn, llama.cpp all
    of M (llama-vocab.cpp, llm_tokenizer_wpm_session::preprocess).
    """
    decomposed = unicodedata.normalize("NFD", text)
    return "".join(character for character in decomposed if unicodedata.category(character) != "Mc")


def _longer_than(tokens: int, texts: Sequence[str]) -> str:
    """More words than ``tokens``, of these texts over and over."""
    words = " ".join(texts).split()
    return " ".join(words[at % len(words)] for at in range(tokens + tokens // 2))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
