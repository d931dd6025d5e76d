"""Verification: asks an engine what it really does with a package, and compares that with the training.

Prompt parity (``prompts``), one answer (``smoke``), then what ends an answer (``stops``). What was not
checked is said in the findings.
"""

from __future__ import annotations

from collections.abc import Sequence

from ggufpack.engine.protocol import Engine, Message
from ggufpack.proofs import Verification, VerifyLevel
from ggufpack.spec import EventHandler, ignore_event
from ggufpack.verification.conversations import SMOKE_MESSAGES
from ggufpack.verification.prompts import ExpectedPrompt, TokenCounter, check_prompts
from ggufpack.verification.smoke import DEFAULT_MAX_TOKENS, run_smoke
from ggufpack.verification.stops import check_stops


def verify(
    engine: Engine,
    level: VerifyLevel,
    *,
    model: str,
    expected: ExpectedPrompt | None,
    count_tokens: TokenCounter | None = None,
    bos_text: str = "",
    special_texts: Sequence[str] = (),
    smoke_messages: Sequence[Message] = SMOKE_MESSAGES,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    think: bool | None = None,
    stops: Sequence[str] = (),
    end_tokens: Sequence[tuple[int, str]] = (),
    on_event: EventHandler = ignore_event,
) -> Verification:
    """Check one model in one engine.

    ``"prompts"`` compares prompts; ``"smoke"`` also generates one answer and tries the stops.
    Logits are not compared here: ``"fidelity"`` does what ``"smoke"`` does, and the result says ``"smoke"``.

    Args:
        engine: where the model runs.
        level: how much to check; ``"none"`` checks nothing, and the result has not passed.
        model: the Ollama name, or the GGUF's file name, for people.
        expected: see ``check_prompts``; ``None`` when the checkpoint has no chat template.
        count_tokens: see ``check_prompts``.
        bos_text: see ``check_prompts``.
        special_texts: see ``run_smoke``.
        smoke_messages: see ``run_smoke``.
        max_tokens: see ``run_smoke``.
        think: what the engine is told about thinking; ``None`` for nothing.
        stops: stop strings of the package, tried from ``"smoke"`` on.
        end_tokens: ids and texts of the tokens that end a turn, tried with them.
        on_event: told about the progress.

    Raises:
        RegistryError, VerificationError: the engine could not generate.
    """
    if level == "none":
        return Verification(model, engine.name, level)
    prompts = (
        ()
        if expected is None
        else check_prompts(engine, expected, count_tokens, bos_text, think=think, on_event=on_event)
    )
    smoke = (
        None
        if level == "prompts"
        else run_smoke(engine, smoke_messages, special_texts, max_tokens, think=think)
    )
    if smoke is None:
        return Verification(model, engine.name, "prompts", prompts)
    tried = check_stops(engine, stops, end_tokens)
    return Verification(model, engine.name, "smoke", prompts, smoke, stops=tried)
