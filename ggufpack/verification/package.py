"""Verifies one file of a package: on the server that holds it, or in the embedded engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ggufpack.chat_template.prompt import Prompt
from ggufpack.checkpoint import Checkpoint
from ggufpack.child import usable_cpus
from ggufpack.engine.protocol import Message
from ggufpack.modelfile.model import Modelfile
from ggufpack.proofs import Verification, VerifyLevel
from ggufpack.spec import EventHandler, Finding
from ggufpack.verification import verify
from ggufpack.verification.embedding import check_embedding
from ggufpack.verification.findings import encoder_not_run, findings_of, template_not_run
from ggufpack.verification.prompts import ExpectedPrompt, TokenCounter
from ggufpack.verification.tokens import token_counter

if TYPE_CHECKING:
    from ggufpack.registry import OllamaServer

_SMOKE_TEXT = "The sky is blue."
_SMOKE_WINDOW = 64  # tokens

Verified = tuple[Verification, tuple[Finding, ...]]


def verify_on_server(
    server: OllamaServer,
    staged: str,
    model: str,
    level: VerifyLevel,
    *,
    checkpoint: Checkpoint,
    prompt: Prompt,
    modelfile: Modelfile,
    on_event: EventHandler,
) -> Verified:
    """Verify the model that the server holds as ``staged``; reports call it ``model``.

    Raises:
        RegistryError: the server failed to run it.
    """
    from ggufpack.engine.ollama import OllamaEngine
    from ggufpack.verification.parsed import check_parsed

    engine = OllamaEngine(server, staged)
    try:
        if checkpoint.embeds:
            smoke = check_embedding(server.embed(staged, _SMOKE_TEXT))
            result = Verification(model, engine.name, "smoke", smoke=smoke)
            return result, ()
        result = verify(
            engine,
            _level(level, prompt),
            model=model,
            expected=with_system(prompt, modelfile.system),
            count_tokens=_counter(checkpoint, prompt),
            bos_text=prompt.bos,
            special_texts=prompt.special_texts,
            think=prompt.plan.think,
            stops=stop_strings(modelfile),
            end_tokens=end_tokens(checkpoint, prompt),
            on_event=on_event,
        )
        if result.smoke is not None:
            capabilities = server.show(staged).capabilities
            result = replace(result, parsed=check_parsed(engine, prompt, capabilities))
    finally:
        server.unload(staged)
    return result, findings_of(result)


def verify_embedded(
    gguf: Path,
    model: str,
    level: VerifyLevel,
    *,
    checkpoint: Checkpoint,
    prompt: Prompt,
    modelfile: Modelfile,
    on_event: EventHandler,
) -> Verified:
    """Verify a GGUF without a server.

    Raises:
        VerificationError: the engine is not installed or cannot load the file.
    """
    from ggufpack.engine.confined import ConfinedEngine

    if checkpoint.embeds:
        return _embedded_encoder(gguf, model, level)
    stops = stop_strings(modelfile)
    with ConfinedEngine(gguf, stops=stops) as engine:
        result = verify(
            engine,
            _level(level, prompt),
            model=model,
            # without a template llama.cpp would put one of its own
            expected=None if prompt.template is None else prompt.expected,
            count_tokens=_counter(checkpoint, prompt),
            bos_text=prompt.bos,
            special_texts=prompt.special_texts,
            think=prompt.plan.think,
            stops=stops,
            end_tokens=end_tokens(checkpoint, prompt),
            on_event=on_event,
        )
        result = replace(result, confinement={"engine": engine.confined.to_json()})
        findings = findings_of(result)
        if modelfile.template is not None:
            findings = (*findings, template_not_run(model, engine.name))
    return result, findings


def _embedded_encoder(gguf: Path, model: str, level: VerifyLevel) -> Verified:
    from ggufpack.engine.choose import has_embedded_engine
    from ggufpack.engine.llama import engine_name
    from ggufpack.verification.fidelity.measure import package_model

    if level == "fidelity":
        return Verification(model, "none", "none"), ()  # its vectors are compared, which runs it
    if not has_embedded_engine():
        return Verification(model, "none", "none"), (encoder_not_run(model),)
    with package_model(gguf, _SMOKE_WINDOW, usable_cpus()) as package:
        tokens = package.tokenize([_SMOKE_TEXT], special=True)
        (vector,) = package.call({"do": "embed", "texts": tokens, "item": "the package"})["vectors"]
        confinement = {"engine": package.confined.to_json()}
    result = Verification(
        model, engine_name(), "smoke", smoke=check_embedding(vector), confinement=confinement
    )
    return result, ()


def with_system(prompt: Prompt, system: str | None) -> ExpectedPrompt:
    """What is expected where the Modelfile has a SYSTEM text.

    Ollama puts it in front of conversations that do not begin with a system message
    (server/routes.go, ChatHandler).
    """

    def expected(messages: Sequence[Message]) -> str | None:
        if system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": system}, *messages]
        return prompt.expected(messages)

    return expected


def _level(level: VerifyLevel, prompt: Prompt) -> VerifyLevel:
    """A base model has no turn that could end: its answer is not judged."""
    return "prompts" if prompt.template is None else level


def stop_strings(modelfile: Modelfile) -> tuple[str, ...]:
    """Its stop parameters."""
    return tuple(value for key, value in modelfile.parameters if key == "stop")


def end_tokens(checkpoint: Checkpoint, prompt: Prompt) -> tuple[tuple[int, str], ...]:
    """The derived stops that are a special token: a model writes the token, which no text shows."""
    special = {*prompt.special_texts}
    found = ((checkpoint.tokenizer.id(stop), stop) for stop in prompt.stops if stop in special)
    return tuple((token, stop) for token, stop in found if token is not None)


def _counter(checkpoint: Checkpoint, prompt: Prompt) -> TokenCounter | None:
    path = checkpoint.tokenizer.files.get("tokenizer.json")
    return None if path is None else token_counter(path, completion=prompt.template is None)
