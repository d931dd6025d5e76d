"""Worker side: takes the converter's tensors and writes the final files in one pass.

The converter runs unmodified; ``capturing_writer`` stands in for ``gguf.GGUFWriter``. When the
converter's ``write()`` (conversion/base.py) asks it to write tensors, everything that depends on
the architecture is done, and the sink takes over: it lays out each wanted file, reads every tensor
once and encodes it for all of them.

The tensors are known before the vocabulary is read, which takes seconds. ``begin`` lets the
encoders work in that time; the files are written once the header is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import torch

from ggufpack.convert.disk import OutputFile, check_space
from ggufpack.convert.encode import Encoder
from ggufpack.convert.file_keys import recall, remember
from ggufpack.convert.importance import importance_of
from ggufpack.convert.layout import FileLayout, PackedValue, plan_file, traits_of
from ggufpack.convert.reuse import Reuse
from ggufpack.convert.sources import Rows, TensorSource
from ggufpack.convert.stream import OnProgress, TensorStream, Types
from ggufpack.convert.whole import hash_files
from ggufpack.errors import ConversionError
from ggufpack.quantize.imatrix import ImportanceMatrix
from ggufpack.quantize.kernels import Kernels
from ggufpack.quantize.rules import TensorShape, choose_types, file_order
from ggufpack.quantize.types import TensorType
from ggufpack.tensor_cache import TensorCache


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


@dataclass(frozen=True)
class _Begun:
    """Tensors that are being encoded: the converter's own entries, and the types chosen for them."""

    infos: Mapping[str, Any]
    types: Sequence[Types]
    sources: Sequence[TensorSource]
    stream: TensorStream


class TensorSink:
    """Writes one checkpoint's tensors to one or several files. ``close`` it in any case.

    Args:
        outputs: the files.
        kernels: the encoders.
        threads: encoder threads.
        allowed: finding ids of value problems that are accepted (``values``).
        overrides: key-value pairs that replace the converter's.
        plan_only: lay the files out, write nothing.
        imatrix: importance matrix for the encoders.
        cache: encoded tensors are taken from there and put there; ``None`` encodes everything.
        earlier: files of an earlier package that may be what is to be written, by quantization.
        progress: called with (weights done, of all, tensor), from one thread at a time.
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
        imatrix: ImportanceMatrix | None,
        cache: TensorCache | None,
        earlier: Mapping[str, Path],
        progress: OnProgress,
    ) -> None:
        self._outputs = outputs
        self._kernels = kernels
        self._threads = threads
        self._allowed = allowed
        self._overrides = overrides
        self._plan_only = plan_only
        self._imatrix = imatrix
        self._cache = cache
        self._earlier = earlier
        self._progress = progress
        self._begun: _Begun | None = None
        self.written: list[Written] = []
        self.taken_whole = False
        self.reuse: Reuse | None = None

    def begin(self, writer: Any) -> None:
        """Start to encode the tensors of a ``GGUFWriter`` that lacks only the vocabulary."""
        if not self._plan_only and not self._earlier:
            self._begun = self._encode(writer)

    def write(self, writer: Any) -> None:
        """Write all files from a filled ``GGUFWriter``.

        Raises:
            ConversionError: the writer was not filled as expected, or a value is out of range.
            DiskSpaceError: the files do not fit.
        """
        if self._plan_only:
            sources = self._sources(writer)
            types = self._types(writer, sources)
            importance_of(self._imatrix, sources, types)  # refuses one that does not fit
            self.written = [
                Written(layout.file_type, output.path, layout.size, "", _count_types(layout))
                for layout, output in self._layouts(writer, sources, types)
            ]
            return
        if self._earlier and self._cache is not None and self._take_whole(writer, self._cache):
            return
        begun = self._still_valid(writer) or self._encode(writer)
        self._begun = begun
        writer.tensors[0].clear()  # the sources alone hold the recipes now, and let them go one by one
        layouts = self._layouts(writer, begun.sources, begun.types)
        check_space(self._outputs[0].path.parent, [layout.size for layout, _ in layouts])
        with ExitStack() as stack:
            files = []
            for layout, output in layouts:
                files.append(OutputFile(output.path, layout.size))
                stack.callback(files[-1].close)
            self.written = self._fill(begun.stream, [layout for layout, _ in layouts], files)
        self._remember([layout.header for layout, _ in layouts])

    def close(self) -> None:
        """Stop encoding."""
        if self._begun is not None:
            self._begun.stream.close()
            self._begun = None

    def _encode(self, writer: Any) -> _Begun:
        sources = self._sources(writer)
        types = self._types(writer, sources)
        stream = TensorStream(
            sources,
            types,
            encoder=self._encoder(sources, types),
            threads=self._threads,
            progress=self._progress,
        )
        return _Begun(dict(writer.tensors[0]), types, sources, stream)

    def _encoder(self, sources: Sequence[TensorSource], types: Sequence[Types]) -> Encoder:
        importance = importance_of(self._imatrix, sources, types)
        if self._cache is not None:
            self.reuse = Reuse(self._cache, self._kernels.name, importance)
            self.reuse.gather_files(types, {source.name: source.weights for source in sources})
        torch.set_num_threads(1)  # the pool is the only parallelism
        return Encoder(self._kernels, importance, self._allowed, self.reuse)

    def _take_whole(self, writer: Any, cache: TensorCache) -> bool:
        """Whether the earlier files are what would be written; then nothing is."""
        sources = self._sources(writer)
        types = self._types(writer, sources)
        encoder = self._encoder(sources, types)
        layouts = [layout for layout, _ in self._layouts(writer, sources, types)]
        pairs = {output.path: self._earlier[output.quantization] for output in self._outputs}
        reuse = self.reuse
        if reuse is None or reuse.files is None:
            return False

        def name(source: TensorSource, rows: Rows, first_row: int) -> None:
            encoder.name(source, rows, [chosen[source.name] for chosen in types], first_row)

        found = hash_files(list(pairs.values()), layouts, sources, name, self._threads)
        keys = [reuse.files.of(index, layout.header) for index, layout in enumerate(layouts)]
        if not found or found != [None if key is None else recall(cache, key) for key in keys]:
            return False
        self.taken_whole = True
        self.written = [
            Written(layout.file_type, path, layout.size, sha256, _count_types(layout))
            for layout, path, sha256 in zip(layouts, pairs, found, strict=True)
        ]
        reuse.took_files(sum(layout.size for layout in layouts))
        weights = sum(source.weights for source in sources)
        self._progress(weights, weights, sources[-1].name)
        return True

    def _remember(self, headers: Sequence[bytes]) -> None:
        """Keep what the written files are, for a build that would write them again."""
        if self._cache is None or self.reuse is None or self.reuse.files is None:
            return
        for index, (header, file) in enumerate(zip(headers, self.written, strict=True)):
            key = self.reuse.files.of(index, header)
            if key is not None:
                remember(self._cache, key, file.size, file.sha256)

    def _still_valid(self, writer: Any) -> _Begun | None:
        """What was begun, unless the converter changed a tensor or a type since."""
        begun = self._begun
        if begun is None:
            return None
        infos = writer.tensors[0]
        same = infos.keys() == begun.infos.keys() and all(infos[name] is begun.infos[name] for name in infos)
        if same and self._types(writer, begun.sources) == begun.types:
            return begun
        self.close()
        return None

    def _sources(self, writer: Any) -> list[TensorSource]:
        """The writer's tensors, in file order."""
        infos = _only_file(writer)
        return [TensorSource(name, infos[name]) for name in sorted(infos, key=file_order)]

    def _types(self, writer: Any, sources: Sequence[TensorSource]) -> list[Types]:
        traits = traits_of(writer.arch, writer.kv_data[0])
        shapes = [TensorShape(source.name, source.dimensions, source.columns) for source in sources]
        all_types: list[Types] = []
        for output in self._outputs:
            chosen = choose_types(output.quantization, shapes, traits, has_imatrix=self._imatrix is not None)
            types: dict[str, TensorType] = {}
            for source in sources:
                if not source.encoded:
                    own = chosen[source.name]
                    types[source.name] = TensorType(int(source.stored_type)) if own is None else own
            all_types.append(types)
        return all_types

    def _layouts(
        self, writer: Any, sources: Sequence[TensorSource], types: Sequence[Types]
    ) -> list[tuple[FileLayout, Output]]:
        pairs = self._pairs(writer.kv_data[0])
        return [
            (plan_file(output.quantization, sources, chosen, pairs, writer._pack_val, self._imatrix), output)
            for output, chosen in zip(self._outputs, types, strict=True)
        ]

    def _pairs(self, own: Mapping[str, Any]) -> dict[str, Any]:
        pairs = dict(own)
        # the converter fills this list from a set: its order would change from run to run
        names = pairs.get("tokenizer.chat_templates")
        if names is not None and not isinstance(names, PackedValue):
            names.value = sorted(names.value)
        for key, value in self._overrides.items():
            pairs[key] = gguf.gguf_writer.GGUFValue(value, _value_type(value))
        return pairs

    def _fill(
        self, stream: TensorStream, layouts: Sequence[FileLayout], files: Sequence[OutputFile]
    ) -> list[Written]:
        with ThreadPoolExecutor(len(files), thread_name_prefix="write") as pool:
            tasks = [
                pool.submit(_fill_file, stream, index, layout, file)
                for index, (layout, file) in enumerate(zip(layouts, files, strict=True))
            ]
            wait(tasks, return_when=FIRST_EXCEPTION)
            failed = next((task for task in tasks if task.done() and task.exception() is not None), None)
            if failed is not None:
                stream.close()  # the other writers wait for blocks that will not come
                failed.result()
            return [task.result() for task in tasks]


class ProjectorSink(TensorSink):
    """Writes the one file of a vision tower as the converter would: its order, its types, its header."""

    def name_type(self, file_type: str) -> None:
        """What the converter chose: ``"F16"`` or ``"BF16"``."""
        (output,) = self._outputs
        self._outputs = [Output(file_type, output.path)]

    def _sources(self, writer: Any) -> list[TensorSource]:
        return [TensorSource(name, info) for name, info in _only_file(writer).items()]

    def _types(self, writer: Any, sources: Sequence[TensorSource]) -> list[Types]:  # noqa: ARG002 - theirs
        return [
            {source.name: TensorType(int(source.stored_type)) for source in sources if not source.encoded}
        ]

    def _layouts(
        self, writer: Any, sources: Sequence[TensorSource], types: Sequence[Types]
    ) -> list[tuple[FileLayout, Output]]:
        (output,) = self._outputs
        pairs = writer.kv_data[0]
        return [
            (
                plan_file(output.quantization, sources, types[0], pairs, writer._pack_val, as_given=True),
                output,
            )
        ]


def _fill_file(stream: TensorStream, index: int, layout: FileLayout, file: OutputFile) -> Written:
    file.append(layout.header)
    tensor = None
    for block in stream.blocks(index):
        if block.tensor != tensor:
            tensor = block.tensor
            file.pad_to(layout.placements[tensor].offset)
        file.append(block.data)
    file.pad_to(layout.size)
    return Written(layout.file_type, file.path, layout.size, file.finish(), _count_types(layout))


def _only_file(writer: Any) -> Mapping[str, Any]:
    if len(writer.tensors) != 1:
        raise ConversionError("The vendored converter split its output; ggufpack needs one file.")
    infos: Mapping[str, Any] = writer.tensors[0]
    return infos


def _value_type(value: str | bool | int) -> gguf.GGUFValueType:
    if isinstance(value, bool):
        return gguf.GGUFValueType.BOOL
    return gguf.GGUFValueType.UINT32 if isinstance(value, int) else gguf.GGUFValueType.STRING


def _count_types(layout: FileLayout) -> dict[str, int]:
    types = Counter(placement.tensor_type.name for placement in layout.placements.values())
    return dict(sorted(types.items()))


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
