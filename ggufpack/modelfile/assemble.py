"""The Modelfile stage: from what the other stages found to a Modelfile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ggufpack.chat_template.prompt import Prompt
from ggufpack.checkpoint import Checkpoint
from ggufpack.errors import CheckpointFileError
from ggufpack.modelfile.findings import LICENSE_LEFT_OUT, make_finding
from ggufpack.modelfile.model import Modelfile
from ggufpack.modelfile.parameters import derive_parameters
from ggufpack.modelfile.render import inexpressible
from ggufpack.spec import Finding

MAX_LICENSE_BYTES = 1 << 20


def assemble(
    checkpoint: Checkpoint,
    prompt: Prompt,
    from_: str,
    *,
    projector: str | None = None,
    system: str | None,
    overrides: Mapping[str, Sequence[str]],
) -> tuple[Modelfile, tuple[Finding, ...]]:
    """The Modelfile of one GGUF, everything in it explicit.

    Args:
        checkpoint: opened.
        prompt: of this checkpoint.
        from_: the GGUF, as FROM names it.
        projector: the vision tower's file, as FROM names it; ``None`` for none.
        system: SYSTEM text of the user.
        overrides: parameters of the user.

    Raises:
        UsageError: a parameter that Ollama would refuse.
        CheckpointFileError: a license file that is no text.
    """
    generation = checkpoint.generation
    derived = derive_parameters(
        stops=prompt.stops,
        context_length=checkpoint.context_length,
        generation_config={
            "do_sample": generation.do_sample,
            "temperature": generation.temperature,
            "top_k": generation.top_k,
            "top_p": generation.top_p,
            "min_p": generation.min_p,
            "repetition_penalty": generation.repetition_penalty,
        },
        overrides=overrides,
    )
    return Modelfile(
        from_=from_,
        projector=projector,
        template=prompt.plan.go_template,
        system=system,
        parameters=derived.parameters,
        license=_licenses(checkpoint),
    ), derived.findings


def for_text(modelfile: Modelfile) -> tuple[Modelfile, tuple[Finding, ...]]:
    """The Modelfile as its text form can hold it: a LICENSE that it cannot hold is left out.

    Anything else that it cannot hold stays: ``render`` refuses it.
    """
    kept = tuple(
        text for text in modelfile.license if not inexpressible(Modelfile(modelfile.from_, license=(text,)))
    )
    if len(kept) == len(modelfile.license):
        return modelfile, ()
    return replace(modelfile, license=kept), (make_finding(LICENSE_LEFT_OUT, key="LICENSE"),)


def _licenses(checkpoint: Checkpoint) -> tuple[str, ...]:
    texts = []
    for path in checkpoint.license_files:
        if path.stat().st_size > MAX_LICENSE_BYTES:
            raise CheckpointFileError(f"{path} is larger than a license can be (1 MiB).", path=path)
        try:
            texts.append(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise CheckpointFileError(
                f"{path} is not UTF-8 text.", action="Save it as UTF-8, or move it away.", path=path
            ) from None
    return tuple(texts)
