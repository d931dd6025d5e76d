"""Small training outputs, and an executor that makes small packages at once."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ggufpack.batch.existing import result_of
from ggufpack.batch.items import Item, ItemHandler, Outcome
from ggufpack.package_folder import RECORD_NAME, check_free, package_folder
from ggufpack.spec import BuildSpec, Stage, StageFinished, StageStarted
from ggufpack.target import target_of


def write_checkpoint(folder: Path, fill: bytes = b"\0") -> Path:
    """A folder that opens: a config and one tensor of four float32."""
    folder.mkdir(parents=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 4, "hidden_size": 4}
    (folder / "config.json").write_text(json.dumps(config))
    write_weights(folder, fill)
    return folder


def write_weights(folder: Path, fill: bytes) -> None:
    """A weights file whose 16 bytes of data are all ``fill``."""
    tensor = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    header = json.dumps({"model.norm.weight": tensor}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + fill * 16)


def training(folder: Path, *steps: int, state: bool = False) -> Path:
    """A training output with ``checkpoint-N`` folders."""
    for step in steps:
        checkpoint = write_checkpoint(folder / f"checkpoint-{step}")
        if state:
            (checkpoint / "trainer_state.json").write_text("{}")
    return folder


def small_spec(output: Path) -> BuildSpec:
    """Options that ``small_package`` follows."""
    return BuildSpec(Path(), quantizations=("F16",), register=False, output=output)


class SmallExecutor:
    """Puts a package of a few bytes where a build would; then calls ``spoil``."""

    def __init__(self, spoil: Callable[[Item], None] | None = None) -> None:
        self.built: list[str] = []
        self.spoil = spoil

    def run(self, items: Sequence[Item], on_event: ItemHandler) -> Iterator[Outcome]:
        for item in items:
            self.built.append(item.key)
            on_event(item.key, StageStarted(Stage.CONVERSION, "Converting"))
            result = small_package(item)
            on_event(item.key, StageFinished(Stage.CONVERSION, 0.5))
            if self.spoil is not None:
                self.spoil(item)
            yield Outcome(item.key, "unverified", result, None, 0.1)


def small_package(item: Item, before_publish: Callable[[Path], None] | None = None) -> dict[str, Any]:
    """A package as a build leaves it; ``BuildResult.to_json()``."""
    spec, target = item.spec, target_of(item.spec)
    check_free(target.folder, overwrite=spec.overwrite)
    weights = (spec.checkpoint / "model.safetensors").read_bytes()
    with package_folder(target.folder, spec.token) as folder:
        (quantization,) = spec.quantizations
        gguf, modelfile = target.file_name(quantization), target.modelfile_name(quantization)
        (folder.working / gguf).write_bytes(weights)
        (folder.working / modelfile).write_text("FROM x")
        result = {
            "status": "unverified",
            "name": target.name,
            "files": [
                {
                    "quantization": quantization,
                    "path": gguf,
                    "size": len(weights),
                    "sha256": hashlib.sha256(weights).hexdigest(),
                }
            ],
            "modelfiles": {quantization: modelfile},
            "registered": [],
            "verifications": [],
        }
        record = {"token": spec.token, "result": result}
        (folder.working / RECORD_NAME).write_text(json.dumps(record))
        if before_publish is not None:
            before_publish(folder.working)
        folder.publish()
    return result_of(record, target.folder)
