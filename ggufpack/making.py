"""A build under way: its stages, on what the first of them found; ``pipeline.py`` has their order."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ggufpack import tensor_cache, vendoring
from ggufpack.chat_template.prompt import Prompt, prepare_prompt
from ggufpack.checkpoint import Checkpoint
from ggufpack.checkpoint.adapted import open_model
from ggufpack.checkpoint.vision import has_vision_tower, left_out
from ggufpack.convert.job import conversion_job, layer_job
from ggufpack.convert.process import Converted, Worker
from ggufpack.convert.protocol import Job
from ggufpack.engine.choose import find_server
from ggufpack.layering import LAYER_TYPE, Layering, without_merge
from ggufpack.modelfile.assemble import assemble, for_text
from ggufpack.modelfile.model import Modelfile
from ggufpack.modelfile.render import render
from ggufpack.package_folder import refusals
from ggufpack.packages import sha256_of
from ggufpack.progress import StageLog
from ggufpack.proofs import Verification
from ggufpack.proving import Prover, fidelity_check
from ggufpack.quantize.imatrix import load_imatrix
from ggufpack.registry import OllamaServer, StagedModel, refuse_existing, stage_model
from ggufpack.spec import (
    BuildSpec,
    EventHandler,
    GgufFile,
    Note,
    Stage,
)
from ggufpack.store.folder import StoreFolder
from ggufpack.store.manifest import Blob
from ggufpack.store.package import Packaged, StagedInStore, stage_in_store
from ggufpack.target import Target
from ggufpack.verification.fidelity.measure import FidelityOptions
from ggufpack.verification.findings import not_registered


@dataclass(frozen=True)
class Proven:
    """One file, verified. ``staged`` is the server's model; ``None`` without a server."""

    verification: Verification
    staged: StagedModel | None
    names: tuple[str, ...]


@dataclass(frozen=True)
class Making:
    """A build under way: what its first stages found, and the stages that use it."""

    spec: BuildSpec
    target: Target
    log: StageLog
    stack: contextlib.ExitStack
    server: OllamaServer | None
    checkpoint: Checkpoint
    worker: Worker
    worker_is_own: bool
    prompt: Prompt
    prover: Prover
    imatrix: Mapping[str, object] | None
    layering: Layering | None

    @classmethod
    def begin(
        cls,
        spec: BuildSpec,
        target: Target,
        on_event: EventHandler,
        stack: contextlib.ExitStack,
        given: Worker | None = None,
        published: Collection[str] = (),
    ) -> Making:
        """Everything that can fail early: the matrix, the server, the checkpoint, the chat template.

        A ``given`` worker stays open; otherwise one is started, and closed with the stack. Models of files
        (sha256) that were ``published`` by killed attempts are no reason to refuse their names.
        """
        log = StageLog(on_event, spec.allow)
        imatrix = None if spec.imatrix is None else load_imatrix(spec.imatrix).to_json()
        server = find_server(spec)
        if server is not None:
            stack.callback(server.close)
            if not spec.overwrite:
                refuse_existing(server, target.all_names(), published)
        if spec.store is not None and not spec.overwrite:
            StoreFolder(spec.store).refuse_existing(target.all_names(), own=published)
        with log.stage(Stage.CHECKPOINT, "Reading the checkpoint"):
            checkpoint = stack.enter_context(open_model(spec.checkpoint, spec.base, spec.adapters))
            layering = None
            if spec.from_model is not None and server is not None:
                layering = Layering.begin(server, spec.from_model, checkpoint)
            log.add(without_merge(checkpoint.findings) if layering else checkpoint.findings)
        with log.stage(Stage.VENDOR, "Checking the converter"):
            vendor = vendoring.require(log.on_event)
            worker = stack.enter_context(Worker(vendor)) if given is None else given
            worker.start()  # it imports its libraries while the chat template is learned
        with log.stage(Stage.TEMPLATE, "Carrying over the chat template"):
            prompt = prepare_prompt(checkpoint, spec.template, None if server is None else server.version)
            log.add(prompt.findings)
            if layering is not None:
                log.add(layering.findings(checkpoint, prompt))
            options = FidelityOptions(spec.calibration, spec.device, spec.trust_remote_code, spec.threads)
            fidelity = fidelity_check(spec.verify, checkpoint, prompt, vendor, options, log)
            prover = Prover(checkpoint, prompt, spec.verify, fidelity, log)
        own = given is None
        return cls(
            spec, target, log, stack, server, checkpoint, worker, own, prompt, prover, imatrix, layering
        )

    def convert(self, folder: Path, *, plan_only: bool = False) -> Converted:
        """Write the GGUF files to ``folder``."""
        if self.layering is not None:
            path = folder / self.target.file_name(LAYER_TYPE)
            job = layer_job(self.checkpoint, self.layering.layer, (LAYER_TYPE, path), plan_only=plan_only)
            converted = self._convert(job, "Converting the adapter")
            if not plan_only:
                self.layering.check(path)
            return converted
        spec = self.spec
        job = conversion_job(
            self.checkpoint,
            self.prompt,
            self.target.files(folder),
            trust_remote_code=spec.trust_remote_code,
            allowed=spec.allow,
            threads=spec.threads,
            imatrix=spec.imatrix,
            cache=(spec.cache or tensor_cache.default_folder()) if spec.reuse else None,
            projector=self.target.projector(folder) if self.wants_images else None,
            earlier=self.target.files() if spec.overwrite and not plan_only else None,
            plan_only=plan_only,
        )
        title = "Laying out the files" if plan_only else f"Converting to {', '.join(spec.quantizations)}"
        return self._convert(job, title)

    def _convert(self, job: Job, title: str) -> Converted:
        with self.log.stage(Stage.CONVERSION, title):
            try:
                converted = self.worker.convert(job, self.log.weights_done)
            finally:
                if self.worker_is_own:
                    self.worker.close()  # its memory is the verification's now
            for sentence in converted.notes:
                self.log.on_event(Note(sentence))
            if self.layering is None:
                self.log.keep(left_out(self.checkpoint, self.spec.vision, converted.projector))
            return converted

    @property
    def wants_images(self) -> bool:
        """Whether a vision tower is to be written."""
        return self.spec.vision and has_vision_tower(self.checkpoint)

    def modelfile(self, quantization: str, projector: GgufFile | None) -> Modelfile:
        """The Modelfile of one file."""
        modelfile, findings = assemble(
            self.checkpoint,
            self.prompt,
            f"./{self.target.file_name(quantization)}",
            projector=None if projector is None else f"./{projector.path.name}",
            system=self.spec.system,
            overrides=self.spec.parameters if self.layering is None else self.layering.parameters(self.spec),
        )
        self.log.add(findings)
        return modelfile if self.layering is None else self.layering.modelfile(modelfile)

    def modelfile_text(self, modelfile: Modelfile) -> str:
        """As a file."""
        text, findings = for_text(modelfile)
        self.log.add(findings)
        return render(text)

    def write_modelfiles(self, converted: Converted, folder: Path) -> dict[str, Modelfile]:
        """Write one for each file."""
        modelfiles = {}
        with self.log.stage(Stage.MODELFILE, "Writing the Modelfile"):
            for file in converted.files:
                modelfile = self.modelfile(file.quantization, converted.projector)
                path = folder / self.target.modelfile_name(file.quantization)
                with refusals(self.target.folder):
                    path.write_bytes(self.modelfile_text(modelfile).encode())
                modelfiles[file.quantization] = modelfile
        return modelfiles

    def modelfile_digests(self, folder: Path) -> dict[str, str]:
        """SHA-256 by quantisation type."""
        names = {kind: self.target.modelfile_name(kind) for kind in self.target.quantizations}
        with refusals(self.target.folder):
            return {kind: sha256_of(folder / name) for kind, name in names.items()}

    def prove(self, converted: Converted, modelfiles: Mapping[str, Modelfile]) -> tuple[Proven, ...]:
        """Put each file where it can run, and verify it there."""
        with self.prover.fidelity or contextlib.nullcontext():
            return tuple(
                self._prove(file, modelfiles[file.quantization], converted.projector)
                for file in converted.files
            )

    def store_models(self, converted: Converted, modelfiles: Mapping[str, Modelfile]) -> StagedInStore | None:
        """Copy the blobs into the offline store, if one was named; they go if they are not published."""
        if self.spec.store is None:
            return None
        tower = converted.projector
        packages = [
            Packaged(
                file.path,
                Blob(file.sha256, file.size),
                modelfiles[file.quantization].to_create_request(),
                self.target.names(file.quantization),
                None if tower is None else (tower.path, Blob(tower.sha256, tower.size)),
            )
            for file in converted.files
        ]
        with self.log.stage(Stage.REGISTRY, f"Copying to the store {self.spec.store}"):
            return self.stack.enter_context(
                stage_in_store(StoreFolder(self.spec.store), packages, self.log.on_event)
            )

    def _prove(self, file: GgufFile, modelfile: Modelfile, projector: GgufFile | None) -> Proven:
        names = self.target.names(file.quantization)
        staged = self._stage(file, modelfile, projector)
        with self.log.stage(Stage.VERIFICATION, f"Verifying {names[0]}"):
            if self.spec.verify == "none":
                done = Verification(names[0], "none", "none")
            elif self.server is not None and staged is not None:
                gguf = file.path if self.layering is None else None  # it is no model of its own
                done = self.prover.on_server(self.server, staged.name, names[0], modelfile, gguf)
            else:
                done = self.prover.embedded(file.path, names[0], modelfile)
        wanted = self.spec.register and self.spec.store is None
        if wanted and self.server is None and self.spec.verify != "none":
            self.log.keep([not_registered(self.spec.host or "the default address", done.engine)])
        return Proven(replace(done, quantization=file.quantization), staged, names)

    def _stage(self, file: GgufFile, modelfile: Modelfile, projector: GgufFile | None) -> StagedModel | None:
        if self.server is None:
            return None
        with self.log.stage(Stage.REGISTRY, f"Sending {file.path.name} to {self.server.host}"):
            staged = self.stack.enter_context(
                stage_model(
                    self.server,
                    file.path,
                    file.sha256,
                    modelfile.to_create_request(),
                    projector=projector,
                    native=self.prompt.plan.strategy == "native",
                    base=None if self.layering is None else self.layering.base,
                    token=self.spec.token,
                    on_event=self.log.on_event,
                )
            )
        self.log.findings += [found for found in staged.findings if found not in self.log.findings]
        return staged
