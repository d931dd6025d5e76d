"""Measures packages of one checkpoint: parent side of the source's and the engine's processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ggufpack.chat_template.prompt import Prompt
from ggufpack.checkpoint import Checkpoint
from ggufpack.child import Child, usable_cpus
from ggufpack.confinement import Confined
from ggufpack.errors import UsageError, VerificationError
from ggufpack.held import held_folder
from ggufpack.proofs import Fidelity, TextFidelity, TokenChoice, WorstToken
from ggufpack.spec import EventHandler, Progress, Stage, ignore_event
from ggufpack.vendoring.loading import bytecode_folder
from ggufpack.verification.fidelity import cache
from ggufpack.verification.fidelity.adapted_source import adaptation_to_json
from ggufpack.verification.fidelity.builtin import BUILTIN_NAME
from ggufpack.verification.fidelity.confined import packages_beside
from ggufpack.verification.fidelity.judge import Judgement, hides_mistakes, judge, judge_decoded
from ggufpack.verification.fidelity.statistics import Resamples, Values, histogram, perplexity, quantiles
from ggufpack.verification.fidelity.texts import EvaluationText, builtin_texts, read_calibration

WINDOW = 512  # tokens; longer texts are measured in pieces
MAX_TOKENS = 20_000
MAX_STORED = 2 << 30  # bytes of distributions
MAX_BYTES = 1 << 20  # of the user's texts: more than MAX_TOKENS can be
WORST = 8
_BEFORE = 120  # characters shown in front of a bad position


@dataclass(frozen=True)
class FidelityOptions:
    """How to measure.

    Attributes:
        calibration: file or folder with the user's texts; ``None`` for the built-in ones.
        device: for the source model: ``"auto"``, ``"cpu"``, ``"cuda"`` …
        trust_remote_code: whether Python code of the checkpoint may run.
        threads: of both engines; ``None`` for all usable CPUs.
    """

    calibration: Path | None = None
    device: str = "auto"
    trust_remote_code: bool = False
    threads: int | None = None


@dataclass(frozen=True)
class TokenizedText:
    """A text, or a piece of a long one."""

    source: EvaluationText
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class SourceChoice:
    """The source's most probable token at a place, and how far its probability leads the second's."""

    token: int
    probability: float
    gap: float


def source_process(module: str, vendor: Path, options: FidelityOptions) -> Child:
    """The process of a trained model, not started; ``module`` is one of this package."""
    return Child(
        f"ggufpack.verification.fidelity.{module}",
        (str(vendor), str(bytecode_folder())),
        what="process of the trained model",
        error=VerificationError,
        gpu=options.device != "cpu",
    )


class FidelityCheck:
    """The source model of one checkpoint, and any number of packages. A context manager.

    The source's process starts on entry; its distributions are computed with the first package, or
    come from the cache.

    Args:
        checkpoint: opened.
        prompt: of the checkpoint: renders chats.
        vendor: the verified folder of the vendored converter.
        options: how to measure.
        on_event: told about the progress.

    Attributes:
        confined: what holds the source's process, once it was asked.

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
        self.prompt = prompt
        self._options = options
        self._on_event = on_event
        self._threads = options.threads or usable_cpus()
        self.window = min(WINDOW, checkpoint.context_length or WINDOW)
        self.left_out: tuple[str, ...] = ()
        self.texts = self._read_texts()
        self._source = source_process("source_worker", vendor, options)
        self._source_is_open = False
        self.confined = Confined()
        self._packages: list[str] = []
        self._texts: tuple[TokenizedText, ...] = ()
        self._reference: Mapping[str, Any] = {}
        self._own: Sequence[float] = ()

    def __enter__(self) -> FidelityCheck:
        self._source.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._source.close()

    @contextlib.contextmanager
    def package(self, gguf: Path) -> Iterator[PackageModel]:
        """A GGUF, loaded in a process of its own.

        Raises:
            VerificationError: the engine is missing or cannot load it.
        """
        self._use(gguf)
        with package_model(gguf, self.window, self._threads) as package:
            yield package

    def tokenize(self, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
        """Token ids by the checkpoint's tokenizer, as transformers loads it.

        Raises:
            VerificationError: transformers cannot load it.
        """
        self._open()
        answer = self._source.call({"do": "tokenize", "texts": list(texts), "special": special})
        tokens: list[list[int]] = answer["tokens"]
        return tokens

    def choices(self, text: Sequence[int], start: int) -> list[SourceChoice]:
        """What the source would write at each place of a text from ``start`` on, one behind its end too.

        Raises:
            VerificationError: the source cannot be run.
        """
        found = self._ask_source({"do": "choices", "text": list(text), "start": start})["best"]
        return [SourceChoice(token, top, top - second) for token, top, second in found]

    def measure(self, gguf: Path, package: PackageModel, engine: str) -> Fidelity:
        """One package against the source.

        Args:
            gguf: the file.
            package: the same, loaded.
            engine: name and version.

        Raises:
            VerificationError: the source or the package cannot be run.
        """
        self._use(gguf)
        self._prepare()
        texts = [list(text.tokens) for text in self._texts]
        request = {"texts": texts, "source": self._reference["folder"]}
        rounded = self._ask_source({"do": "rounded", "gguf": str(gguf.absolute()), **request})
        against = rounded["folder"] if rounded["exact"] else self._reference["folder"]
        compared = package.call(
            {"do": "compare", "against": against, "worst": WORST, **request}, self._progress
        )
        judged = judge(
            compared["error"],
            arithmetic=rounded["arithmetic"],
            moved=rounded["moved"],
            exact=rounded["exact"],
        )
        if judged.verdict == "sound" and rounded["exact"] and hides_mistakes(rounded["arithmetic"]):
            judged = self._judge_decoded(gguf, judged, rounded, {"against": against, **request})
        kl, agree = np.array(compared["kl"]), np.array(compared["agree"], np.float64)
        source, own = np.array(compared["source"]), np.array(compared["package"])
        resamples = Resamples([len(text) for text in texts])
        return Fidelity(
            texts=str(self._options.calibration or BUILTIN_NAME),
            texts_digest=cache.digest_of(texts=texts),
            tokens=len(kl),
            reference=self._reference["reference"],
            engine=engine,
            kl=resamples.mean(kl),
            kl_quantiles=quantiles(kl),
            kl_histogram=histogram(kl),
            top1=resamples.mean(agree),
            source_perplexity=perplexity(source),
            perplexity=perplexity(own),
            delta_perplexity=resamples.of(lambda means: np.exp(-means[1]) - np.exp(-means[0]), source, own),
            own_kl=resamples.mean(np.array(self._own)) if len(self._own) else None,
            expected_kl=rounded["kl"] if rounded["exact"] else None,
            error=judged.error,
            error_limit=judged.limit,
            verdict=judged.verdict,
            detail=judged.detail,
            not_checked=judged.not_checked,
            by_text=self._by_text(kl, agree, source, own),
            worst=tuple(self._worst(one, package) for one in compared["worst"]),
        )

    def _judge_decoded(
        self, gguf: Path, judged: Judgement, rounded: Mapping[str, Any], request: Mapping[str, Any]
    ) -> Judgement:
        """The verdict once more, with the weights decoded; as it was where there is no room for them."""
        with held_folder(".decoded-", cache.root()) as folder:
            copy = folder / "decoded.gguf"
            made = self._ask_source({"do": "decoded", "gguf": str(gguf.absolute()), "target": str(copy)})
            if made["lacks"]:
                return replace(judged, not_checked=made["lacks"])
            with self.package(copy) as decoded:
                item = {"do": "compare", "worst": 0, "item": "the package, decoded", **request}
                found = decoded.call(item, self._progress)
        error = found["usual_error"] if rounded["routed"] else found["error"]
        return judge_decoded(judged, error, arithmetic=rounded["float_arithmetic"])

    # --- the source -------------------------------------------------------------

    def _use(self, gguf: Path) -> None:
        """Let the source's process read a package: what it may read is settled when it begins."""
        if str(gguf.absolute()) not in self._packages:
            self._packages = packages_beside(gguf)
            if self._source_is_open:
                self._source.close()
                self._source_is_open = False

    def _open(self) -> None:
        if self._source_is_open:
            return
        adaptation = self._checkpoint.adaptation
        answer = self._source.call(
            {
                "do": "open",
                "checkpoint": str(self._checkpoint.folder.absolute()),
                "trust_remote_code": self._options.trust_remote_code,
                "threads": self._threads,
                "device": self._options.device,
                "packages": self._packages,
                "adaptation": None if adaptation is None else adaptation_to_json(adaptation),
            }
        )
        self.confined = Confined.from_json(answer["confined"])
        self._source_is_open = True

    def _ask_source(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self._open()
        return self._source.call(request, self._progress)

    def _prepare(self) -> None:
        """The texts' tokens and the source's distributions, once."""
        if self._reference:
            return
        self._texts = self._tokenized()
        texts = [text.tokens for text in self._texts]
        reference = self._ask_source({"do": "reference", "texts": texts})
        own = self._ask_source({"do": "own", "texts": texts, "source": reference["folder"]})
        self._own, self._reference = own["kl"], reference

    def _progress(self, done: int, total: int, item: str) -> None:
        self._on_event(Progress(Stage.VERIFICATION, done, total, "tokens", item))

    # --- texts ------------------------------------------------------------------

    def _read_texts(self) -> tuple[EvaluationText, ...]:
        path = self._options.calibration
        if path is None:
            return builtin_texts(self.prompt)
        found = read_calibration(path, self.prompt, max_texts=MAX_TOKENS, max_bytes=MAX_BYTES)
        self.left_out = found.left_out
        return found.texts

    def _tokenized(self) -> tuple[TokenizedText, ...]:
        """All texts in pieces that fit in the window, up to what is stored."""
        found: list[TokenizedText] = []
        room = min(MAX_TOKENS, MAX_STORED // (2 * max(1, self._vocabulary())))
        for is_chat in (False, True):
            texts = [text for text in self.texts if text.is_chat is is_chat]
            tokens = self.tokenize([text.text for text in texts], special=not is_chat)
            for text, ids in zip(texts, tokens, strict=True):
                if room < len(ids):
                    self.left_out = (*self.left_out, f"{text.name} after its first {room} tokens")
                for at in range(0, min(len(ids), room), self.window):
                    found.append(TokenizedText(text, tuple(ids[at : at + min(self.window, room - at)])))
                room -= min(len(ids), room)
        if sum(len(text.tokens) for text in found) < 2:
            raise UsageError("The texts have no two tokens.", action="Give longer ones.", key="calibration")
        return tuple(text for text in found if text.tokens)

    def _vocabulary(self) -> int:
        size = self._checkpoint.model_config.text.get("vocab_size")
        return size if isinstance(size, int) else 1 << 18

    def _by_text(
        self, kl: Values, agree: Values, source: Values, package: Values
    ) -> tuple[TextFidelity, ...]:
        rows: list[TextFidelity] = []
        at = 0
        for text, pieces in groupby(self._texts, key=lambda piece: piece.source):
            length = sum(len(piece.tokens) for piece in pieces)
            where = slice(at, at + length)
            at += length
            rows.append(
                TextFidelity(
                    name=text.name,
                    kind=text.kind,
                    tokens=length,
                    kl=float(kl[where].mean()),
                    top1=float(agree[where].mean()),
                    source_perplexity=perplexity(source[where]),
                    perplexity=perplexity(package[where]),
                )
            )
        return tuple(rows)

    def _worst(self, found: Mapping[str, Any], package: PackageModel) -> WorstToken:
        text = self._texts[found["text"]]
        position = found["position"]
        ids = [token for token, _, _ in found["choices"]]
        following = text.tokens[position + 1 : position + 2]
        pieces = package.pieces([*text.tokens[: position + 1], *following, *ids])
        before, rest = pieces[: position + 1], pieces[position + 1 :]
        choices = rest[len(following) :]
        return WorstToken(
            text=text.source.name,
            before=_shown(b"".join(before))[-_BEFORE:],
            token=_shown(rest[0]) if following else "",
            kl=found["kl"],
            choices=tuple(
                TokenChoice(_shown(piece), source, own)
                for piece, (_, source, own) in zip(choices, found["choices"], strict=True)
            ),
        )


class PackageModel:
    """A GGUF in its process.

    Attributes:
        adds_bos: whether engines put a BOS in front of a prompt, as the file says.
        confined: what holds its process.
    """

    def __init__(self, child: Child, adds_bos: bool, confined: Confined) -> None:
        self._child = child
        self.adds_bos = adds_bos
        self.confined = confined

    def call(self, request: Mapping[str, Any], on_progress: Any = None) -> dict[str, Any]:
        """A request of ``engine_worker.Package``."""
        return self._child.call(request, on_progress)

    def tokenize(self, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
        """Token ids, special tokens in the texts parsed; ``special`` adds what the file says."""
        tokens: list[list[int]] = self.call({"do": "tokenize", "texts": list(texts), "special": special})[
            "tokens"
        ]
        return tokens

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """The bytes of tokens."""
        return [
            bytes.fromhex(piece) for piece in self.call({"do": "pieces", "tokens": list(tokens)})["pieces"]
        ]

    def next_token(self, texts: Sequence[Sequence[int]]) -> list[dict[bytes, float]]:
        """The most probable next tokens after each text: bytes, probability."""
        found = self.call({"do": "next_token", "texts": [list(text) for text in texts]})["candidates"]
        return [{bytes.fromhex(piece): value for piece, value in one.items()} for one in found]


@contextlib.contextmanager
def package_model(gguf: Path, window: int, threads: int) -> Iterator[PackageModel]:
    """A GGUF, loaded in a process of its own.

    Raises:
        VerificationError: the engine is missing or cannot load it.
    """
    child = Child(
        "ggufpack.verification.fidelity.engine_worker",
        (),
        what="process of the package's model",
        error=VerificationError,
    )
    with child:
        opened = {"model": str(gguf.absolute()), "window": window, "threads": threads}
        answer = child.call({"do": "open", **opened})
        yield PackageModel(child, answer["adds_bos"], Confined.from_json(answer["confined"]))


def _shown(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")
