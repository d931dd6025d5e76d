"""What the verification of a served model found, and what it did not look at."""

from __future__ import annotations

from ggufpack.proofs import EndpointVerification
from ggufpack.spec import Finding, Severity
from ggufpack.verification import findings as ids


def endpoint_findings(done: EndpointVerification) -> tuple[Finding, ...]:
    """All findings of one served model."""
    found = list(ids.findings_of(done))
    if done.prompts_by == "length":
        message = (
            f"{done.model}: {done.engine} does not show its prompts;"
            f" only their lengths were compared, in {len(done.prompts)} conversations"
        )
        found.append(Finding(ids.ONLY_LENGTHS_COMPARED, Severity.UNCHECKED, message))
    elif done.prompts_by == "nothing":
        message = f"{done.model}: no prompt was compared; {done.engine} shows none, and no number of tokens"
        found = [one for one in found if one.id != ids.NO_PROMPT_CHECKED]
        found.append(Finding(ids.NO_PROMPT_CHECKED, Severity.UNCHECKED, message))
    for check in done.streams:
        if check.equal is None:
            message = f"{done.model}: whether {check.case} streams as it is was not seen; {check.detail}"
            found.append(Finding(ids.STREAM_NOT_COMPARED, Severity.UNCHECKED, message))
        elif not check.equal:
            found.append(
                Finding(
                    ids.STREAM_DIFFERS,
                    Severity.ERROR,
                    f"{done.model}: {check.case} streams as another one ({done.engine}): {check.detail}",
                    action="The server's parser of streams loses it. Update the server.",
                )
            )
    for one in done.agreements:
        if one.detail is not None:
            found.append(
                Finding(
                    ids.ANSWERS_DIFFER,
                    Severity.ERROR,
                    f"{done.model}: its answers are not those of {one.against}: {one.detail}",
                    action=f"Rounding does not turn a lead of more than {one.margin:.2f}: another model, or"
                    " another prompt, is served.",
                )
            )
        elif not one.cases:
            found.append(
                Finding(
                    ids.ANSWERS_NOT_COMPARED,
                    Severity.ERROR,
                    f"{done.model}: no answer could be compared with {one.against}",
                    action="Two servers must both give log probabilities; the trained model needs answers"
                    " without thinking. Or use --level smoke.",
                )
            )
        elif not one.demanded:
            message = f"{done.model}: no answer is sure enough to be compared with {one.against}"
            found.append(Finding(ids.ANSWERS_NOT_COMPARED, Severity.UNCHECKED, message))
    return tuple(found)
