"""What the parent asks of the worker (``ggufpack.child``): one ``Job`` a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """One checkpoint to convert.

    Attributes:
        checkpoint: the folder.
        outputs: (file type, temporary path) of each file to write.
        intermediate: ``"f32"``, ``"f16"`` or ``"bf16"``: the converter's own output precision.
        config: keys that are added to config.json for the conversion.
        overrides: key-value pairs (text, boolean, unsigned 32-bit) that replace those in the GGUF.
        trust_remote_code: whether the checkpoint's own Python code may run.
        allowed: finding ids of value problems that are accepted.
        threads: encoder threads.
        plan_only: lay the files out, write nothing.
        imatrix: importance matrix file, absolute.
        cache: folder of the tensor cache, absolute; ``None`` encodes everything.
        earlier: (file type, path) of the files of a package that this one replaces, if they are there.
        projector: temporary path of the vision tower's file; ``None`` writes none.
        merge: what adapters do to the tensors (``checkpoint.merge.Merge``) as JSON data.
        layer: the one output is this adapter (``checkpoint.adapter_layer.AdapterLayer``, as JSON data) as a
            GGUF LoRA, not the model.
    """

    checkpoint: Path
    outputs: tuple[tuple[str, Path], ...]
    intermediate: str
    config: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, str | bool | int] = field(default_factory=dict)
    trust_remote_code: bool = False
    allowed: tuple[str, ...] = ()
    threads: int = 1
    plan_only: bool = False
    imatrix: Path | None = None
    cache: Path | None = None
    earlier: tuple[tuple[str, Path], ...] = ()
    projector: Path | None = None
    merge: Mapping[str, Any] | None = None
    layer: Mapping[str, Any] | None = None

    def to_line(self) -> bytes:
        """As it goes through the pipe."""
        return json.dumps(asdict(self), default=str).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Job:
        """Back from the pipe."""
        data: dict[str, Any] = json.loads(line)
        imatrix, cache, projector = (
            None if data[name] is None else Path(data[name]) for name in ("imatrix", "cache", "projector")
        )
        for name in ("imatrix", "cache", "projector"):
            del data[name]
        outputs, earlier = (
            tuple((str(quantization), Path(path)) for quantization, path in data.pop(name))
            for name in ("outputs", "earlier")
        )
        return cls(
            checkpoint=Path(data.pop("checkpoint")),
            outputs=outputs,
            earlier=earlier,
            allowed=tuple(data.pop("allowed")),
            imatrix=imatrix,
            cache=cache,
            projector=projector,
            **data,
        )
