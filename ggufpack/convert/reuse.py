"""Worker side: which encoded blocks are taken from the tensor cache and put there.

The unit is the stream's chunk, for one tensor type. Its key is a digest of everything that its bytes
depend on: the values themselves, in the dtype they are read in, and how they are encoded. Where the
values come from (file, tensor, recipe) is no part of it, so whatever is equal is shared. Which kernels
run is no part of it either: the bytes are the same.

Nothing is stored that needs a check (``values``): a block with NaN, infinities or values beyond F16 is
encoded, and judged by what is allowed, every time.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from ggufpack.convert.file_keys import FileKeys
from ggufpack.convert.values import F16_MAX
from ggufpack.quantize.imatrix_files import Floats
from ggufpack.quantize.kernels import BYTES_VERSION, REFERENCE, Encoded
from ggufpack.quantize.types import TensorType
from ggufpack.spec import Reused
from ggufpack.tensor_cache import TensorCache

# encoding fewer is as fast as reading a file
LEAST_WEIGHTS = 1 << 15
# of all weights: where fewer are hashed for their blocks, hashing the others for the file takes too long
LEAST_HASHED = 0.9
# the native kernels encode the other types as fast as a block is hashed and read (benchmarks.kernels)
_SLOW = frozenset(
    {
        *(TensorType.Q2_K, TensorType.Q3_K, TensorType.Q4_K, TensorType.Q5_K, TensorType.Q6_K),
        *(TensorType.IQ4_NL, TensorType.IQ4_XS),
    }
)

Output = tuple[TensorType, Encoded]


@dataclass(frozen=True)
class Chunk:
    """Whole rows of one tensor, and how they are encoded.

    Attributes:
        tensor: name in the file.
        weights: contiguous, in memory as the source dtype has them.
        source, middle: as ``Kernels.encode`` takes them.
        columns: weights in a row.
        first_row: where the chunk begins in the tensor, all experts counted.
        rows_per_expert: of the tensor.
    """

    tensor: str
    weights: npt.NDArray[Any]
    source: TensorType
    middle: TensorType
    columns: int
    first_row: int
    rows_per_expert: int


class Reuse:
    """One job's use of the tensor cache. Safe in threads.

    Args:
        cache: the cache.
        kernels: name of the kernels in use.
        importance: float32 (experts, columns) of the tensors that have any.

    Attributes:
        files: keys of whole files (``convert.file_keys``); ``None`` where they are not gathered.
    """

    def __init__(self, cache: TensorCache, kernels: str, importance: Mapping[str, Floats]) -> None:
        self.files: FileKeys | None = None
        self._cache = cache
        self._kernels = kernels
        self._importance = {name: (len(values), _digest(values)) for name, values in importance.items()}
        self._encoders = f"{BYTES_VERSION} {version('libggml-python')}"
        self._seen: set[str] = set()
        self._encoded: set[str] = set()
        self._counted = Reused(0, 0, 0, 0, 0)
        self._whole = False
        self._lock = threading.Lock()

    def gather_files(self, types: Sequence[Mapping[str, TensorType]], weights: Mapping[str, int]) -> None:
        """Gather keys of whole files, where nearly all of the source is hashed in any case.

        Args:
            types: of each output: what each tensor is encoded as.
            weights: of each tensor.
        """
        total = sum(weights.values())
        for chosen in types:
            hashed = sum(weights[name] for name, kind in chosen.items() if self._is_slow(name, kind))
            if chosen.keys() != weights.keys() or hashed < LEAST_HASHED * total:
                return
        self.files = FileKeys()

    def keys(self, chunk: Chunk, kinds: Sequence[TensorType]) -> dict[TensorType, bytes]:
        """Keys of the types that are worth keeping; each once."""
        kept = {kind for kind in kinds if self._is_worth_it(chunk, kind)}
        if self.files is None:
            return self._keys(chunk, kept)
        keys = self._keys(chunk, set(kinds))
        self.files.add(chunk.tensor, chunk.first_row, [keys[kind] for kind in kinds])
        return {kind: keys[kind] for kind in kept}

    def _keys(self, chunk: Chunk, kinds: Collection[TensorType]) -> dict[TensorType, bytes]:
        if not kinds:
            return {}
        importance: tuple[object, ...] | None = None
        if chunk.tensor in self._importance:
            experts, digest = self._importance[chunk.tensor]
            importance = (digest, chunk.rows_per_expert, chunk.first_row) if experts > 1 else (digest,)
        how = (chunk.source.name, chunk.middle.name, chunk.weights.size, chunk.columns, importance)
        values = _digest(chunk.weights)
        return {
            kind: blake3(repr((self._encoders, kind.name, how, values)).encode()).digest() for kind in kinds
        }

    def take(self, chunk: Chunk, outputs: Sequence[Output], keys: Mapping[TensorType, bytes]) -> list[Output]:
        """Fill what the cache has; the outputs that it has not."""
        missing, taken = [], 0
        for kind, out in outputs:
            if kind in keys and self._cache.read(keys[kind], kind.name, out):
                taken += out.nbytes
            else:
                missing.append((kind, out))
        with self._lock:
            if keys:
                self._seen.add(chunk.tensor)
            if any(kind in keys for kind, _ in missing):
                self._encoded.add(chunk.tensor)
            self._counted = replace(self._counted, bytes=self._counted.bytes + taken)
        return missing

    def keep(self, encoded: Sequence[Output], keys: Mapping[TensorType, bytes], largest: float) -> None:
        """Store what was encoded.

        Args:
            encoded: what ``take`` left.
            keys: of ``keys``.
            largest: the largest magnitude in the chunk; NaN where there is one.
        """
        if not largest <= F16_MAX:
            if self.files is not None:
                self.files.judged()
            return
        stored = sum(self._cache.store(keys[kind], kind.name, out) for kind, out in encoded if kind in keys)
        with self._lock:
            self._counted = replace(self._counted, stored=self._counted.stored + stored)

    def name(self, chunk: Chunk, kinds: Sequence[TensorType]) -> None:
        """``keys``, for a file that is taken whole."""
        if self.keys(chunk, kinds):
            with self._lock:
                self._seen.add(chunk.tensor)

    def took_files(self, size: int) -> None:
        """Whole files of ``size`` bytes were taken."""
        self._whole = True
        self._counted = replace(self._counted, bytes=size)

    def reused(self) -> Reused:
        """What was reused so far. A tensor counts when all of its blocks were."""
        return replace(
            self._counted,
            tensors=len(self._seen - self._encoded),
            of=len(self._seen),
            damaged=self._cache.damaged,
        )

    def notes(self) -> list[str]:
        """Sentences for the person who watches."""
        reused = self.reused()
        found = []
        if self._whole:
            found.append("the earlier package's files were taken whole: these tensors make the same bytes")
        elif reused.of:
            found.append(f"{reused.tensors} of {reused.of} quantised tensors from the cache")
        if reused.damaged:
            found.append(
                f"{self._cache.folder}: {reused.damaged} damaged blocks were removed, and encoded again"
            )
        if self._cache.refused is not None:
            found.append(self._cache.refused)
        return found

    def _is_worth_it(self, chunk: Chunk, kind: TensorType) -> bool:
        return chunk.weights.size >= LEAST_WEIGHTS and self._is_slow(chunk.tensor, kind)

    def _is_slow(self, tensor: str, kind: TensorType) -> bool:
        # an importance matrix is the reference kernels' work
        slow = kind in _SLOW or self._kernels == REFERENCE or tensor in self._importance
        return slow and not kind.is_float


def _digest(values: npt.NDArray[Any]) -> str:
    return blake3(values.reshape(-1).view(np.uint8).data).hexdigest()
