"""The smoke test: one deterministic answer that ends by itself and shows no special token."""

from __future__ import annotations

from collections.abc import Sequence

from ggufpack.engine.protocol import Engine, Message
from ggufpack.proofs import SmokeResult
from ggufpack.verification.conversations import SMOKE_MESSAGES

DEFAULT_MAX_TOKENS = 128


def run_smoke(
    engine: Engine,
    messages: Sequence[Message] = SMOKE_MESSAGES,
    special_texts: Sequence[str] = (),
    max_tokens: int = DEFAULT_MAX_TOKENS,
    *,
    think: bool | None = None,
) -> SmokeResult:
    """Generate once and judge the answer.

    It is no test of quality: a model with random weights fails because it does not stop, and that is
    said. ``detail`` has every reason.

    Args:
        engine: generates with temperature 0.
        messages: a question with a short answer, without special tokens in it.
        special_texts: texts of the special tokens, which a reader must not see.
        think: what the engine is told about thinking; ``None`` for nothing.
        max_tokens: an answer of this length counts as one that does not stop.

    Raises:
        RegistryError, VerificationError: the engine failed.
    """
    answer = engine.generate(messages, max_tokens=max_tokens, think=think)
    leaked = tuple(sorted({text for text in special_texts if text.strip() and text in answer.text}))
    reasons = []
    if answer.done_reason != "stop":
        reasons.append(
            f"it did not end by itself within {max_tokens} tokens ({answer.done_reason or 'no reason'})"
        )
    if not answer.text.strip():
        reasons.append("the answer is empty")
    if leaked:
        reasons.append(f"special tokens in the text: {', '.join(leaked)}")
    return SmokeResult(
        ok=not reasons,
        text=answer.text,
        done_reason=answer.done_reason,
        generated_tokens=answer.generated_tokens,
        leaked=leaked,
        detail="; ".join(reasons) or None,
    )
