"""All tensors of a checkpoint folder: one file, or shards with or without an index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ggufpack.checkpoint.findings import make_finding
from ggufpack.checkpoint.header import MAX_TENSORS, TensorInfo, read_header, too_many_tensors
from ggufpack.checkpoint.jsonfiles import MAX_INDEX_BYTES, read_object
from ggufpack.checkpoint.layout import INDEX, SINGLE_FILE, weight_files
from ggufpack.checkpoint.wording import some
from ggufpack.errors import CheckpointFileError, TensorFileError
from ggufpack.spec import Finding

_NAMED_SHARDS = 6  # in a message
_LONGEST_NAME = 255  # bytes that a file's name can have


@dataclass(frozen=True)
class TensorTable(Mapping[str, TensorInfo]):
    """Tensor name → where it is. Iterates in the order of the files, and of the data in them."""

    by_name: Mapping[str, TensorInfo]
    files: tuple[Path, ...]

    def __getitem__(self, name: str) -> TensorInfo:
        return self.by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_name)

    def __len__(self) -> int:
        return len(self.by_name)

    @property
    def dtypes(self) -> dict[str, int]:
        """Safetensors dtype → number of tensors, the most frequent first."""
        return dict(Counter(tensor.dtype for tensor in self.by_name.values()).most_common())

    @property
    def total_bytes(self) -> int:
        """Bytes of tensor data, headers not counted."""
        return sum(tensor.nbytes for tensor in self.by_name.values())

    @property
    def parameters(self) -> int:
        """Stored elements. In packed formats (MXFP4 in U8) fewer than the model's parameters."""
        return sum(tensor.elements for tensor in self.by_name.values())


def read_tensors(folder: Path) -> tuple[TensorTable, tuple[Finding, ...]]:
    """The tensors of a checkpoint folder (that :func:`~ggufpack.checkpoint.layout.locate` gave).

    Only headers are read. Which files count: those that ``model.safetensors.index.json`` names,
    otherwise every ``model*.safetensors``, as llama.cpp's converter has it
    (``conversion/base.py``, ``index_tensors``).

    Raises:
        TensorFileError: a damaged or missing file, the same tensor in two files, an index that
            does not match its shards, two sets of weights in one folder, no tensors at all, or more
            than ``header.MAX_TENSORS``.
    """
    index = folder / INDEX
    try:
        weight_map = _read_index(index) if index.exists() or index.is_symlink() else None
        names = weight_files(folder) if weight_map is None else sorted(set(weight_map.values()))
        present = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".safetensors"))
    except OSError as error:
        raise TensorFileError(f"{folder} cannot be read: {error.strerror or error}.", path=folder) from error
    _check_one_set(folder, names, weight_map is not None, present)
    table = _read_files(folder, names)
    findings: list[Finding] = []
    if weight_map is not None:
        findings += _compare_with_index(index, weight_map, table)
    elif len(names) > 1:
        findings.append(
            make_finding(
                "GP203",
                f"{len(names)} shards and no {INDEX}: a missing tensor cannot be noticed by its name.",
                path=folder,
                action=f"Copy {INDEX} from where the checkpoint was saved.",
            )
        )
    own = set(names)
    findings += [_stray(folder / name) for name in present if name not in own]
    if not table:
        raise TensorFileError(f"{folder} holds no tensor.", action="Save the checkpoint again.", path=folder)
    return table, tuple(findings)


def _read_index(path: Path) -> dict[str, str]:
    """``weight_map`` of the index: tensor name → file name, each a plain name inside the folder."""
    try:
        content = read_object(path, MAX_INDEX_BYTES)
    except CheckpointFileError as error:
        raise TensorFileError(error.problem, action=error.action, path=path, key=error.key) from error
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise TensorFileError(
            f"{path} has no weight_map object.",
            action="Save the checkpoint again.",
            path=path,
            key="weight_map",
        )
    for tensor, shard in weight_map.items():
        if not _is_plain_name(shard):
            raise TensorFileError(
                f"{path}: weight_map gives tensor {tensor!r} the file {shard!r}, "
                "which is not the name of a safetensors file in this folder.",
                action="Do not use this checkpoint unless you know where it comes from.",
                path=path,
                key=tensor,
            )
    return weight_map


def _is_plain_name(shard: object) -> bool:
    # Both separators whatever the system: the folder may be shared with another one
    return (
        isinstance(shard, str)
        and shard.endswith(".safetensors")
        and not any(character in shard for character in "/\\:\0")
        and shard.isprintable()
        and len(shard.encode()) <= _LONGEST_NAME
    )


def _check_one_set(folder: Path, names: list[str], indexed: bool, present: list[str]) -> None:
    """Every file there, and no second set of weights that another reader would prefer."""
    missing = _missing_files(folder, names) if indexed else _missing_shards(names)
    if missing.number:
        raise TensorFileError(
            f"{folder}: {missing.number} of {missing.promised} shards are missing: "
            f"{some(missing.names, of=missing.number)}.",
            action="Copy or download these files into the folder.",
            path=folder,
            key=missing.names[0],
        )
    if SINGLE_FILE in present and names != [SINGLE_FILE]:
        # transformers opens model.safetensors, the converter the index or all of them
        raise TensorFileError(
            f"{folder} holds two sets of weights: {SINGLE_FILE}, and "
            f"{INDEX if indexed else ', '.join(name for name in names if name != SINGLE_FILE)}.",
            action="Remove the set that is left over from an earlier save.",
            path=folder,
        )


class _Missing(NamedTuple):
    """Files that are not there: the first names, and the number of all, and of those that should be."""

    names: list[str]
    number: int
    promised: int


def _missing_files(folder: Path, names: list[str]) -> _Missing:
    absent = [name for name in names if not (folder / name).is_file()]
    return _Missing(absent, len(absent), len(names))


def _missing_shards(names: list[str]) -> _Missing:
    """What ``model-00001-of-00003.safetensors`` and its like promise, when there is no index.

    A name may promise any number of shards, so they are counted, and only the first ones named.
    """
    sets: dict[tuple[str, str, int], set[int]] = {}
    for name in names:
        head, separator, total = name.removesuffix(".safetensors").rpartition("-of-")
        stem, dash, number = head.rpartition("-")
        if separator and dash and _is_number(total) and _is_number(number) and int(number) <= int(total):
            sets.setdefault((stem, total, len(number)), set()).add(int(number))
    first: list[str] = []
    count = 0
    for (stem, total, width), present in sets.items():
        present.discard(0)
        absent = (shard for shard in range(1, int(total) + 1) if shard not in present)
        first += [
            f"{stem}-{shard:0{width}d}-of-{total}.safetensors"
            for shard in islice(absent, _NAMED_SHARDS - len(first))
        ]
        count += int(total) - len(present)
    return _Missing(first, count, len(names) + count)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _read_files(folder: Path, names: list[str]) -> TensorTable:
    by_name: dict[str, TensorInfo] = {}
    for name in names:
        tensors = read_header(folder / name)
        if len(by_name) + len(tensors) > MAX_TENSORS:
            raise too_many_tensors(folder)
        for tensor in tensors:
            other = by_name.setdefault(tensor.name, tensor)
            if other is not tensor:
                raise TensorFileError(
                    f"Tensor {tensor.name!r} is in two files of {folder}: {other.file.name} and {name}.",
                    action="Remove the shards that are left over from an earlier save.",
                    path=folder / name,
                    key=tensor.name,
                )
    return TensorTable(by_name, tuple(folder / name for name in names))


def _compare_with_index(index: Path, weight_map: Mapping[str, str], table: TensorTable) -> list[Finding]:
    missing = sorted(weight_map.keys() - table.keys())
    if missing:
        raise TensorFileError(
            f"{index} promises {len(missing)} tensors that no shard has: {some(missing)}.",
            action="Copy the shards again, or save the checkpoint again.",
            path=index,
            key=missing[0],
        )
    extra = sorted(table.keys() - weight_map.keys())
    if extra:
        raise TensorFileError(
            f"The shards have {len(extra)} tensors that {index} does not name: {some(extra)}.",
            action="Copy the index that belongs to these shards, or save the checkpoint again.",
            path=index,
            key=extra[0],
        )
    misplaced = sorted(name for name, shard in weight_map.items() if table[name].file.name != shard)
    if not misplaced:
        return []
    return [
        make_finding(
            "GP204",
            f"The index names the wrong shard for {len(misplaced)} tensors: {some(misplaced)}.",
            path=index,
            key=misplaced[0],
            action="Save the checkpoint again; programs that follow the index cannot load it.",
        )
    ]


def _stray(path: Path) -> Finding:
    return make_finding(
        "GP205",
        f"{path.name} is not part of this checkpoint and is left out.",
        path=path,
        action="Move it away if it does not belong there.",
    )
