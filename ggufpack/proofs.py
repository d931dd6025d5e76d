"""What verification says about one registered model or GGUF: frozen dataclasses, and nothing heavy.

They stand in the record (``ggufpack.json``) as they are, so a report can be made again from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

VerifyLevel = Literal["none", "prompts", "smoke", "fidelity"]
VERIFY_LEVELS: tuple[VerifyLevel, ...] = ("none", "prompts", "smoke", "fidelity")

EMBEDDED = "embedding"  # done_reason of a smoke test that made a vector


@dataclass(frozen=True)
class PromptCase:
    """One conversation: what the checkpoint's template gives against what the engine gives.

    ``actual`` is ``None`` when the engine refused, and where it shows no prompt but its length; then
    ``actual_tokens`` is given. ``expected_tokens`` and ``actual_tokens`` are prompt lengths in tokens,
    ``None`` where they were not compared.
    """

    name: str
    equal: bool
    expected: str
    actual: str | None
    expected_tokens: int | None = None
    actual_tokens: int | None = None
    detail: str | None = None


@dataclass(frozen=True)
class SmokeResult:
    """One deterministic generation. ``leaked`` are special tokens found in the text."""

    ok: bool
    text: str
    done_reason: str
    generated_tokens: int
    leaked: tuple[str, ...] = ()
    detail: str | None = None


@dataclass(frozen=True)
class TokenizerMiss:
    """A text that two tokenizers cut differently, made as short as possible. Tokens are their pieces.

    ``ordinary``: it came up in prose, code or a chat, and not only in a text made to be hard.
    """

    name: str
    text: str
    expected: tuple[str, ...]
    actual: tuple[str, ...]
    ordinary: bool = True


@dataclass(frozen=True)
class TokenizerParity:
    """The GGUF's tokenizer in the engine against the checkpoint's, on ``texts`` texts, most of them hard.

    llama.cpp reads some rare texts in its own way for whole families of tokenizers (a space after a special
    token in SentencePiece ones): that is told, and only an ordinary text makes a package fail.
    """

    texts: int
    misses: tuple[TokenizerMiss, ...] = ()

    @property
    def ordinary_misses(self) -> tuple[TokenizerMiss, ...]:
        """Those that everyday use meets."""
        return tuple(miss for miss in self.misses if miss.ordinary)


@dataclass(frozen=True)
class StopCheck:
    """Whether generation ends at one stop. ``ended`` is ``None`` when it was not tried: ``detail`` says why.

    ``kind``: ``"string"`` is a stop parameter, ``"token"`` an end-of-generation token of the GGUF.
    """

    stop: str
    kind: Literal["string", "token"]
    ended: bool | None
    detail: str | None = None


@dataclass(frozen=True)
class ParsedCheck:
    """Whether the server puts a model's thinking, or its tool calls, into their own fields.

    ``parsed`` is ``None`` when the model did not show any: ``detail`` says so.
    """

    field: Literal["thinking", "tool_calls"]
    parsed: bool | None
    detail: str | None = None


@dataclass(frozen=True)
class LogprobCheck:
    """The registered model's own log probabilities against the embedded engine's, on the same file.

    Attributes:
        cases: conversations; one next token each, up to 20 candidates.
        largest: largest difference of a probability, 0 to 1.
        limit: what engines of different versions may differ.
        detail: the conversation that differs most, when it is beyond the limit.
    """

    cases: int
    largest: float
    limit: float
    detail: str | None = None

    @property
    def equal(self) -> bool:
        """Whether the server runs this file."""
        return self.cases > 0 and self.largest <= self.limit


@dataclass(frozen=True)
class Estimate:
    """A mean with the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class TokenChoice:
    """One candidate for the next token, with its probability in the source and in the package."""

    text: str
    source: float
    package: float


@dataclass(frozen=True)
class WorstToken:
    """A position where the package differs most.

    Attributes:
        text: name of the text.
        before: what stands in front, its end.
        token: what stands there.
        kl: nats.
        choices: the most probable tokens of either, the source's first.
    """

    text: str
    before: str
    token: str
    kl: float
    choices: tuple[TokenChoice, ...]


@dataclass(frozen=True)
class TextFidelity:
    """One text. ``kind`` is its language, ``"code"`` or ``"chat"``; ``kl`` is a mean in nats."""

    name: str
    kind: str
    tokens: int
    kl: float
    top1: float
    source_perplexity: float
    perplexity: float


@dataclass(frozen=True)
class Fidelity:
    """How near the package's next-token distributions are to the trained model's.

    Attributes:
        texts: ``"built-in"``, or the file or folder that was given.
        texts_digest: sha256 of the texts as token ids.
        tokens: positions compared.
        reference: what computed the source's distributions (``"torch 2.9 float32 on cpu"``).
        engine: what computed the package's.
        kl: Kullback-Leibler divergence of the package from the source, nats a token.
        kl_quantiles: ``{"50": …, "90": …, "99": …, "100": …}``.
        kl_histogram: lower edges in log10 nats, with the number of tokens.
        top1: share of positions where both have the same most probable token.
        source_perplexity, perplexity: of the texts, by the source and by the package.
        delta_perplexity: package minus source.
        own_kl: of the source computed in the checkpoint's own dtype: its rounding noise. ``None`` when
            the reference is computed in that dtype.
        expected_kl: of the source with its weights rounded as the file's types say, computed by the
            reference; ``None`` when the rounding could not be repeated.
        error: relative distance of the package's logits from what they have to be; with the file's
            weights decoded, so that the engine does not round its inputs, where that hides mistakes.
        error_limit: the distance from which on the conversion is broken, not only rounded.
        verdict: whether rounding explains the difference.
        detail: one sentence about the verdict.
        not_checked: why small mistakes were not looked for; empty when they were.
        by_text, worst: texts in order; positions, the worst first.
    """

    texts: str
    texts_digest: str
    tokens: int
    reference: str
    engine: str
    kl: Estimate
    kl_quantiles: Mapping[str, float]
    kl_histogram: tuple[tuple[float, int], ...]
    top1: Estimate
    source_perplexity: float
    perplexity: float
    delta_perplexity: Estimate
    own_kl: Estimate | None
    expected_kl: float | None
    error: float
    error_limit: float
    verdict: Literal["sound", "broken"]
    detail: str
    not_checked: str = ""
    by_text: tuple[TextFidelity, ...] = ()
    worst: tuple[WorstToken, ...] = ()


@dataclass(frozen=True)
class TextCosine:
    """One text. Cosines of the package's vector to the source's, and to what it has to be.

    ``cut``: the package's tokenizer cuts the text into other tokens, so the vectors cannot be equal.
    """

    name: str
    kind: str
    tokens: int
    cosine: float
    expected: float
    cut: bool = False


@dataclass(frozen=True)
class EmbeddingFidelity:
    """How near the package's vectors are to the trained model's.

    Means, limits and similarities are over the texts that both tokenizers cut alike.

    Attributes:
        texts: ``"built-in"``, or the file or folder that was given.
        texts_digest: sha256 of the texts.
        count: texts compared.
        dimensions: of a vector.
        reference: what computed the source's vectors.
        engine: what computed the package's.
        cosine_min, cosine_mean: of the package's vectors to the source's.
        expected_min, expected_mean: to the source's with its weights rounded as the file's types say.
        rounding_min: of those to the source's: what the types cost.
        similarity_difference: largest difference of the cosine of two texts, package from source.
        similarity_rank: Spearman's correlation of all of them: the order that retrieval sees; ``None``
            for fewer than three texts.
        limit: the cosine to what the vectors have to be below which the conversion is broken.
        decoded_min, decoded_limit: the same with the file's weights decoded, so that the engine does not
            round its inputs; ``None`` where that was not done.
        truncated: cosine to what it has to be, for a text that is longer than the model reads; ``None``
            when no server was asked.
        verdict: whether rounding explains the difference.
        detail: one sentence about the verdict.
        not_checked: why small mistakes were not looked for; empty when they were.
        by_text: the worst first.
    """

    texts: str
    texts_digest: str
    count: int
    dimensions: int
    reference: str
    engine: str
    cosine_min: float
    cosine_mean: float
    expected_min: float
    expected_mean: float
    rounding_min: float
    similarity_difference: float
    similarity_rank: float | None
    limit: float
    verdict: Literal["sound", "broken"]
    detail: str
    decoded_min: float | None = None
    decoded_limit: float | None = None
    truncated: float | None = None
    not_checked: str = ""
    by_text: tuple[TextCosine, ...] = ()


@dataclass(frozen=True)
class Verification:
    """What was proven about one registered model or GGUF, and by which engine.

    ``None`` or empty: not checked. ``quantization`` is the file type, ``None`` when nobody said it.
    ``confinement``: what held the processes of ours that ran models for it (``confinement.Confined``), by
    ``"engine"`` (prompts and answers), ``"package"`` and ``"source"`` (fidelity).
    """

    model: str
    engine: str
    level: VerifyLevel
    prompts: tuple[PromptCase, ...] = ()
    smoke: SmokeResult | None = None
    tokenizer: TokenizerParity | None = None
    stops: tuple[StopCheck, ...] = ()
    parsed: tuple[ParsedCheck, ...] = ()
    fidelity: Fidelity | None = None
    logprobs: LogprobCheck | None = None
    quantization: str | None = None
    embedding: EmbeddingFidelity | None = None
    confinement: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def embeds(self) -> bool:
        """Whether it is of an embedding model, which has no prompts, answers and stops."""
        return self.embedding is not None or (self.smoke is not None and self.smoke.done_reason == EMBEDDED)

    @property
    def checked(self) -> bool:
        """Whether anything was checked at all."""
        measured = self.fidelity is not None or self.embedding is not None
        return bool(self.prompts) or self.smoke is not None or measured

    @property
    def passed(self) -> bool:
        """Whether everything that was checked is as trained. Nothing checked is not passed."""
        return (
            self.checked
            and all(case.equal for case in self.prompts)
            and (self.smoke is None or self.smoke.ok)
            and (self.tokenizer is None or not self.tokenizer.ordinary_misses)
            and all(check.ended is not False for check in self.stops)
            and all(check.parsed is not False for check in self.parsed)
            and (self.fidelity is None or self.fidelity.verdict == "sound")
            and (self.embedding is None or self.embedding.verdict == "sound")
            and (self.logprobs is None or self.logprobs.equal)
        )


@dataclass(frozen=True)
class StreamCheck:
    """Whether a streamed answer is the whole one. ``equal`` is ``None`` when that could not be told."""

    case: str
    equal: bool | None
    detail: str | None = None


@dataclass(frozen=True)
class Agreement:
    """Greedy answers of a served model against another model's, token by token.

    Attributes:
        against: what it was compared with.
        cases: conversations compared; none is not passed, it was asked for.
        places: tokens compared, up to where two answers part.
        agreed: those that are the same.
        demanded: those where the more certain model leads by more than ``margin``, so that rounding is no
            excuse for another token.
        margin: difference of the two best probabilities, 0 to 1.
        largest: largest difference of a common token's probability; ``None`` where nobody gives any.
        detail: the first conversation in which a demanded token is another one.
    """

    against: str
    cases: int
    places: int
    agreed: int
    demanded: int
    margin: float
    largest: float | None = None
    detail: str | None = None


@dataclass(frozen=True)
class EndpointVerification(Verification):
    """What was proven about a model behind an OpenAI-compatible server.

    ``prompts_by``: what of the prompts the server shows, and was compared.
    """

    prompts_by: Literal["text", "ids", "length", "nothing"] = "nothing"
    streams: tuple[StreamCheck, ...] = ()
    agreements: tuple[Agreement, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether everything that was checked is as trained."""
        return (
            super().passed
            and all(check.equal is not False for check in self.streams)
            and all(one.cases > 0 and one.detail is None for one in self.agreements)
        )
