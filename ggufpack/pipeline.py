"""build(): the stages in order. Each stage's work is in its own package."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggufpack import tensor_cache, vendoring
from ggufpack.attempt import attempt_at
from ggufpack.chat_template.prompt import Prompt, prepare_prompt
from ggufpack.checkpoint import Checkpoint
from ggufpack.checkpoint.adapted import open_model
from ggufpack.checkpoint.vision import has_vision_tower, left_out
from ggufpack.convert.job import conversion_job, layer_job, memory_needed
from ggufpack.convert.process import Converted, Worker
from ggufpack.convert.protocol import Job
from ggufpack.engine.choose import find_server
from ggufpack.errors import VerificationError
from ggufpack.layering import LAYER_TYPE, Layering, without_merge
from ggufpack.modelfile.assemble import assemble, for_text
from ggufpack.modelfile.model import Modelfile
from ggufpack.modelfile.render import render
from ggufpack.package_folder import RECORD_NAME, check_free, package_folder, refusals
from ggufpack.packages import sha256_of
from ggufpack.progress import StageLog
from ggufpack.proofs import Verification, VerifyLevel
from ggufpack.proving import Prover, fidelity_check
from ggufpack.quantize.imatrix import load_imatrix
from ggufpack.quantize.types import parse_file_types
from ggufpack.registry import OllamaServer, StagedModel, refuse_existing, stage_model
from ggufpack.report.page import REPORT_NAME, write_report
from ggufpack.report.record import make_record, write_record
from ggufpack.spec import (
    DEFAULT_QUANTIZATION,
    AdapterSpec,
    BuildPlan,
    BuildResult,
    BuildSpec,
    BuildStatus,
    EventHandler,
    GgufFile,
    Note,
    PlannedFile,
    Stage,
    ignore_event,
)
from ggufpack.store.folder import StoreFolder
from ggufpack.store.manifest import Blob
from ggufpack.store.package import Packaged, StagedInStore, stage_in_store
from ggufpack.target import Target, target_of
from ggufpack.verification.fidelity.measure import FidelityOptions
from ggufpack.verification.findings import failure, not_registered


def build(
    checkpoint: str | os.PathLike[str],
    *,
    name: str | None = None,
    quantization: str | Sequence[str] = DEFAULT_QUANTIZATION,
    output: str | os.PathLike[str] | None = None,
    template: str = "auto",
    system: str | None = None,
    parameters: Mapping[str, str | float | Sequence[str]] | None = None,
    host: str | None = None,
    register: bool = True,
    store: str | os.PathLike[str] | None = None,
    verify: VerifyLevel = "smoke",
    overwrite: bool = False,
    trust_remote_code: bool = False,
    allow: Sequence[str] = (),
    threads: int | None = None,
    imatrix: str | os.PathLike[str] | None = None,
    calibration: str | os.PathLike[str] | None = None,
    device: str = "auto",
    reuse: bool = False,
    cache: str | os.PathLike[str] | None = None,
    vision: bool = True,
    base: str | os.PathLike[str] | None = None,
    adapters: Sequence[str | os.PathLike[str] | AdapterSpec] = (),
    from_model: str | None = None,
    worker: Worker | None = None,
    token: str | None = None,
    on_event: EventHandler | None = None,
) -> BuildResult:
    """Package a checkpoint for Ollama. Prints nothing; safe in threads.

    Args:
        checkpoint: a Hugging Face folder, after ``save_pretrained``.
        name: of the model in Ollama; ``None`` takes the folder's name.
        quantization: one type or several (``"Q4_K_M,Q8_0"``); the source is read once.
        output: gets the package folder ``NAME/``; ``None`` is ``ggufpack-out``.
        template: ``"auto"``, ``"native"``, a named template, or a Jinja file.
        system: SYSTEM text.
        parameters: Modelfile parameters that replace derived ones.
        host: of the Ollama server; ``None`` follows ``OLLAMA_HOST``. A server that is named must
            answer; without one, and none running, the package is verified by the embedded engine.
        register: whether to register the model.
        store: offline store that gets the model too: a folder as OLLAMA_MODELS names one.
        verify: ``"none"``, ``"prompts"``, ``"smoke"`` or ``"fidelity"``.
        overwrite: replace a package folder and models of the same name.
        trust_remote_code: let Python code of the checkpoint run.
        allow: finding ids that would stop the build and are accepted.
        threads: quantisation threads.
        imatrix: importance matrix file for the quantiser, as llama-imatrix writes it.
        calibration: file or folder of texts for fidelity; ``None`` takes built-in ones.
        device: of the trained model for fidelity: ``"auto"`` (a GPU that is there), ``"cpu"`` …
        reuse: take encoded tensors from the cache, and put them there.
        cache: folder of the tensor cache; ``None`` is the user's.
        vision: package the vision tower of a checkpoint that has one.
        base: base model of ``checkpoint``, when that is a PEFT adapter; ``None`` takes the folder that the
            adapter names.
        adapters: PEFT adapters that are merged into the model while it is converted, in this order.
        from_model: name of a model on the server: the adapter is registered as a layer on it, and is not
            merged. ``quantization`` and ``imatrix`` say nothing then.
        worker: of ``open_worker``, for several builds: its libraries are imported once, and it stays
            open; ``None`` starts one for this build.
        token: in the record, and in all temporary names: by it a caller who ends the process finds them.
        on_event: gets ``spec.Event``s.

    Raises:
        GgufpackError: one of its subclasses, by stage (``ggufpack.errors``). On
            ``VerificationError`` the package exists, and ``result`` of the error describes it.
    """
    words = quantization if isinstance(quantization, str) else ",".join(quantization)
    spec = BuildSpec(
        checkpoint=Path(checkpoint),
        name=name,
        quantizations=parse_file_types(words),
        output=None if output is None else Path(output),
        template=template,
        system=system,
        parameters={key: _texts(value) for key, value in (parameters or {}).items()},
        host=host,
        register=register,
        store=None if store is None else Path(store),
        verify=verify,
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
        allow=frozenset(allow),
        threads=threads,
        imatrix=None if imatrix is None else Path(imatrix),
        calibration=None if calibration is None else Path(calibration),
        device=device,
        reuse=reuse,
        cache=None if cache is None else Path(cache),
        vision=vision,
        base=None if base is None else Path(base),
        adapters=tuple(
            item if isinstance(item, AdapterSpec) else AdapterSpec(Path(item)) for item in adapters
        ),
        token=token,
        from_model=from_model,
    )
    return run(spec, on_event or ignore_event, worker)


def open_worker() -> Worker:
    """A conversion process for many builds, one after the other: a context manager.

    Raises:
        VendorError: the vendored converter is missing and cannot be fetched.
    """
    return Worker(vendoring.require())


def run(
    spec: BuildSpec,
    on_event: EventHandler = ignore_event,
    worker: Worker | None = None,
    before_publish: Callable[[Path], None] | None = None,
) -> BuildResult:
    """Carry out a spec. As ``build``, which makes the spec from plain arguments.

    ``before_publish`` gets the folder with the whole package, before anything has a final name.
    """
    target = target_of(spec)
    with contextlib.ExitStack() as stack:
        attempt = stack.enter_context(attempt_at(target.folder, spec.token, on_event))
        check_free(target.folder, overwrite=spec.overwrite)
        named = replace(spec, token=attempt.token)
        making = _Making.begin(named, target, on_event, stack, worker, attempt.own)
        attempt.registers_at(making.server)
        folder = stack.enter_context(package_folder(target.folder, attempt.token))
        converted = making.convert(folder.working)
        modelfiles = making.write_modelfiles(converted, folder.working)
        proven = making.prove(converted, modelfiles)
        status = _status(proven, making.prover)
        publishable = [file for file in proven if file.staged is not None and status != "failed"]
        storing = making.store_models(converted, modelfiles) if status != "failed" else None
        result = BuildResult(
            package=target.package(converted.files, converted.projector),
            status=status,
            registered=tuple(name for file in publishable for name in file.names),
            engine=proven[0].verification.engine,
            template_strategy=making.prompt.plan.strategy,
            verifications=tuple(file.verification for file in proven),
            findings=tuple(making.log.findings),
            seconds=making.log.seconds,
            peak_worker_rss=converted.peak_rss,
            record=target.folder / RECORD_NAME,
            reused=converted.reused,
            stored=() if storing is None else storing.names,
            confinement=converted.confined.to_json(),
        )
        with making.log.stage(Stage.REPORT, "Writing the record and the report"):
            readings = making.prompt.plan.readings
            record = make_record(
                spec,
                making.checkpoint,
                result,
                vendoring.status().to_json(),
                making.modelfile_digests(folder.working),
                None if readings is None else readings.to_json(),
                making.imatrix,
            )
            with refusals(target.folder):
                write_record(folder.working / RECORD_NAME, record)
                write_report(record, folder.working / REPORT_NAME)
            if before_publish is not None:
                before_publish(folder.working)
            folder.make_durable()
            with folder.turn(overwrite=spec.overwrite):
                attempt.publishes(file.sha256 for file in converted.files)
                for file in publishable:
                    if file.staged is not None:
                        file.staged.publish(file.names, overwrite=spec.overwrite, own=attempt.own)
                if storing is not None:
                    storing.publish(overwrite=spec.overwrite)
                folder.publish()
    if status == "failed":
        raise _verification_error(result)
    return result


def plan(spec: BuildSpec, on_event: EventHandler = ignore_event) -> BuildPlan:
    """What ``run`` would do. Reads headers and loads the converter; writes nothing.

    Raises:
        GgufpackError: what would stop the build, but for values that only reading the weights shows.
    """
    target = target_of(spec)
    with contextlib.ExitStack() as stack:
        making = _Making.begin(spec, target, on_event, stack)
        converted = making.convert(target.folder, plan_only=True)
        planned = tuple(map(_planned, converted.files))
        projector = None if converted.projector is None else _planned(converted.projector)
        modelfile = making.modelfile(target.quantizations[0], converted.projector)
        text = making.modelfile_text(modelfile)
        existing = next(folder for folder in target.folder.absolute().parents if folder.exists())
        server = making.server
        return BuildPlan(
            folder=target.folder,
            checkpoint=making.checkpoint.origin,
            architecture=making.checkpoint.architecture,
            parameters=making.checkpoint.tensors.parameters,
            files=planned,
            projector=projector,
            names=() if server is None else target.all_names(),
            host=None if server is None else f"{server.host} (Ollama {server.version_text})",
            template_strategy=making.prompt.plan.strategy,
            modelfile=text,
            disk_needed=sum(file.size for file in planned) + (0 if projector is None else projector.size),
            disk_free=shutil.disk_usage(existing).free,
            memory_needed=memory_needed(making.checkpoint, spec.threads),
            findings=tuple(making.log.findings),
        )


@dataclass(frozen=True)
class _Proven:
    """One file, verified. ``staged`` is the server's model; ``None`` without a server."""

    verification: Verification
    staged: StagedModel | None
    names: tuple[str, ...]


@dataclass(frozen=True)
class _Making:
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
    ) -> _Making:
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
        return {kind: sha256_of(folder / name) for kind, name in names.items()}

    def prove(self, converted: Converted, modelfiles: Mapping[str, Modelfile]) -> tuple[_Proven, ...]:
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

    def _prove(self, file: GgufFile, modelfile: Modelfile, projector: GgufFile | None) -> _Proven:
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
        return _Proven(replace(done, quantization=file.quantization), staged, names)

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


def _planned(file: GgufFile) -> PlannedFile:
    return PlannedFile(file.quantization, file.path.name, file.size, file.tensor_types)


def _status(proven: Sequence[_Proven], prover: Prover) -> BuildStatus:
    checked = [file.verification for file in proven if file.verification.checked]
    if not all(verification.passed and prover.complete(verification) for verification in checked):
        return "failed"
    return "verified" if len(checked) == len(proven) else "unverified"


def _verification_error(result: BuildResult) -> VerificationError:
    error = VerificationError(
        failure(result.verifications, result.findings),
        action=f'Nothing was registered; the package is in {result.package.folder} and says "failed".',
        path=result.package.folder,
    )
    error.result = result
    return error


def _texts(value: str | float | Sequence[str]) -> tuple[str, ...]:
    """A parameter's values as a Modelfile writes them."""
    if isinstance(value, bool):
        return (str(value).lower(),)
    if isinstance(value, (str, int, float)):
        return (str(value),)
    return tuple(value)
