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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from ggufpack.convert.values import F16_MAX
from ggufpack.quantize.imatrix_files import Floats
from ggufpack.quantize.kernels import BYTES_VERSION, REFERENCE, Encoded
from ggufpack.quantize.types import TensorType
from ggufpack.spec import Reused
from ggufpack.tensor_cache import TensorCache

# encoding fewer is as fast as reading a file
LEAST_WEIGHTS = 1 << 15
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
    """

    def __init__(self, cache: TensorCache, kernels: str, importance: Mapping[str, Floats]) -> None:
        self._cache = cache
        self._kernels = kernels
        self._importance = {name: (len(values), _digest(values)) for name, values in importance.items()}
        self._encoders = f"{BYTES_VERSION} {version('libggml-python')}"
        self._seen: set[str] = set()
        self._encoded: set[str] = set()
        self._counted = Reused(0, 0, 0, 0, 0)
        self._lock = threading.Lock()

    def keys(self, chunk: Chunk, outputs: Sequence[Output]) -> dict[TensorType, bytes]:
        """Keys of the outputs that are worth keeping; each type once."""
        kinds = {kind for kind, _ in outputs if self._is_worth_it(chunk, kind)}
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
            return
        stored = sum(self._cache.store(keys[kind], kind.name, out) for kind, out in encoded if kind in keys)
        with self._lock:
            self._counted = replace(self._counted, stored=self._counted.stored + stored)

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
        if reused.of:
            found.append(f"{reused.tensors} of {reused.of} quantised tensors from the cache")
        if reused.damaged:
            found.append(
                f"{self._cache.folder}: {reused.damaged} damaged blocks were removed, and encoded again"
            )
        if self._cache.refused is not None:
            found.append(self._cache.refused)
        return found

    def _is_worth_it(self, chunk: Chunk, kind: TensorType) -> bool:
        if kind.is_float or chunk.weights.size < LEAST_WEIGHTS:
            return False
        # an importance matrix is the reference kernels' work
        return kind in _SLOW or self._kernels == REFERENCE or chunk.tensor in self._importance


def _digest(values: npt.NDArray[Any]) -> str:
    return blake3(values.reshape(-1).view(np.uint8).data).hexdigest()
