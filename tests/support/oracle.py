"""The oracle: llama.cpp's own two steps. Its converter at source precision, then its quantiser."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.support.llama_cpp import llama_cpp_source, llama_programs

_STEP_SECONDS = 600


class OracleError(Exception):
    """One of the two steps failed; the text is its output's end."""


def convert(checkpoint: Path, target: Path, outtype: str = "auto", *, projector: bool = False) -> Path:
    """``convert_hf_to_gguf.py`` as its users run it.

    Args:
        checkpoint: a Hugging Face folder.
        target: the GGUF to write.
        outtype: ``auto`` (F16 or BF16, as the checkpoint is stored), ``f32``, ``f16``, ``bf16``, ``q8_0``.
        projector: the vision tower (``--mmproj``) in place of the text model.

    Raises:
        OracleError: the converter refused.
    """
    source = llama_cpp_source()
    # gguf-py beside the script is used unless this variable exists, even when it is empty
    env = {name: value for name, value in os.environ.items() if name != "NO_LOCAL_GGUF"}
    script = str(source / "convert_hf_to_gguf.py")
    command = [sys.executable, script, str(checkpoint), "--outtype", outtype, "--outfile", str(target)]
    _run([*command, *(["--mmproj"] if projector else [])], {**env, "HF_HUB_OFFLINE": "1"})
    return target


def quantize(source: Path, target: Path, quantization: str, imatrix: Path | None = None) -> Path:
    """``llama-quantize`` from one GGUF to another; also for F32, F16 and BF16.

    Args:
        source, target: absolute paths.
        quantization: a name that it knows.
        imatrix: importance matrix. Its path as given goes into the file, so its folder is the current
            one here and only its name is given.

    Raises:
        OracleError: the quantiser refused.
    """
    options = [] if imatrix is None else ["--imatrix", imatrix.name]
    command = [str(llama_programs() / "llama-quantize"), *options, str(source), str(target), quantization]
    _run(command, os.environ.copy(), None if imatrix is None else imatrix.parent)
    return target


def two_steps(checkpoint: Path, quantization: str, target: Path) -> Path:
    """What llama.cpp makes of a checkpoint: the GGUF that ggufpack's one pass must equal.

    A checkpoint stored in F32 goes through an F32 file (``--outtype auto`` would round it to F16).

    Raises:
        OracleError: one of the steps refused.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        middle = convert(checkpoint, Path(scratch) / "source.gguf", source_outtype(checkpoint))
        return quantize(middle, target, quantization)


def source_outtype(checkpoint: Path) -> str:
    """The converter's ``--outtype`` that loses nothing of the stored tensors."""
    import json

    dtypes: set[str] = set()
    for shard in sorted(checkpoint.glob("*.safetensors")):
        with shard.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        dtypes |= {entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
    if dtypes == {"F16"}:
        return "f16"
    return "bf16" if dtypes == {"BF16"} else "f32"


def _run(command: Sequence[str], env: dict[str, str], folder: Path | None = None) -> None:
    done = subprocess.run(
        command,
        env=env,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=_STEP_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-15:])
        raise OracleError(f"{' '.join(command)}\nexit code {done.returncode}\n{tail}")
