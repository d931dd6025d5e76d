"""verify(): the proof for what is there already: a GGUF, a package folder, or a registered model."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ggufpack import vendoring
from ggufpack.chat_template.prompt import prepare_prompt
from ggufpack.checkpoint.adapted import open_model
from ggufpack.errors import UsageError, VerificationError
from ggufpack.gguf_header import GgufFileError, read_gguf_header
from ggufpack.modelfile.assemble import assemble
from ggufpack.modelfile.model import Modelfile
from ggufpack.package_folder import RECORD_NAME
from ggufpack.progress import StageLog
from ggufpack.proofs import Verification, VerifyLevel
from ggufpack.proving import Prover, fidelity_check
from ggufpack.registry import OllamaServer
from ggufpack.registry.shown import local_blob
from ggufpack.spec import AdapterSpec, EventHandler, Finding, Stage, ignore_event
from ggufpack.verification.fidelity.measure import FidelityOptions
from ggufpack.verification.findings import failure

GGUF_SUFFIX = ".gguf"


@dataclass(frozen=True)
class VerifyResult:
    """What was proven about each file or model. ``passed``: everything that was asked for, and ran."""

    verifications: tuple[Verification, ...]
    findings: tuple[Finding, ...]
    passed: bool

    def to_json(self) -> dict[str, Any]:
        """The object that ``ggufpack verify --json`` prints."""
        return {
            "passed": self.passed,
            "verifications": [{**asdict(item), "passed": item.passed} for item in self.verifications],
            "findings": [finding.to_json() for finding in self.findings],
        }

    def error(self) -> VerificationError | None:
        """Why it failed; ``None`` when it passed."""
        if self.passed:
            return None
        return VerificationError(failure(self.verifications, self.findings))


def verify(
    model: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str],
    *,
    level: VerifyLevel = "fidelity",
    gguf: str | os.PathLike[str] | None = None,
    template: str = "auto",
    host: str | None = None,
    calibration: str | os.PathLike[str] | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    allow: tuple[str, ...] = (),
    threads: int | None = None,
    base: str | os.PathLike[str] | None = None,
    adapters: Sequence[AdapterSpec] = (),
    on_event: EventHandler = ignore_event,
) -> VerifyResult:
    """Prove that a model is the one that was trained. Changes nothing, prints nothing.

    Args:
        model: a GGUF file, a package folder, or the name of a model on an Ollama server.
        checkpoint: the Hugging Face folder it was made of.
        level: ``"prompts"``, ``"smoke"`` or ``"fidelity"``.
        gguf: the file of a registered model, where the server's own cannot be read.
        template: as for ``build``.
        host: of the server; ``None`` follows ``OLLAMA_HOST``.
        calibration, device, trust_remote_code, threads: see ``build``.
        base, adapters: see ``build``.
        allow: finding ids of the checkpoint that are accepted.
        on_event: gets ``spec.Event``s.

    Returns:
        the proofs, whether they passed or not.

    Raises:
        GgufpackError: the checkpoint or the model cannot be read, or the server failed.
    """
    target = _Target.find(os.fspath(model), None if gguf is None else Path(gguf))
    log = StageLog(on_event, allow)
    with contextlib.ExitStack() as stack:
        server = None
        if target.name is not None:
            server = OllamaServer(host)
            stack.callback(server.close)
            server.check()
        with log.stage(Stage.CHECKPOINT, "Reading the checkpoint"):
            opened = stack.enter_context(
                open_model(Path(checkpoint), None if base is None else Path(base), adapters)
            )
            log.add(opened.findings)
        with log.stage(Stage.TEMPLATE, "Carrying over the chat template"):
            prompt = prepare_prompt(opened, template, None if server is None else server.version)
            log.add(prompt.findings)
        vendor = vendoring.require(log.on_event)
        options = FidelityOptions(
            None if calibration is None else Path(calibration), device, trust_remote_code, threads
        )
        fidelity = fidelity_check(level, opened, prompt, vendor, options, log)
        prover = Prover(opened, prompt, level, fidelity, log)
        stack.enter_context(fidelity or contextlib.nullcontext())
        done = tuple(_verified(prover, target, server))
    passed = all(item.passed and prover.complete(item) for item in done)
    return VerifyResult(done, tuple(log.findings), passed)


@dataclass(frozen=True)
class _Target:
    """GGUF files, or a registered ``name`` with at most one file."""

    files: tuple[Path, ...]
    name: str | None = None

    @classmethod
    def find(cls, text: str, gguf: Path | None) -> _Target:
        path = Path(text)
        if gguf is not None and not gguf.is_file():
            raise UsageError(f"{gguf} is not a file.", action="Check --gguf.", path=gguf)
        if path.is_dir():
            named = sorted(path.glob(f"*{GGUF_SUFFIX}"))
            files = tuple(file for file in named if "-mmproj-" not in file.name)  # a vision tower
            if not (path / RECORD_NAME).is_file() or not files:
                raise UsageError(
                    f"{path} is not a package of ggufpack: it has no {RECORD_NAME} or no GGUF.",
                    action="Give a GGUF file, a package folder, or the name of a model on the server.",
                    path=path,
                )
            return cls(tuple(map(_model_file, files)))
        if path.is_file():
            return cls((_model_file(path),))
        if path.suffix == GGUF_SUFFIX or path.is_absolute():
            raise UsageError(f"{path} does not exist.", action="Check the path.", path=path)
        return cls(() if gguf is None else (gguf,), text)


def _model_file(path: Path) -> Path:
    """The file, when it is not an adapter that a package puts on a registered model."""
    try:
        kind = read_gguf_header(path).text("general.type")
    except GgufFileError:
        return path  # the engine says what is wrong with it
    if kind != "adapter":
        return path
    raise UsageError(
        f"{path} is an adapter, which runs only on its base model.",
        action="Give the name that it is registered under.",
        path=path,
    )


def _verified(prover: Prover, target: _Target, server: OllamaServer | None) -> Iterator[Verification]:
    if target.name is None or server is None:
        for file in target.files:
            with prover.log.stage(Stage.VERIFICATION, f"Verifying {file.name}"):
                yield prover.embedded(file, file.name, _modelfile(prover, str(file), None))
        return
    with prover.log.stage(Stage.VERIFICATION, f"Verifying {target.name}"):
        shown = server.show(target.name)
        blob = target.files[0] if target.files else local_blob(shown)
        if shown.adapters and prover.fidelity is not None:
            raise UsageError(
                f"{target.name} has an adapter, and the engine that compares logits runs no adapters.",
                action="Verify it with --level smoke.",
                key="level",
            )
        # what it has to stop at is the checkpoint's; a system text is its owner's wish
        modelfile = _modelfile(prover, target.name, shown.system or None)
        yield prover.on_server(server, target.name, target.name, modelfile, blob)


def _modelfile(prover: Prover, from_: str, system: str | None) -> Modelfile:
    modelfile, findings = assemble(prover.checkpoint, prover.prompt, from_, system=system, overrides={})
    prover.log.keep(findings)
    return modelfile
