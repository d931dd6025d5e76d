"""Package folders without a conversion: real records and Modelfiles, GGUFs of random bytes."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ggufpack.modelfile.model import Modelfile
from ggufpack.modelfile.render import render
from tests.support.records import record

MODELFILE = Modelfile(
    from_="",
    template='{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}"',
    system='You answer in "quotes"\nand two lines, with ünïcödé.',
    parameters=(
        ("stop", "<|im_end|>"),
        ("stop", "<|im_start|>"),
        ("num_ctx", "8192"),
        ("temperature", "0.7"),
        ("top_k", "40"),
        ("use_mmap", "true"),
    ),
    license=("Apache License\nVersion 2.0",),
)


def make_package(
    folder: Path,
    types: Sequence[str] = ("Q8_0", "Q4_K_M"),
    *,
    modelfiles: Mapping[str, Modelfile] | None = None,
    wrong: Sequence[str] = (),
    size: int = 200_000,
) -> dict[str, Any]:
    """Write a package; returns its record. ``wrong``: types that failed their verification."""
    folder.mkdir()
    made = record(types, wrong=wrong)
    digests = made["result"]["modelfile_sha256"] = {}
    for index, file in enumerate(made["result"]["files"]):
        content = random.Random(index).randbytes(size)
        (folder / file["path"]).write_bytes(content)
        file |= {"size": size, "sha256": hashlib.sha256(content).hexdigest()}
        kind = file["quantization"]
        modelfile = (modelfiles or {}).get(kind, MODELFILE)
        text = render(Modelfile(**{**vars(modelfile), "from_": f"./{file['path']}"}))
        (folder / made["result"]["modelfiles"][kind]).write_bytes(text.encode())
        digests[kind] = hashlib.sha256(text.encode()).hexdigest()
    write_record(folder, made)
    return made


def write_record(folder: Path, made: Mapping[str, Any]) -> None:
    """Write ``ggufpack.json``."""
    (folder / "ggufpack.json").write_text(json.dumps(made), encoding="utf-8")
