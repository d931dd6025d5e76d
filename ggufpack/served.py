"""verify_endpoint(): whether what an OpenAI-compatible server serves is what was trained."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ggufpack import vendoring
from ggufpack.chat_template.prompt import Prompt, prepare_prompt
from ggufpack.checkpoint import Checkpoint
from ggufpack.checkpoint.adapted import open_model
from ggufpack.engine.openai_endpoint import KEY_VARIABLE, OpenAIEndpoint
from ggufpack.errors import UsageError, VerificationError
from ggufpack.modelfile.assemble import assemble
from ggufpack.progress import StageLog
from ggufpack.proofs import EndpointVerification, VerifyLevel
from ggufpack.recheck import VerifyResult
from ggufpack.registry import OllamaServer
from ggufpack.spec import AdapterSpec, EventHandler, Stage, ignore_event
from ggufpack.verification.endpoint import check_answer, check_parsed, check_prompts, check_stops
from ggufpack.verification.endpoint_agreement import agree_with_endpoint, agree_with_source
from ggufpack.verification.endpoint_findings import endpoint_findings
from ggufpack.verification.fidelity.measure import FidelityCheck, FidelityOptions
from ggufpack.verification.package import end_tokens, stop_strings, with_system
from ggufpack.verification.tokens import token_encoder


def verify_endpoint(
    checkpoint: str | os.PathLike[str],
    endpoint: str,
    served: str,
    *,
    level: VerifyLevel = "fidelity",
    against: str | None = None,
    host: str | None = None,
    key_variable: str = KEY_VARIABLE,
    template: str = "auto",
    system: str | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    allow: tuple[str, ...] = (),
    threads: int | None = None,
    base: str | os.PathLike[str] | None = None,
    adapters: Sequence[AdapterSpec] = (),
    on_event: EventHandler = ignore_event,
) -> VerifyResult:
    """Compare a served model with the checkpoint it was made of. Changes nothing, prints nothing.

    Args:
        checkpoint: the Hugging Face folder.
        endpoint: the server's address, as OpenAI clients take it.
        served: the model, as that server names it.
        level: ``"prompts"``; ``"smoke"`` adds an answer, its stream, stops, thinking and tool calls;
            ``"fidelity"`` adds greedy answers against the trained model's.
        against: name of a model on the Ollama server ``host`` whose answers are compared as well.
        host: of that server; ``None`` follows ``OLLAMA_HOST``.
        key_variable: environment variable with the API key.
        system: SYSTEM text that the server puts in front of conversations without one.
        template, device, trust_remote_code, allow, threads, base, adapters: see ``build``.
        on_event: gets ``spec.Event``s.

    Returns:
        the proof, whether it passed or not.

    Raises:
        GgufpackError: the checkpoint cannot be read, or the server failed.
    """
    log = StageLog(on_event, allow)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(OpenAIEndpoint(endpoint, served, key_variable=key_variable))
        other = None
        if against is not None:
            ollama = OllamaServer(host)
            stack.callback(ollama.close)
            ollama.check()
            other = stack.enter_context(OpenAIEndpoint(ollama.host, against, key_variable=""))
        with log.stage(Stage.CHECKPOINT, "Reading the checkpoint"):
            opened = stack.enter_context(
                open_model(Path(checkpoint), None if base is None else Path(base), adapters)
            )
            log.add(opened.findings)
        with log.stage(Stage.TEMPLATE, "Rendering the chat template"):
            prompt = prepare_prompt(opened, template, None)
            log.add(prompt.findings)
        if prompt.template is None:
            raise UsageError(
                f"{checkpoint} has no chat template, so there is no conversation to compare.",
                action="Name one with --template.",
                key="template",
            )
        with log.stage(Stage.VERIFICATION, f"Verifying {served}"):
            done = _verify(server, opened, prompt, level, system, log)
            if level == "fidelity":
                options = FidelityOptions(None, device, trust_remote_code, threads)
                vendor = vendoring.require(log.on_event)
                source = stack.enter_context(FidelityCheck(opened, prompt, vendor, options, log.on_event))
                ends = {token for token, _ in end_tokens(opened, prompt)}
                expected = with_system(prompt, system)
                agreement = agree_with_source(
                    server, source, prompt, expected, ends, opened.tokenizer.text, log.on_event
                )
                done = replace(done, level=level, agreements=(agreement,))
            if other is not None:
                also = agree_with_endpoint(server, other, prompt, log.on_event)
                done = replace(done, agreements=(*done.agreements, also))
            log.keep(endpoint_findings(done))
    return VerifyResult((done,), tuple(log.findings), done.passed)


def _verify(
    server: OpenAIEndpoint,
    checkpoint: Checkpoint,
    prompt: Prompt,
    level: VerifyLevel,
    system: str | None,
    log: StageLog,
) -> EndpointVerification:
    tokenizer = checkpoint.tokenizer.files.get("tokenizer.json")
    if tokenizer is None:
        raise VerificationError(
            f"{checkpoint.folder} has no tokenizer.json, so the tokens of a prompt cannot be counted",
            action="Save the tokenizer with transformers' fast tokenizer class.",
            path=checkpoint.folder,
        )
    name = server.name
    prompts, by = check_prompts(
        server, with_system(prompt, system), token_encoder(tokenizer), prompt, log.on_event
    )
    if level == "prompts":
        return EndpointVerification(server.model, name, "prompts", prompts, prompts_by=by)
    smoke, stream = check_answer(server, prompt)
    modelfile, findings = assemble(checkpoint, prompt, server.model, system=system, overrides={})
    log.keep(findings)
    stops = check_stops(server, stop_strings(modelfile), end_tokens(checkpoint, prompt))
    parsed, streams = check_parsed(server, prompt)
    return EndpointVerification(
        server.model,
        name,
        "smoke",
        prompts,
        smoke,
        stops=stops,
        parsed=parsed,
        streams=(stream, *streams),
        prompts_by=by,
    )
