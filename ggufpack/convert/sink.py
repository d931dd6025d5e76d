"""Worker side: takes the converter's tensors and writes the final files in one pass.

The converter runs unmodified; ``capturing_writer`` stands in for ``gguf.GGUFWriter``. When the
converter's ``write()`` (conversion/base.py) asks it to write tensors, everything that depends on
the architecture is done, and the sink takes over: it lays out each wanted file, reads every tensor
once and encodes it for all of them in a thread pool.

Memory: (3 x threads) chunks of ``CHUNK_WEIGHTS`` weights, a float32 and an encoded buffer per
thread, and one whole tensor at a time for recipes that compute something.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from ggufpack.convert.layout import FileLayout, plan_file, traits_of
from ggufpack.convert.size import CHUNK_WEIGHTS
from ggufpack.convert.sources import FLOAT_OF_TYPE, TensorSource, Witness
from ggufpack.convert.values import check_encoded, check_source
from ggufpack.errors import ConversionError, DiskSpaceError
from ggufpack.quantize.kernels import Kernels
from ggufpack.quantize.rules import file_order
from ggufpack.quantize.types import TensorType

OnProgress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Output:
    """One file to write: ``path`` is a temporary name that the caller renames."""

    quantization: str
    path: Path


@dataclass(frozen=True)
class Written:
    """One written (or planned) file. ``tensor_types`` counts tensors by type name."""

    quantization: str
    path: Path
    size: int
    sha256: str
    tensor_types: Mapping[str, int]


class _OpenFile:
    """A file being filled, at its full size from the start."""

    def __init__(self, layout: FileLayout, path: Path) -> None:
        self.layout = layout
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        os.ftruncate(self.descriptor, layout.size)  # the zeros of the padding come with it
        self.write(layout.header, 0)

    def write(self, data: Any, offset: int) -> None:
        view = memoryview(data).cast("B")
        while view:
            count = os.pwrite(self.descriptor, view, offset)
            view, offset = view[count:], offset + count


class TensorSink:
    """Writes one checkpoint's tensors to one or several files.

    Args:
        outputs: the files.
        kernels: the encoders.
        threads: encoder threads.
        allowed: finding ids of value problems that are accepted (``values``).
        overrides: key-value pairs that replace the converter's.
        plan_only: lay the files out, write nothing.
        progress: called with (source bytes done, of all, tensor) from the feeding thread.
    """

    def __init__(
        self,
        outputs: Sequence[Output],
        *,
        kernels: Kernels,
        threads: int,
        allowed: Collection[str],
        overrides: Mapping[str, str | bool | int],
        plan_only: bool,
        progress: OnProgress,
    ) -> None:
        self._outputs = outputs
        self._kernels = kernels
        self._threads = threads
        self._allowed = allowed
        self._overrides = overrides
        self._plan_only = plan_only
        self._progress = progress
        self._buffers = threading.local()
        self.written: list[Written] = []

    def write(self, writer: Any) -> None:
        """Write all files from a filled ``GGUFWriter``.

        Raises:
            ConversionError: the writer was not filled as expected, or a value is out of range.
            DiskSpaceError: the files do not fit.
        """
        if len(writer.tensors) != 1:
            raise ConversionError("The vendored converter split its output; ggufpack needs one file.")
        infos = writer.tensors[0]
        sources = [TensorSource(name, infos[name]) for name in sorted(infos, key=file_order)]
        infos.clear()  # the sources alone hold the recipes now, and let them go one by one
        pairs = self._pairs(writer.kv_data[0])
        traits = traits_of(writer.arch, pairs)
        layouts = [
            plan_file(output.quantization, sources, pairs, traits, writer._pack_val)
            for output in self._outputs
        ]
        if self._plan_only:
            self.written = [
                Written(layout.file_type, output.path, layout.size, "", _count_types(layout))
                for layout, output in zip(layouts, self._outputs, strict=True)
            ]
            return
        self._check_space(layouts)
        files = [
            _OpenFile(layout, output.path) for layout, output in zip(layouts, self._outputs, strict=True)
        ]
        try:
            self._stream(sources, files)
            self.written = [self._finish(file) for file in files]
        finally:
            for file in files:
                os.close(file.descriptor)

    def _pairs(self, own: Mapping[str, Any]) -> dict[str, Any]:
        pairs = dict(own)
        # the converter fills this list from a set: its order would change from run to run
        names = pairs.get("tokenizer.chat_templates")
        if names is not None:
            names.value = sorted(names.value)
        for key, value in self._overrides.items():
            pairs[key] = gguf.gguf_writer.GGUFValue(value, _value_type(value))
        return pairs

    def _check_space(self, layouts: Sequence[FileLayout]) -> None:
        folder = self._outputs[0].path.parent
        status = os.statvfs(folder)
        free, needed = status.f_bavail * status.f_frsize, sum(layout.size for layout in layouts)
        if needed > free:
            raise DiskSpaceError(
                f"{folder}: {needed:,} bytes are needed and {free:,} are free.",
                action="Make room, or choose another folder with --output.",
                path=folder,
            )

    def _stream(self, sources: Sequence[TensorSource], files: Sequence[_OpenFile]) -> None:
        torch.set_num_threads(1)  # the pool is the only parallelism
        total = sum(source.weights for source in sources)
        done = 0
        waiting = threading.BoundedSemaphore(self._threads * 3)
        witness = Witness()
        futures: list[Future[None]] = []
        with ThreadPoolExecutor(self._threads, thread_name_prefix="quantize") as pool:
            try:
                for source in sources:
                    if source.encoded:
                        data = source.encoded_bytes()
                        for file in files:
                            file.write(data, file.layout.placements[source.name].offset)
                    else:
                        for row, view in source.rows(witness):
                            waiting.acquire()
                            future = pool.submit(self._encode, source, row, view, files)
                            future.add_done_callback(lambda _: waiting.release())
                            futures.append(future)
                    source.release()
                    done += source.weights
                    self._progress(done, total, source.name)
                    futures = [future for future in futures if not _collected(future)]
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _encode(self, source: TensorSource, row: int, view: torch.Tensor, files: Sequence[_OpenFile]) -> None:
        count = view.numel()
        weights, room = self._thread_buffers(count)
        stored = FLOAT_OF_TYPE[source.stored_type]
        if stored not in (torch.float32, view.dtype):
            # what the converter's 16-bit file would hold, so that both ways give the same bytes
            view = view.to(torch.float32).to(stored)
        weights.view(view.shape).copy_(view)
        largest = check_source(source.name, weights, self._allowed)
        for file in files:
            placement = file.layout.placements[source.name]
            tensor_type = TensorType(int(placement.tensor_type))
            size = self._kernels.encode(weights.numpy(), source.columns, tensor_type, room)
            encoded = room[:size]
            check_encoded(source.name, encoded, tensor_type, largest, self._kernels, self._allowed)
            file.write(encoded, placement.offset + tensor_type.size(row * source.columns))

    def _thread_buffers(self, count: int) -> tuple[torch.Tensor, Any]:
        local = self._buffers
        if getattr(local, "size", 0) < count:
            local.size = max(count, CHUNK_WEIGHTS)
            local.weights = torch.empty(local.size, dtype=torch.float32)
            local.encoded = np.empty(local.size * 4, dtype=np.uint8)
        return local.weights[:count], local.encoded

    def _finish(self, file: _OpenFile) -> Written:
        os.fsync(file.descriptor)
        with file.path.open("rb") as stream:
            digest = _file_digest(stream)
        layout = file.layout
        return Written(layout.file_type, file.path, layout.size, digest, _count_types(layout))


def _value_type(value: str | bool | int) -> gguf.GGUFValueType:
    if isinstance(value, bool):
        return gguf.GGUFValueType.BOOL
    return gguf.GGUFValueType.UINT32 if isinstance(value, int) else gguf.GGUFValueType.STRING


def _count_types(layout: FileLayout) -> dict[str, int]:
    types = Counter(placement.tensor_type.name for placement in layout.placements.values())
    return dict(sorted(types.items()))


def _collected(future: Future[None]) -> bool:
    """Whether it is done; raises its error."""
    if future.done():
        future.result()
        return True
    return False


def _file_digest(stream: Any) -> str:
    digest = hashlib.sha256()
    while block := stream.read(1 << 22):
        digest.update(block)
    return digest.hexdigest()


def capturing_writer(sink: TensorSink) -> Callable[..., Any]:
    """A stand-in for the class ``gguf.GGUFWriter`` whose instances write through the sink.

    Writers that are made with a path stay as they are: some architectures write LoRA files of
    their own (conversion/bert.py).
    """
    usual: Any = gguf.GGUFWriter

    class CapturingWriter(usual):
        """Collects as usual; writing the tensors is the sink's."""

        def write_header_to_file(self, path: Path | None = None) -> None:
            """The sink writes the header."""

        def write_kv_data_to_file(self) -> None:
            """The sink writes the header."""

        def write_tensors_to_file(self, *, progress: bool = False) -> None:  # noqa: ARG002 - upstream's
            """Write everything."""
            sink.write(self)

        def close(self) -> None:
            """Nothing is open."""

    def make(path: Any = None, *args: Any, **kwargs: Any) -> Any:
        return (CapturingWriter if path is None else usual)(path, *args, **kwargs)

    return make
