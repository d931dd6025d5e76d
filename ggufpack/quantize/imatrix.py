"""Importance matrices: how much each column of a weight matters to the quantiser.

What ``llama-imatrix`` writes, used by llama.cpp's rules (tools/quantize/quantize.cpp
``load_imatrix``; src/llama-quant.cpp). The formats are in ``imatrix_files``. numpy only.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ggufpack.errors import ImportanceMatrixError, UsageError
from ggufpack.packages import sha256_of
from ggufpack.quantize.imatrix_files import DamagedFileError, Floats, read_contents

# llama-quantize goes through a buffer of 128 bytes (llama_model_kv_override::val_str)
_TEXT_BYTES = 127
# the one tensor whose size may differ (tensor_name_match_token_embd)
_EMBEDDINGS = frozenset({"token_embd.weight", "per_layer_token_embd.weight"})
_MADE_FOR_THIS = "Use the file that llama-imatrix made for this model."


@dataclass(frozen=True)
class ImportanceMatrix:
    """An importance matrix that was read and checked.

    Attributes:
        path: where it came from.
        sha256: of the file.
        entries: tensor name to mean squared activations, float32, (experts * columns,): finite and
            not negative.
        chunks: how many pieces of text it was computed on; 0 where the file does not say.
        datasets: names of these texts, as bytes.
    """

    path: Path
    sha256: str
    entries: Mapping[str, Floats]
    chunks: int
    datasets: tuple[bytes, ...]

    def for_tensor(self, name: str, shape: Sequence[int]) -> Floats | None:
        """The importance of a tensor's columns, one row an expert.

        Args:
            name: the tensor's.
            shape: outermost first: (rows, columns) or (experts, rows, columns).

        Returns:
            float32 (experts, columns); ``None`` where the matrix has no entry, which llama.cpp
            lets pass, and for token embeddings where its size differs, which it lets pass as well.

        Raises:
            ImportanceMatrixError: the entry of any other tensor is of another size.
        """
        values = self.entries.get(name)
        if values is None:
            return None
        columns, experts = shape[-1], shape[-3] if len(shape) > 2 else 1
        if values.size == columns * experts:
            return values.reshape(experts, columns)
        if name in _EMBEDDINGS:
            return None
        raise ImportanceMatrixError(
            f"{self.path}: {name} has {values.size} values and would need {columns * experts}.",
            action=_MADE_FOR_THIS,
            path=self.path,
            key=name,
        )

    def check_model(self, names: Iterable[str]) -> None:
        """Refuse a matrix that names none of a model's tensors; llama.cpp would use it for nothing.

        Raises:
            ImportanceMatrixError: there is no such name.
        """
        if self.entries.keys().isdisjoint(names):
            raise ImportanceMatrixError(
                f"{self.path} has no entry for any tensor of this model.",
                action=_MADE_FOR_THIS,
                path=self.path,
            )

    def header_values(self) -> dict[str, bytes | int]:
        """The keys that ``llama-quantize`` adds to a file, in its order: text, or unsigned 32 bits.

        Of the path only the name: no file should tell where its maker kept things. Texts end after
        127 bytes, as llama-quantize cuts them, even within a character.
        """
        values: dict[str, bytes | int] = {"file": os.fsencode(self.path.name)[:_TEXT_BYTES]}
        if self.datasets:
            values["dataset"] = self.datasets[0][:_TEXT_BYTES]
        values["entries_count"] = len(self.entries)
        if self.chunks:
            values["chunks_count"] = self.chunks
        return {f"quantize.imatrix.{key}": value for key, value in values.items()}

    def to_json(self) -> dict[str, object]:
        """As it stands in the record."""
        return {
            "file": self.path.name,
            "sha256": self.sha256,
            "entries": len(self.entries),
            "chunks": self.chunks,
            "datasets": [name.decode(errors="replace") for name in self.datasets],
        }


def load_imatrix(path: Path) -> ImportanceMatrix:
    """Read and check an importance matrix, GGUF or legacy.

    Raises:
        UsageError: there is no such file.
        ImportanceMatrixError: it is not an importance matrix, damaged, or holds NaN, infinity or a
            negative mean.
    """
    try:
        # before it is opened: a pipe would wait for its other end
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"--imatrix {path}: this is not a file.", path=path, key="imatrix")
        with path.open("rb") as file:
            contents = read_contents(file, os.fstat(file.fileno()).st_size)
            _check_values(contents.entries)
            file.seek(0)
            digest = sha256_of(file)
    except OSError as error:
        why = error.strerror or str(error)
        raise UsageError(
            f"--imatrix {path}: it cannot be read: {why}.",
            action="Check the path.",
            path=path,
            key="imatrix",
        ) from error
    except DamagedFileError as error:
        raise ImportanceMatrixError(
            f"{path} is not a usable importance matrix: {error}.",
            action="Give a file as llama-imatrix writes it, whole (GGUF, or the older .dat).",
            path=path,
        ) from error
    return ImportanceMatrix(path, digest, contents.entries, contents.chunks, contents.datasets)


def _check_values(entries: Mapping[str, Floats]) -> None:
    if not entries:
        raise DamagedFileError("it has no entries")
    for name, values in entries.items():
        if not np.isfinite(values).all():
            raise DamagedFileError(f"{name} holds NaN or infinity")
        if values.min() < 0:
            raise DamagedFileError(f"{name} holds a negative mean of squares")
