"""Findings of verification: GP601 to GP629, and GP640 to GP649 of served models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ggufpack.errors import GgufpackError
from ggufpack.proofs import (
    EmbeddingFidelity,
    Fidelity,
    LogprobCheck,
    ParsedCheck,
    PromptCase,
    SmokeResult,
    StopCheck,
    TokenizerMiss,
    TokenizerParity,
    Verification,
)
from ggufpack.spec import Finding, Severity
from ggufpack.verification.prompts import escaped

SHOWN_PROMPTS = 3
SHOWN_MISSES = 3
SHOWN_CHARACTERS = 80

PROMPT_DIFFERS = "GP601"
PROMPT_REFUSED = "GP602"
TOKEN_COUNT_DIFFERS = "GP603"  # noqa: S105 - an id
TOKENS_NOT_COUNTED = "GP604"
NO_PROMPT_CHECKED = "GP605"
DOES_NOT_STOP = "GP606"
SPECIAL_TOKEN_LEAKED = "GP607"  # noqa: S105 - an id
EMPTY_ANSWER = "GP608"
SMOKE_NOT_RUN = "GP609"
FIDELITY_NOT_MEASURED = "GP610"
TEMPLATE_NOT_RUN = "GP611"
NOT_REGISTERED = "GP612"
ENCODER_NOT_RUN = "GP613"
TOKENIZER_DIFFERS = "GP614"
STOP_DOES_NOT_END = "GP615"
STOP_NOT_TRIED = "GP616"
NOT_PARSED = "GP617"
PARSING_NOT_SEEN = "GP618"
LOGPROBS_DIFFER = "GP619"
CONVERSION_BROKEN = "GP620"
TEXTS_LEFT_OUT = "GP621"
LOGPROBS_NOT_COMPARED = "GP622"
SMALL_MISTAKES_NOT_SOUGHT = "GP623"
LONG_TEXT_CUT_ELSEWHERE = "GP627"
OTHER_TOKENS_OTHER_VECTOR = "GP628"
# of a served model: endpoint_findings.py
STREAM_DIFFERS = "GP640"
STREAM_NOT_COMPARED = "GP641"
ANSWERS_DIFFER = "GP642"
ANSWERS_NOT_COMPARED = "GP643"
ONLY_LENGTHS_COMPARED = "GP644"


def findings_of(verification: Verification) -> tuple[Finding, ...]:
    """What a verification found up to the level "smoke", and what it did not look at."""
    if verification.level == "none":
        return ()
    found = [finding for case in verification.prompts if (finding := _of_prompt(verification, case))]
    found = _some(verification, found)
    if not verification.prompts:
        found.append(
            _unchecked(
                NO_PROMPT_CHECKED,
                f"{verification.model}: no prompt was compared "
                "(there is no chat template, or it refuses every conversation)",
            )
        )
    elif not any(case.expected_tokens is not None for case in verification.prompts):
        found.append(
            _unchecked(TOKENS_NOT_COUNTED, f"{verification.model}: prompt lengths were not compared")
        )
    if verification.smoke is not None:
        found += _of_smoke(verification, verification.smoke)
        if not verification.stops:
            found.append(
                _unchecked(STOP_NOT_TRIED, f"{verification.model}: no stop was tried; there is none")
            )
    else:
        found.append(_unchecked(SMOKE_NOT_RUN, f"{verification.model}: no answer was generated"))
    found += [finding for check in verification.stops if (finding := _of_stop(verification, check))]
    found += [finding for check in verification.parsed if (finding := _of_parsed(verification, check))]
    return tuple(found)


def fidelity_findings(verification: Verification) -> tuple[Finding, ...]:
    """What the comparison with the trained model found, and what it did not look at."""
    found: list[Finding] = []
    if verification.tokenizer is not None:
        found += _of_tokenizer(verification, verification.tokenizer)
    fidelity = verification.fidelity
    if fidelity is not None:
        found += _of_measured(verification.model, fidelity)
    if verification.logprobs is not None and not verification.logprobs.equal:
        found.append(_of_logprobs(verification, verification.logprobs))
    elif verification.logprobs is None:
        found.append(
            _unchecked(
                LOGPROBS_NOT_COMPARED,
                f"{verification.model}: no server's own log probabilities were compared",
            )
        )
    return tuple(found)


def fidelity_not_measured(model: str, error: GgufpackError) -> Finding:
    """It was asked for; the verification has failed."""
    return _error(
        FIDELITY_NOT_MEASURED, f"{model}: fidelity could not be measured. {error.problem}", error.action
    )


def embedding_findings(verification: Verification) -> tuple[Finding, ...]:
    """What the comparison of an embedding model's vectors found, and what it did not look at."""
    found: list[Finding] = []
    if verification.tokenizer is not None:
        found += _of_tokenizer(verification, verification.tokenizer)
    measured = verification.embedding
    if measured is None:
        return tuple(found)
    found += _of_measured(verification.model, measured)
    if cut := [text for text in measured.by_text if text.cut]:
        worst = min(cut, key=lambda text: text.cosine)
        found.append(
            Finding(
                OTHER_TOKENS_OTHER_VECTOR,
                Severity.WARNING,
                f"{verification.model}: {len(cut)} of {len(measured.by_text)} texts are cut into other"
                f" tokens, so their vectors are not the trained model's (lowest cosine {worst.cosine:.4f},"
                f" {worst.name})",
                action="llama.cpp leaves out the vowel signs of Devanagari, Bengali, Tamil and their like"
                " (category Mc) from every WordPiece model's texts. Compare retrieval in such a language"
                " before you rely on it.",
            )
        )
    if measured.truncated is not None and measured.truncated < measured.limit:
        found.append(
            Finding(
                LONG_TEXT_CUT_ELSEWHERE,
                Severity.WARNING,
                f"{verification.model}: of a text that is longer than the model reads, the server reads"
                f" another part than the trained model (cosine {measured.truncated:.4f})",
                action="Cut long texts yourself; num_ctx should be the tokens that it was trained for.",
            )
        )
    return tuple(found)


def encoder_not_compared(model: str, why: str) -> Finding:
    """An encoder has no next token, and what it does with a text is not all known."""
    return _unchecked(FIDELITY_NOT_MEASURED, f"{model}: its embeddings were not compared; {why}")


def server_file_not_read(model: str, host: str) -> Finding:
    """The server is on another machine, or its store cannot be read."""
    return Finding(
        FIDELITY_NOT_MEASURED,
        Severity.ERROR,
        f"{model}: fidelity could not be measured; the file that {host} stores cannot be read here",
        action="Give the GGUF with --gguf, or run this on the server's machine.",
    )


def texts_left_out(clauses: Sequence[str]) -> Finding:
    """Of the user's texts, in clauses."""
    return _unchecked(
        TEXTS_LEFT_OUT, f"Fidelity was not measured on all texts; left out: {'; '.join(clauses)}"
    )


def failure(verifications: Sequence[Verification], findings: Sequence[Finding]) -> str:
    """One sentence about why a verification failed."""
    wrong = next((item for item in verifications if any(not case.equal for case in item.prompts)), None)
    if wrong is not None:
        cases = [case for case in wrong.prompts if not case.equal]
        return (
            f"{wrong.model}: {len(cases)} of {len(wrong.prompts)} prompts are not as trained"
            f" ({wrong.engine}); conversation {cases[0].name!r}, {cases[0].detail}."
        )
    errors = (one for one in findings if one.id.startswith("GP6") and one.severity is Severity.ERROR)
    first = next(errors, None)
    if first is None:
        return f"{verifications[0].model}: nothing could be verified."
    return f"{first.message.rstrip('.')}."


def template_not_run(model: str, engine: str) -> Finding:
    """The embedded engine runs the GGUF's Jinja; a Go TEMPLATE needs an Ollama server."""
    return _unchecked(
        TEMPLATE_NOT_RUN,
        f"{model}: {engine} ran the Jinja in the GGUF. The Go TEMPLATE in the Modelfile was proven equal"
        " to it by rendering, not on an Ollama server",
    )


def not_registered(host: str, engine: str) -> Finding:
    """No server answers, none was named: the package is made and verified, not registered."""
    return Finding(
        NOT_REGISTERED,
        Severity.WARNING,
        f"No Ollama server answers at {host}: nothing is registered; {engine} verifies the package instead.",
        action="Start one with `ollama serve`, then run `ollama create NAME -f Modelfile` in the package"
        " folder.",
    )


def encoder_not_run(model: str) -> Finding:
    """There is no engine at all."""
    return _unchecked(
        ENCODER_NOT_RUN, f"{model}: no embedding was computed (that needs an Ollama server, or xllamacpp)"
    )


def _of_measured(model: str, measured: Fidelity | EmbeddingFidelity) -> list[Finding]:
    found = []
    if measured.verdict == "broken":
        found.append(
            _error(
                CONVERSION_BROKEN,
                f"{model} is not the trained model: {measured.detail}",
                "Rounding does not explain it: weights, their order, rope, norms or keys are wrong."
                " Look at report.html. If ggufpack made this file, please report it.",
            )
        )
    if measured.not_checked:
        found.append(
            _unchecked(
                SMALL_MISTAKES_NOT_SOUGHT,
                f"{model}: mistakes that the engine's rounding hides were not looked for;"
                f" {measured.not_checked}",
            )
        )
    return found


def _some(verification: Verification, found: list[Finding]) -> list[Finding]:
    """The first few prompts that differ, and how many more: one cause mostly shows in all of them."""
    differing = [finding for finding in found if finding.id == PROMPT_DIFFERS]
    more = differing[SHOWN_PROMPTS:]
    if len(more) <= 1:
        return found
    rest = _error(PROMPT_DIFFERS, f"{verification.model}: {len(more)} more prompts; all are in ggufpack.json")
    return [*(finding for finding in found if finding not in more), rest]


def _of_prompt(verification: Verification, case: PromptCase) -> Finding | None:
    what = f"{verification.model}, conversation '{case.name}'"
    if case.actual is None and case.actual_tokens is None:
        return _error(PROMPT_REFUSED, f"{what}: {verification.engine} refused it; {case.detail}")
    if case.equal:
        if case.expected_tokens is not None and case.actual_tokens is None:
            return _unchecked(TOKENS_NOT_COUNTED, f"{what}: {case.detail}")
        if case.expected_tokens != case.actual_tokens:
            return Finding(
                TOKEN_COUNT_DIFFERS,
                Severity.WARNING,
                f"{what}: {case.detail}",
                action="llama.cpp does not normalise such characters, as the checkpoint's tokenizer does.",
            )
        return None
    if case.actual_tokens is not None:
        return _error(
            TOKEN_COUNT_DIFFERS,
            f"{what}: {case.detail}",
            "Check add_bos_token and the pre-tokenizer in the GGUF: one token more or less is mostly BOS.",
        )
    return _error(
        PROMPT_DIFFERS,
        f"{what}: the prompt is not the trained one {case.detail}",
        "Look at both prompts in ggufpack.json. If the chat template is the trained one, please report this.",
    )


def _of_smoke(verification: Verification, smoke: SmokeResult) -> list[Finding]:
    found = []
    if smoke.done_reason != "stop":
        # Ollama breaks one off that repeats itself, and says neither why nor how long it was
        length = f"{smoke.generated_tokens} tokens" if smoke.done_reason else "the server broke it off"
        found.append(
            _error(
                DOES_NOT_STOP,
                f"{verification.model} did not end its answer ({length})",
                "Check the end token and the stop parameters. A model with random weights never stops.",
            )
        )
    if smoke.leaked:
        found.append(
            _error(
                SPECIAL_TOKEN_LEAKED,
                f"{verification.model} shows special tokens in its answer: {', '.join(smoke.leaked)}",
                "Add them to the stop parameters, or check the token types in tokenizer.json.",
            )
        )
    if not smoke.text.strip():
        found.append(
            _error(EMPTY_ANSWER, f"{verification.model} gave an empty answer", "Check the chat template.")
        )
    return found


def _of_stop(verification: Verification, check: StopCheck) -> Finding | None:
    what = "the stop" if check.kind == "string" else "the end token"
    about = f"{verification.model}: {verification.engine}, {what} '{escaped(check.stop)}'"
    if check.ended is None:
        return _unchecked(STOP_NOT_TRIED, f"{about} was not tried: {check.detail}")
    if check.ended:
        return None
    action = (
        "Check the stop parameters of the Modelfile."
        if check.kind == "string"
        else "The GGUF must name it as eos, eot or eom; a stop parameter does not see a control token."
    )
    return _error(STOP_DOES_NOT_END, f"{about} does not end an answer: {check.detail}", action)


def _of_parsed(verification: Verification, check: ParsedCheck) -> Finding | None:
    what = "thinking" if check.field == "thinking" else "tool calls"
    if check.parsed is None:
        return _unchecked(
            PARSING_NOT_SEEN,
            f"{verification.model}: whether the server tells {what} from text was not seen; {check.detail}",
        )
    if check.parsed:
        return None
    return _error(
        NOT_PARSED,
        f"{verification.model}: {verification.engine} leaves {what} in the answer's text: {check.detail}",
        "The server does not find the template's tags. Try --template native, or a newer Ollama.",
    )


def _of_logprobs(verification: Verification, check: LogprobCheck) -> Finding:
    return _error(
        LOGPROBS_DIFFER,
        f"{verification.model}: {verification.engine} gives other probabilities than this file does:"
        f" they differ by {check.largest:.3f}, engines by no more than {check.limit:.3f} ({check.detail})",
        "Another file may be registered under the name, or the server changed it. Register it again.",
    )


def _of_tokenizer(verification: Verification, parity: TokenizerParity) -> list[Finding]:
    found = []
    for ordinary in (True, False):
        misses = [miss for miss in parity.misses if miss.ordinary is ordinary]
        shown = misses if len(misses) <= SHOWN_MISSES + 1 else misses[:SHOWN_MISSES]
        found += [_miss(verification, miss) for miss in shown]
        if more := len(misses) - len(shown):
            rest = (
                f"{verification.model}: the tokenizer cuts {more} more texts otherwise; all are in the record"
            )
            found.append(replace(found[-1], message=rest))
    return found


def _miss(verification: Verification, miss: TokenizerMiss) -> Finding:
    message = (
        f"{verification.model}: the tokenizer cuts '{_excerpt(miss.text)}' ({miss.name}) into"
        f" {_pieces(miss.actual)}, the checkpoint's into {_pieces(miss.expected)}"
    )
    if miss.ordinary:
        return _error(
            TOKENIZER_DIFFERS,
            message,
            "Check the pre-tokenizer, the merges and the token types in the GGUF (tokenizer.ggml.pre). The"
            " model reads such texts as other tokens than in training.",
        )
    return Finding(
        TOKENIZER_DIFFERS,
        Severity.WARNING,
        message,
        action="Other texts are cut as in training; llama.cpp reads such ones in its own way.",
    )


def _pieces(pieces: Sequence[str]) -> str:
    return _cut(" ".join(f"'{escaped(piece)}'" for piece in pieces)) or "nothing"


def _excerpt(text: str) -> str:
    return _cut(escaped(text))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def _error(identifier: str, message: str, action: str | None = None) -> Finding:
    return Finding(identifier, Severity.ERROR, message, action=action)


def _unchecked(identifier: str, message: str) -> Finding:
    return Finding(identifier, Severity.UNCHECKED, message)
