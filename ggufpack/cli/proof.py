"""What was proven about one file, as a line for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggufpack.proofs import EndpointVerification

if TYPE_CHECKING:
    from ggufpack.proofs import EmbeddingFidelity, Fidelity, Verification


def proof(verification: Verification) -> str:
    """One line, in clauses."""
    if not verification.checked:
        return f"{verification.model}: nothing was verified"
    parts = []
    if verification.prompts:
        equal = sum(case.equal for case in verification.prompts)
        counted = sum(case.actual_tokens is not None for case in verification.prompts)
        parts.append(
            f"{equal} of {len(verification.prompts)} prompts equal ({counted} with their token counts)"
        )
    smoke = verification.smoke
    if smoke is not None and verification.embeds:
        parts.append(f"an embedding of {smoke.text}" if smoke.ok else smoke.detail or smoke.text)
    elif smoke is not None:
        end = "ended by a stop" if smoke.ok else smoke.detail
        parts.append(f"answer {smoke.text.strip()[:60]!r}, {end}")
    if verification.stops:
        ended = sum(check.ended is True for check in verification.stops)
        parts.append(f"{ended} of {len(verification.stops)} stops end it")
    if verification.tokenizer is not None:
        equal = verification.tokenizer.texts - len(verification.tokenizer.misses)
        parts.append(f"{equal} of {verification.tokenizer.texts} texts cut into the same tokens")
    if verification.fidelity is not None:
        parts.append(_figures(verification.fidelity))
    if verification.embedding is not None:
        parts.append(_vectors(verification.embedding))
    if verification.logprobs is not None:
        parts.append("the server runs this file" if verification.logprobs.equal else "the server differs")
    if isinstance(verification, EndpointVerification):
        parts += _of_endpoint(verification)
    return f"{verification.model} on {verification.engine}: {'; '.join(parts)}"


def _of_endpoint(verification: EndpointVerification) -> list[str]:
    found = []
    if verification.streams:
        equal = sum(check.equal is True for check in verification.streams)
        found.append(f"{equal} of {len(verification.streams)} answers stream as they are")
    for one in verification.agreements:
        found.append(
            f"{one.agreed} of {one.places} tokens are those of {one.against}"
            f" ({one.demanded} where rounding is no excuse)"
        )
    return found


def _figures(fidelity: Fidelity) -> str:
    kl, top1, delta = fidelity.kl, fidelity.top1, fidelity.delta_perplexity
    return (
        f"{fidelity.verdict}: KL {kl.value:.4f} nats ({kl.low:.4f} to {kl.high:.4f}),"
        f" same top token {top1.value:.1%} ({top1.low:.1%} to {top1.high:.1%}),"
        f" perplexity {fidelity.source_perplexity:.2f} {delta.value:+.2f}"
        f" ({delta.low:+.2f} to {delta.high:+.2f})"
    )


def _vectors(found: EmbeddingFidelity) -> str:
    return (
        f"{found.verdict}: cosine to the trained model {found.cosine_mean:.6f}"
        f" (lowest {found.cosine_min:.6f}), to what it has to be {found.expected_mean:.6f}"
        f" (lowest {found.expected_min:.6f}), {found.count} texts"
    )
