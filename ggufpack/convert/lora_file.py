"""Worker side: writes an adapter as a GGUF LoRA with llama.cpp's own ``convert_lora_to_gguf.py``.

The vendored script runs unmodified, as on the command line (llama.cpp b11434; its model class is made inside
``if __name__ == "__main__"``), in this process and under its guards. It sees an ordinary adapter folder: a
private one, with the alpha of ``checkpoint.adapter_layer`` and, where that says so, with scaled factors.
Values are F32: exact whatever the adapter's dtype is, and the engine does not round activations for them.
"""

from __future__ import annotations

import json
import logging
import os
import runpy
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ggufpack.checkpoint.adapter_layer import AdapterLayer
from ggufpack.checkpoint.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG
from ggufpack.convert.protocol import Job
from ggufpack.convert.sink import Written
from ggufpack.errors import AdapterError
from ggufpack.gguf_header import GgufHeader, read_gguf_header
from ggufpack.held import held_folder
from ggufpack.packages import sha256_of

SCRIPT = "convert_lora_to_gguf.py"
_A, _B = ".lora_a", ".lora_b"


def write_adapter(vendor: Path, job: Job, data: Mapping[str, Any]) -> Written:
    """Write the job's one file; with ``plan_only`` it is gone again when this returns.

    Args:
        vendor: the vendored folder.
        job: ``checkpoint`` is the base model's folder.
        data: an ``AdapterLayer`` as JSON data.

    Raises:
        AdapterError: NaN, infinity, or something that the script cannot write, or leaves out.
    """
    layer = AdapterLayer.from_json(data)
    ((quantization, path),) = job.outputs
    with held_folder("ggufpack-lora-") as scratch:
        adapter = _adapter_folder(layer, scratch)
        base = _base_folder(job, scratch)
        written = scratch / path.name if job.plan_only else path
        _run_script(
            vendor / SCRIPT, layer, ["--base", base, "--outtype", "f32", "--outfile", written, adapter]
        )
        header = read_gguf_header(written)
        _check_whole(layer, header)
        types = Counter(str(tensor.type_name) for tensor in header.tensors)
        if not job.plan_only:
            _sync(written)
        sha256 = "" if job.plan_only else sha256_of(written)
        return Written(quantization, path, written.stat().st_size, sha256, dict(sorted(types.items())))


# --- what the script sees -------------------------------------------------------


def _adapter_folder(layer: AdapterLayer, scratch: Path) -> Path:
    """Under the adapter's own name, which becomes the file's ``general.name``."""
    folder = scratch / "adapter" / layer.folder.name
    folder.mkdir(parents=True)
    (folder / ADAPTER_CONFIG).write_text(json.dumps({"lora_alpha": layer.alpha}), encoding="utf-8")
    stored = layer.folder / ADAPTER_WEIGHTS
    tensors = load_file(stored)
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise AdapterError(
                f"{stored}: {name} has NaN or infinity.",
                action="The training diverged: take an earlier checkpoint.",
                path=stored,
                key=name,
            )
    if layer.factors or layer.untrained:
        for name in layer.untrained:
            del tensors[name]
        for name, factor in layer.factors.items():
            tensors[name] = tensors[name].float() * factor
        save_file(tensors, folder / ADAPTER_WEIGHTS)
    else:
        (folder / ADAPTER_WEIGHTS).symlink_to(stored)
    return folder


def _base_folder(job: Job, scratch: Path) -> Path:
    """With the keys that the job adds to config.json."""
    if not job.config:
        return job.checkpoint
    folder = scratch / "base" / job.checkpoint.name
    folder.mkdir(parents=True)
    for file in job.checkpoint.iterdir():
        if file.name != CONFIG:
            (folder / file.name).symlink_to(file.resolve())
    config = json.loads((job.checkpoint / CONFIG).read_text(encoding="utf-8"))
    (folder / CONFIG).write_text(json.dumps({**config, **job.config}), encoding="utf-8")
    return folder


# --- the script -----------------------------------------------------------------


def _run_script(script: Path, layer: AdapterLayer, arguments: list[str | Path]) -> None:
    try:
        with _command_line([str(script), *map(str, arguments)]):
            runpy.run_path(str(script), run_name="__main__")
    except OSError:
        raise
    except (Exception, SystemExit) as error:
        logging.getLogger("ggufpack").exception("the adapter could not be written")
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise _cannot(layer, f"llama.cpp's LoRA converter cannot write it ({reason})") from error


@contextmanager
def _command_line(words: list[str]) -> Iterator[None]:
    """The script reads ``sys.argv``, and puts gguf-py on the path again."""
    before, path = sys.argv, list(sys.path)
    sys.argv = words
    try:
        yield
    finally:
        sys.argv, sys.path[:] = before, path


def _check_whole(layer: AdapterLayer, header: GgufHeader) -> None:
    """Whether every product is in the file: some model classes leave tensors out without a word.

    Splitting, stacking and joining modules, as model classes do, keeps the number of weights.
    """
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    written = 0
    for name, (_, outputs, *more) in ((name, shape) for name, shape in shapes.items() if name.endswith(_B)):
        count = shapes[f"{name.removesuffix(_B)}{_A}"][0] * outputs
        for size in more:
            count *= size
        written += count
    if written != layer.weights:
        raise _cannot(
            layer,
            f"llama.cpp's LoRA converter wrote factors of {written:,} weights, and the adapter has those of"
            f" {layer.weights:,}",
        )


def _cannot(layer: AdapterLayer, problem: str) -> AdapterError:
    return AdapterError(
        f"{layer.folder}: {problem}.",
        action=f"Merge it instead: ggufpack build BASE --adapter {layer.folder}",
        path=layer.folder,
    )


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
