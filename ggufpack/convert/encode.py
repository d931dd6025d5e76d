"""Worker side: one chunk of a tensor, encoded for every output and checked, or taken from the cache."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch

from ggufpack.convert.importance import encode_with_importance
from ggufpack.convert.mapped import Scratch
from ggufpack.convert.reuse import Chunk, Output, Reuse
from ggufpack.convert.sources import FLOAT_OF_TYPE, Rows, TensorSource
from ggufpack.convert.values import check_encoded, check_source
from ggufpack.quantize.imatrix_files import Floats
from ggufpack.quantize.kernels import Encoded, Kernels
from ggufpack.quantize.types import TensorType

# as numpy sees a view: it has no bfloat16
_AS_NUMPY = {torch.float32: torch.float32, torch.float16: torch.float16, torch.bfloat16: torch.int16}
_SOURCE_TYPE = {dtype: TensorType(int(kind)) for kind, dtype in FLOAT_OF_TYPE.items()}


class Encoder:
    """Encodes chunks. Safe in threads.

    Args:
        kernels: the encoders.
        importance: float32 (experts, columns) of the tensors that have any.
        allowed: finding ids of value problems that are accepted (``values``).
        reuse: the tensor cache; ``None`` encodes everything.
    """

    def __init__(
        self,
        kernels: Kernels,
        importance: Mapping[str, Floats],
        allowed: Collection[str],
        reuse: Reuse | None,
    ) -> None:
        self._kernels = kernels
        self._importance = importance
        self._allowed = allowed
        self._reuse = reuse
        self._scratch = Scratch()

    def encode(
        self, source: TensorSource, rows: Rows, types: Sequence[TensorType], first_row: int
    ) -> list[Encoded]:
        """The blocks of ``rows``, one for each of ``types``.

        Args:
            source: the tensor.
            rows: whole rows of it.
            types: of the outputs.
            first_row: where ``rows`` begins in the tensor, all experts counted.

        Raises:
            TensorValueError: a value cannot be written as trained.
            ImportanceMatrixError: the importance overflows.
        """
        outputs = [(kind, np.empty(kind.size(rows.view.numel()), dtype=np.uint8)) for kind in types]
        view, chunk = self._read(source, rows, first_row)
        keys = {} if self._reuse is None else self._reuse.keys(chunk, types)
        missing = outputs if self._reuse is None else self._reuse.take(chunk, outputs, keys)
        if missing:
            largest = self._encode(chunk, missing)
            check_source(source.name, largest, view, FLOAT_OF_TYPE[source.stored_type], self._allowed)
            for kind, encoded in missing:
                check_encoded(source.name, encoded, kind, largest, self._kernels, self._allowed)
            if self._reuse is not None:
                self._reuse.keep(missing, keys, largest)
        return [encoded for _, encoded in outputs]

    def name(self, source: TensorSource, rows: Rows, types: Sequence[TensorType], first_row: int) -> None:
        """Only the keys of these blocks, for whole files. Arguments as ``encode``."""
        assert self._reuse is not None  # noqa: S101 - whole files are taken through it
        self._reuse.name(self._read(source, rows, first_row)[1], types)

    def _read(self, source: TensorSource, rows: Rows, first_row: int) -> tuple[torch.Tensor, Chunk]:
        """The values, valid until the thread reads others."""
        # what the converter's 16-bit file would hold, so that both ways give the same bytes
        stored = FLOAT_OF_TYPE[source.stored_type]
        with torch.inference_mode():
            view = rows.parts.copied(rows.view, self._scratch)
            weights = view.view(_AS_NUMPY[view.dtype]).numpy()
        return view, Chunk(
            tensor=source.name,
            weights=weights,
            source=_SOURCE_TYPE[view.dtype],
            middle=TensorType.F32 if stored is view.dtype else TensorType(int(source.stored_type)),
            columns=source.columns,
            first_row=first_row,
            rows_per_expert=source.shape[-2] if len(source.shape) > 1 else 1,
        )

    def _encode(self, chunk: Chunk, outputs: Sequence[Output]) -> float:
        importance = self._importance.get(chunk.tensor)
        if importance is None:
            return self._kernels.encode(
                chunk.weights, chunk.source, chunk.columns, outputs, middle=chunk.middle
            )
        return encode_with_importance(
            self._kernels,
            chunk.weights,
            chunk.source,
            outputs,
            middle=chunk.middle,
            importance=importance,
            rows_per_expert=chunk.rows_per_expert,
            first_row=chunk.first_row,
            name=chunk.tensor,
        )
