"""The worker process: ``python -m ggufpack.convert.worker EVENT_FD VENDOR BYTECODE IMPORTS``.

Takes jobs from standard input until it closes. torch and transformers are loaded once, so a
batch pays for them once; IMPORTS says how much of transformers (``libraries.Imports``).
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufpack.child import Reporter, leave, when_orphaned
from ggufpack.confinement import Confined, Confinement, confine, process
from ggufpack.convert.confined import confinement_of, keep_files_in
from ggufpack.convert.failures import explain
from ggufpack.convert.guard import AllOfTransformersNeeded, forbid_network_and_pickle, guard_pretrained
from ggufpack.convert.libraries import Imports, load_for_jobs, load_libraries
from ggufpack.convert.protocol import Job
from ggufpack.errors import WorkerError
from ggufpack.vendoring.loading import compiled_elsewhere
from ggufpack.vendoring.lock import load_lock

if TYPE_CHECKING:
    from ggufpack.convert.reuse import Reuse
    from ggufpack.convert.sink import TensorSink, Written
    from ggufpack.tensor_cache import TensorCache


_LAST = ("done", "error", "restart")  # events after which a job is over


class Converter:
    """The vendored converter, loaded once."""

    def __init__(self, vendor: Path, bytecode: Path, imports: Imports) -> None:
        # before the vendored tree is on the path: these keep their own compiled files
        load_libraries(imports)
        self._imports = imports
        self._tree = load_lock().tree_sha256  # what is confined cannot read the lock
        self._vendor = vendor
        self._bytecode = bytecode
        os.environ.pop("NO_LOCAL_GGUF", None)  # set, even empty, it makes the converter take another gguf
        sys.path[:0] = [str(vendor), str(vendor / "gguf-py")]
        with compiled_elsewhere(self._bytecode):
            import conversion
            import conversion.base
            import gguf
        if not Path(gguf.__file__).is_relative_to(vendor):
            raise RuntimeError(f"gguf was imported from {gguf.__file__}, not from {vendor}")
        self._conversion = conversion
        if process.can_fork():
            load_for_jobs()

    def has_projector(self, checkpoint: Path) -> bool:
        """Whether it can write the vision tower of this checkpoint's architecture."""
        config = self._conversion.ModelBase.load_hparams(checkpoint, False)
        kind = self._conversion.ModelType.MMPROJ
        return self._conversion.get_model_architecture(config, kind) in self._conversion.MMPROJ_MODEL_MAP

    def convert_projector(self, job: Job, reporter: Reporter) -> TensorSink:
        """Write the vision tower's file, in the type that the converter chooses (``--outtype auto``).

        It reads the checkpoint without adapters: where they change the tower, ``convert`` has refused.
        """
        import gguf
        import torch

        from ggufpack.convert.sink import Output, ProjectorSink
        from ggufpack.quantize.kernels import load_kernels

        assert job.projector is not None  # noqa: S101 - the caller looked
        conversion = self._conversion
        sink = ProjectorSink(
            [Output("", job.projector)],
            kernels=load_kernels(),
            threads=job.threads,
            allowed=job.allowed,
            overrides={},
            plan_only=job.plan_only,
            imatrix=None,
            cache=None,
            earlier={},
            progress=reporter.progress,
        )
        with _writing_into(sink), compiled_elsewhere(self._bytecode), torch.inference_mode():
            config = conversion.ModelBase.load_hparams(job.checkpoint, False)
            architecture = conversion.get_model_architecture(config, conversion.ModelType.MMPROJ)
            model_class = conversion.get_model_class(architecture, mmproj=True)
            guessed = gguf.LlamaFileType.GUESSED
            model = model_class(job.checkpoint, guessed, job.checkpoint / "unused.gguf")
            sink.name_type(model.ftype.name.partition("_")[2])
            model.write()
        return sink

    def write_adapter(self, job: Job, layer: Mapping[str, Any]) -> Written:
        """Write the job's adapter. Raises AdapterError where llama.cpp's script cannot."""
        from ggufpack.convert.lora_file import write_adapter

        guard_pretrained(trusted=job.trust_remote_code, imports=self._imports)
        with compiled_elsewhere(self._bytecode):
            return write_adapter(self._vendor, job, layer)

    def convert(self, job: Job, reporter: Reporter) -> TensorSink:
        """Write the job's files; the sink that did it. Raises whatever the converter raises."""
        import gguf
        import torch

        from ggufpack.convert.sink import Output, TensorSink
        from ggufpack.convert.vocabulary import is_kept
        from ggufpack.quantize.imatrix import load_imatrix
        from ggufpack.quantize.kernels import load_kernels
        from ggufpack.tensor_cache import TensorCache

        kernels = load_kernels()
        cache = None if job.cache is None else TensorCache(job.cache)
        logging.getLogger("ggufpack").info("kernels: %s", kernels.name)
        guard_pretrained(trusted=job.trust_remote_code, imports=self._imports)
        sink = TensorSink(
            [Output(quantization, path) for quantization, path in job.outputs],
            kernels=kernels,
            threads=job.threads,
            allowed=job.allowed,
            overrides=job.overrides,
            plan_only=job.plan_only,
            imatrix=None if job.imatrix is None else load_imatrix(job.imatrix),
            cache=cache,
            earlier=_worth_looking_at(job),
            progress=reporter.progress,
        )
        intermediate = {
            "f32": gguf.LlamaFileType.ALL_F32,
            "f16": gguf.LlamaFileType.MOSTLY_F16,
            "bf16": gguf.LlamaFileType.MOSTLY_BF16,
        }[job.intermediate]
        with _writing_into(sink), compiled_elsewhere(self._bytecode), torch.inference_mode(), _merging(job):
            base = self._conversion.ModelBase
            config = base.load_hparams(job.checkpoint, False)
            kind = self._conversion.ModelType.TEXT
            architecture = self._conversion.get_model_architecture(config, kind)
            model_class = self._conversion.get_model_class(architecture)
            # without additions it reads the file itself, as it does on the command line
            added = {"hparams": {**config, **job.config}} if job.config else {}
            # the path is only a name: the sink writes job.outputs
            model = model_class(job.checkpoint, intermediate, job.checkpoint / "unused.gguf", **added)
            kept = cache if is_kept(model, trust_remote_code=job.trust_remote_code) else None
            _begin_before_vocabulary(model, sink, kept, self._tree)
            model.write()
        if not sink.written:
            raise RuntimeError("the converter no longer writes through gguf.GGUFWriter.write_tensors_to_file")
        return sink


@contextmanager
def _writing_into(sink: TensorSink) -> Iterator[None]:
    """What the converter writes goes into ``sink``, which is closed at the end."""
    import gguf

    from ggufpack.convert.sink import capturing_writer

    usual = gguf.GGUFWriter
    gguf.GGUFWriter = capturing_writer(sink)
    try:
        yield
    finally:
        gguf.GGUFWriter = usual
        sink.close()


def _worth_looking_at(job: Job) -> dict[str, Path]:
    from ggufpack.convert.whole import is_older

    earlier = dict(job.earlier)
    complete = job.cache is not None and earlier.keys() == {quantization for quantization, _ in job.outputs}
    return earlier if complete and is_older(job.checkpoint, list(earlier.values())) else {}


def _merging(job: Job) -> AbstractContextManager[None]:
    if job.merge is None:
        return nullcontext()
    from ggufpack.checkpoint.merge import Merge
    from ggufpack.convert.lora import merging

    return merging(Merge.from_json(job.merge), plan_only=job.plan_only)


def _begin_before_vocabulary(model: Any, sink: TensorSink, cache: TensorCache | None, converter: str) -> None:
    """Start the encoders when only the vocabulary is missing.

    ``set_vocab`` is the last step of ``prepare_metadata`` (conversion/base.py, ``TextModel``). Where
    it is not called (``Mistral3Model`` delegates to another object), encoding starts with the write.
    With a cache the vocabulary comes from there, where it is.
    """
    from ggufpack.convert.vocabulary import set_vocabulary

    set_vocab = model.set_vocab

    def begin_and_set_vocab() -> None:
        sink.begin(model.gguf_writer)
        if cache is None:
            set_vocab()
        else:
            set_vocabulary(model, set_vocab, cache, converter)

    model.set_vocab = begin_and_set_vocab


def peak_rss() -> int:
    """Bytes of this process's largest resident set so far."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux's ru_maxrss counts what the parent had before the exec
        fields = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def answer(converter: Converter, job: Job, reporter: Reporter, confined: Confined) -> None:
    """Convert, and say how it went."""
    reuse: Reuse | None = None
    taken_whole = False
    try:
        tower: list[Written] = []
        if job.layer is not None:
            written = [converter.write_adapter(job, job.layer)]
        else:
            sink = converter.convert(job, reporter)
            written, reuse, taken_whole = sink.written, sink.reuse, sink.taken_whole
            del sink  # its recipes go now, not with the next job
            if job.projector is not None and converter.has_projector(job.checkpoint):
                tower = converter.convert_projector(job, reporter).written
    except AllOfTransformersNeeded as needed:
        reporter.send("restart", reason=str(needed.__cause__))
    except (Exception, SystemExit) as error:  # a few architectures call sys.exit
        logging.getLogger("ggufpack").exception("conversion failed")
        reporter.error(explain(error, job.checkpoint))
    else:
        reporter.send(
            "done",
            files=[_described(file) for file in written],
            taken_whole=taken_whole,
            projector=_described(tower[0]) if tower else None,
            peak_rss=peak_rss(),
            reused=None if reuse is None else asdict(reuse.reused()),
            notes=[] if reuse is None else reuse.notes(),
            confined=confined.to_json(),
        )


def answer_in_copy(converter: Converter, job: Job, reporter: Reporter, libraries: Sequence[Path]) -> None:
    """Convert in a confined copy of this process, and pass on what it says; the last, when it is gone."""
    last: list[bytes] = []

    def work(descriptor: int, confined: Confined) -> None:
        keep_files_in(scratch)
        reporter.close()
        answer(converter, job, Reporter(descriptor), confined)

    def pass_on(line: bytes) -> None:
        event = json.loads(line)
        if event["event"] == "progress":
            reporter.progress(int(event["done"]), int(event["total"]), str(event["item"]))
        elif event["event"] in _LAST:
            last.append(line)

    if job.cache is not None and not job.plan_only:
        with contextlib.suppress(OSError):  # the cache itself says what is wrong
            job.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="job-", dir=Path.cwd()) as folder:
        scratch = Path(folder)
        try:
            ended = process.run(confinement_of(job, libraries, scratch), work, pass_on)
        except (ValueError, KeyError, TypeError):
            ended = process.Ended(0, "it said what no conversion says")
    if ended.excess is not None:
        reporter.error(
            WorkerError(
                f"The conversion of {job.checkpoint} was stopped: {ended.excess}.",
                action="Close other programs, or use a larger machine; of a stranger's checkpoint, look"
                " at its files first.",
                path=job.checkpoint,
            )
        )
    elif ended.status or len(last) != 1:
        process.end_like(ended)
    else:
        reporter.pass_on(last[0])


def run(vendor: Path, bytecode: Path, descriptor: int, imports: Imports) -> None:
    """Serve jobs until standard input closes."""
    # a vocabulary is millions of small objects, none of them a cycle; jobs are collected one by one
    gc.disable()
    # the encoders need the interpreter for moments only, while the vocabulary is read in Python
    sys.setswitchinterval(0.0005)
    reporter = Reporter(descriptor)
    if not process.can_fork():
        when_orphaned(lambda: os._exit(1))  # nobody would rename what it writes
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    started = time.perf_counter()
    converter = Converter(vendor, bytecode, imports)
    forbid_network_and_pickle()
    gc.freeze()  # torch's objects stay: the collection after a job passes them over
    reporter.send("ready", seconds=time.perf_counter() - started)
    for line in sys.stdin.buffer:
        job = Job.from_line(line)
        if process.can_fork():
            answer_in_copy(converter, job, reporter, (vendor, bytecode))
        else:
            # a limit for this job would hold the next one, which may be larger
            answer(converter, job, reporter, confine(Confinement()))
            gc.collect()


def _described(file: Written) -> dict[str, Any]:
    return {**asdict(file), "path": str(file.path), "tensor_types": dict(file.tensor_types)}


if __name__ == "__main__":
    run(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[1]), Imports(sys.argv[4]))
    leave()
