"""build(): the stages in order. Each stage's work is in its own package."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ggufpack import vendoring
from ggufpack.attempt import attempt_at
from ggufpack.convert.job import memory_needed
from ggufpack.convert.process import Worker
from ggufpack.errors import VerificationError
from ggufpack.making import Making, Proven
from ggufpack.package_folder import RECORD_NAME, check_free, package_folder, refusals
from ggufpack.proofs import VerifyLevel
from ggufpack.proving import Prover
from ggufpack.quantize.types import parse_file_types
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
    PlannedFile,
    Stage,
    ignore_event,
)
from ggufpack.target import target_of
from ggufpack.verification.findings import failure


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
        making = Making.begin(named, target, on_event, stack, worker, attempt.own)
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
                    storing.publish(overwrite=spec.overwrite, own=attempt.own)
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
        making = Making.begin(spec, target, on_event, stack)
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


def _planned(file: GgufFile) -> PlannedFile:
    return PlannedFile(file.quantization, file.path.name, file.size, file.tensor_types)


def _status(proven: Sequence[Proven], prover: Prover) -> BuildStatus:
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
