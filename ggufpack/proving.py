"""Proves files of one checkpoint, on a server or in the embedded engine, as far as a level says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from ggufpack.chat_template.prompt import Prompt
from ggufpack.checkpoint import Checkpoint
from ggufpack.checkpoint.sentence import MODULES_FILE
from ggufpack.engine.choose import has_embedded_engine
from ggufpack.engine.ollama import OllamaEngine
from ggufpack.errors import UsageError, VerificationError
from ggufpack.modelfile.model import Modelfile
from ggufpack.progress import StageLog
from ggufpack.proofs import Verification, VerifyLevel
from ggufpack.registry import OllamaServer
from ggufpack.verification.fidelity.embedding import EmbeddingCheck
from ggufpack.verification.fidelity.measure import FidelityCheck, FidelityOptions
from ggufpack.verification.findings import (
    embedding_findings,
    encoder_not_compared,
    fidelity_findings,
    fidelity_not_measured,
    server_file_not_read,
    texts_left_out,
)
from ggufpack.verification.package import verify_embedded, verify_on_server


@dataclass(frozen=True)
class Prover:
    """What every file of a checkpoint is proven with.

    Attributes:
        fidelity: ``None`` below that level, and for an encoder whose vectors cannot be compared.
        log: gets findings and progress.
    """

    checkpoint: Checkpoint
    prompt: Prompt
    level: VerifyLevel
    fidelity: FidelityCheck | EmbeddingCheck | None
    log: StageLog

    def on_server(
        self, server: OllamaServer, stored: str, model: str, modelfile: Modelfile, gguf: Path | None
    ) -> Verification:
        """The model that the server holds as ``stored``; reports call it ``model``.

        ``gguf`` is its file; ``None`` when it cannot be read, so that its logits are not compared.
        """
        done, findings = verify_on_server(
            server,
            stored,
            model,
            self.level,
            checkpoint=self.checkpoint,
            prompt=self.prompt,
            modelfile=modelfile,
            on_event=self.log.on_event,
        )
        self.log.keep(findings)
        if gguf is None:
            if self.fidelity is not None:
                self.log.keep([server_file_not_read(model, server.host)])
            return done
        try:
            return self._fidelity(gguf, done, OllamaEngine(server, stored))
        finally:
            if self.fidelity is not None:
                server.unload(stored)

    def embedded(self, gguf: Path, model: str, modelfile: Modelfile) -> Verification:
        """A file without a server."""
        not_compared = self.checkpoint.embeds and self.fidelity is None
        done, findings = verify_embedded(
            gguf,
            model,
            "smoke" if not_compared else self.level,
            checkpoint=self.checkpoint,
            prompt=self.prompt,
            modelfile=modelfile,
            on_event=self.log.on_event,
        )
        self.log.keep(findings)
        return self._fidelity(gguf, done, None)

    def complete(self, verification: Verification) -> bool:
        """Whether everything ran that the level asks for."""
        measured = verification.fidelity is not None or verification.embedding is not None
        return measured or self.fidelity is None

    def _fidelity(self, gguf: Path, done: Verification, engine: OllamaEngine | None) -> Verification:
        from ggufpack.verification.fidelity.prove import add_fidelity

        if self.fidelity is None:
            if self.level == "fidelity" and (why := _why_not_compared(self.checkpoint)):
                self.log.keep([encoder_not_compared(done.model, why)])
            return done
        try:
            if isinstance(self.fidelity, EmbeddingCheck):
                done = _with_embeddings(self.fidelity, gguf, done, engine)
            else:
                done = add_fidelity(
                    self.fidelity, gguf, done, prompt=self.prompt, server=engine, on_event=self.log.on_event
                )
        except VerificationError as error:
            self.log.keep([fidelity_not_measured(done.model, error)])
            return done
        if self.fidelity.left_out:
            self.log.keep([texts_left_out(self.fidelity.left_out)])
        self.log.keep(embedding_findings(done) if done.embedding else fidelity_findings(done))
        return done


def _with_embeddings(
    check: EmbeddingCheck, gguf: Path, done: Verification, engine: OllamaEngine | None
) -> Verification:
    """The verification with tokenizer parity and the vectors, from the server where there is one."""
    measured, tokenizer = check.measure(
        gguf, None if engine is None else engine.embed, None if engine is None else engine.name
    )
    return replace(
        done,
        engine=measured.engine,
        level="fidelity",
        tokenizer=tokenizer,
        embedding=measured,
        confinement={**done.confinement, **check.confinement},
    )


def _why_not_compared(checkpoint: Checkpoint) -> str | None:
    """Why an encoder's vectors cannot be compared; ``None`` when they can, and for another model."""
    if not checkpoint.embeds:
        return None
    pipeline = checkpoint.pipeline
    if pipeline is None:
        return (
            f"{checkpoint.origin} has no {MODULES_FILE}, so how the trained model makes one vector is unknown"
        )
    if not pipeline.is_whole:
        return f"{MODULES_FILE} does not begin with a Transformer and a Pooling"
    if pipeline.lost:
        return f"a GGUF cannot hold {' and '.join(pipeline.lost)}"
    return None


def fidelity_check(
    level: VerifyLevel,
    checkpoint: Checkpoint,
    prompt: Prompt,
    vendor: Path,
    options: FidelityOptions,
    log: StageLog,
) -> FidelityCheck | EmbeddingCheck | None:
    """What compares logits or embeddings, if the level asks for it; its process is not started yet.

    Raises:
        UsageError: the texts cannot be read, or the embedded engine or sentence-transformers is missing.
    """
    if level != "fidelity":
        if options.calibration is not None:
            raise UsageError(
                f"Texts to compare on are of no use with --verify {level}.",
                action="Add --verify fidelity, or leave --calibration out.",
                key="calibration",
            )
        return None
    if not has_embedded_engine():
        raise UsageError(
            "Comparing logits or embeddings (fidelity) needs the package xllamacpp.",
            action="Run: pip install 'ggufpack[engine]'.",
            key="verify",
        )
    if _why_not_compared(checkpoint) is not None:
        return None
    if checkpoint.embeds:
        if find_spec("sentence_transformers") is None:
            raise UsageError(
                "Comparing embeddings (fidelity) needs the package sentence-transformers.",
                action="Run: pip install 'ggufpack[embeddings]'.",
                key="verify",
            )
        return EmbeddingCheck(checkpoint, prompt, vendor, options, log.on_event)
    return FidelityCheck(checkpoint, prompt, vendor, options, log.on_event)
