"""What the report says of embedding models only."""

from __future__ import annotations

from collections.abc import Sequence

from ggufpack.proofs import Verification


def merits(proofs: Sequence[Verification]) -> list[str]:
    """What passed, in clauses."""
    if any(proof.embedding for proof in proofs):
        return ["rounding explains every difference of its vectors"]
    if any(proof.embeds for proof in proofs):
        return ["it makes embeddings"]
    return []


def cut_otherwise(proofs: Sequence[Verification]) -> bool:
    """Whether a package's tokenizer cuts a text that was compared into other tokens."""
    return any(text.cut for proof in proofs if proof.embedding for text in proof.embedding.by_text)


def silent(proof: Verification) -> list[str]:
    """What nobody looked at."""
    missing = []
    if proof.embedding is None:
        missing.append("Fidelity: vectors were not compared with the trained model's")
    elif proof.embedding.truncated is None:
        missing.append("A text that is longer than the model reads: that needs an Ollama server")
    if proof.tokenizer is None:
        missing.append("The GGUF's tokenizer against the checkpoint's")
    if proof.smoke is None and proof.embedding is None:
        missing.append("An embedding: none was computed")
    return missing
