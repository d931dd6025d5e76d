"""From what the earlier stages found to a conversion job. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from ggufpack.chat_template.prompt import Prompt
from ggufpack.chat_template.stops import end_tokens
from ggufpack.checkpoint import Checkpoint
from ggufpack.checkpoint.adapter_layer import AdapterLayer
from ggufpack.checkpoint.experts import unwritten_keys
from ggufpack.child import usable_cpus
from ggufpack.convert.protocol import Job
from ggufpack.convert.size import AHEAD_BYTES, CHUNK_WEIGHTS

# measured: numpy, torch (with its CUDA libraries) and transformers imported
WORKER_BASE_BYTES = 600_000_000
MERGED_FLOATS = 3  # per weight of a tensor that is merged: base, product, and what is made of them
# measured with 49,000 to 152,000 tokens: the file as Python objects, and as a tokenizer
BYTES_PER_TOKENIZER_BYTE = 45
# measured with 45,000 to 1,000,000 tensors (benchmarks.scale): the converter's lazy recipe of each
TENSOR_BYTES = 3_000
_FLOAT_DTYPES = frozenset({"F32", "F16", "BF16", "F64"})


def conversion_job(
    checkpoint: Checkpoint,
    prompt: Prompt,
    outputs: Mapping[str, Path],
    *,
    trust_remote_code: bool,
    allowed: Collection[str],
    threads: int | None,
    imatrix: Path | None = None,
    cache: Path | None = None,
    earlier: Mapping[str, Path] | None = None,
    projector: Path | None = None,
    plan_only: bool = False,
) -> Job:
    """The job that writes ``outputs`` (file type to path), or takes ``earlier`` ones that are the same.

    ``projector``: path of the vision tower's file, without its type.
    """
    return Job(
        checkpoint=checkpoint.folder.resolve(),
        outputs=tuple(outputs.items()),
        intermediate=intermediate_precision(checkpoint.tensors.dtypes),
        config=unwritten_keys(checkpoint.model_config),
        overrides=_overrides(checkpoint, prompt),
        trust_remote_code=trust_remote_code,
        allowed=tuple(sorted(allowed)),
        threads=threads or usable_cpus(),
        plan_only=plan_only,
        imatrix=None if imatrix is None else imatrix.absolute(),
        cache=None if cache is None else cache.absolute(),
        earlier=tuple((name, path.absolute()) for name, path in (earlier or {}).items()),
        projector=None if projector is None else projector.absolute(),
        merge=None if checkpoint.adaptation is None else checkpoint.adaptation.merge.to_json(),
    )


def layer_job(
    checkpoint: Checkpoint, layer: AdapterLayer, output: tuple[str, Path], *, plan_only: bool
) -> Job:
    """The job that writes an adapter of its own; ``output`` is a name for its type, and the file."""
    return Job(
        checkpoint=checkpoint.folder.resolve(),
        outputs=(output,),
        intermediate="f32",
        config=unwritten_keys(checkpoint.model_config),
        plan_only=plan_only,
        layer=layer.to_json(),
    )


def intermediate_precision(dtypes: Mapping[str, int]) -> str:
    """The converter's output precision that loses nothing: the stored one, or float32.

    Args:
        dtypes: safetensors dtype to number of tensors.
    """
    floats = set(dtypes) & _FLOAT_DTYPES
    others = {dtype for dtype in dtypes if dtype.startswith(("F8", "F4", "U8", "I8"))}
    if floats == {"BF16"} and not others:
        return "bf16"
    return "f16" if floats == {"F16"} and not others else "f32"


def memory_needed(checkpoint: Checkpoint, threads: int | None) -> int:
    """Bytes of the worker's peak resident set, estimated: for models of any number of weights.

    Imports, the vocabulary, a recipe for each tensor, ``AHEAD_BYTES`` of encoded blocks, and for each
    thread three chunks of source values (at most float32): one in work and two that wait. A tensor that
    is computed and not only moved comes on top, in float32, one at a time (``convert.recipes``); so does
    the largest tensor that adapters change.
    """
    tokenizer = checkpoint.folder / "tokenizer.json"
    size = tokenizer.stat().st_size if tokenizer.is_file() else 0
    recipes = len(checkpoint.tensors) * TENSOR_BYTES
    return worker_memory(size, threads or usable_cpus()) + recipes + _merge_memory(checkpoint)


def _merge_memory(checkpoint: Checkpoint) -> int:
    """Of the largest merged tensor: computed whole (``convert.lora``)."""
    if checkpoint.adaptation is None:
        return 0
    changed = (checkpoint.tensors[name].elements for name in checkpoint.adaptation.merge.changes)
    return max(changed, default=0) * MERGED_FLOATS * 4


def worker_memory(tokenizer_bytes: int, threads: int) -> int:
    """``memory_needed``, by the size of ``tokenizer.json``."""
    chunks = threads * 3 * CHUNK_WEIGHTS * 4
    return WORKER_BASE_BYTES + tokenizer_bytes * BYTES_PER_TOKENIZER_BYTE + AHEAD_BYTES + chunks


def _overrides(checkpoint: Checkpoint, prompt: Prompt) -> dict[str, str | bool | int]:
    """Keys of the GGUF that must say what training did, not what the tokenizer files say.

    In training the chat template alone puts BOS and EOS (``apply_chat_template`` encodes without
    special tokens); an engine goes by ``add_bos_token`` and ``add_eos_token``.
    """
    plan = prompt.plan
    overrides: dict[str, str | bool | int] = {}
    if plan.gguf_chat_template is not None:
        overrides["tokenizer.chat_template"] = plan.gguf_chat_template
    if plan.emits_bos is not None and checkpoint.tokenizer.bos is not None:
        overrides["tokenizer.ggml.add_bos_token"] = plan.emits_bos
    if checkpoint.tokenizer.space_prefix == "first" and _begins_with_special(prompt):
        # llama.cpp would put the space after every special token
        overrides["tokenizer.ggml.add_space_prefix"] = False
    if plan.gguf_chat_template is not None and checkpoint.tokenizer.add_eos:
        overrides["tokenizer.ggml.add_eos_token"] = False
    if prompt.template is not None:
        tokenizer = checkpoint.tokenizer
        single = [stop for stop in prompt.stops if tokenizer.id(stop) is not None]
        for key, text in zip(("eot", "eom"), end_tokens(single, tokenizer.eos), strict=True):
            token = None if text is None else tokenizer.id(text)
            if token is not None:
                overrides[f"tokenizer.ggml.{key}_token_id"] = token
    return overrides


def _begins_with_special(prompt: Prompt) -> bool:
    """Whether prompts begin with a special token, so that no text of theirs stands at the very beginning."""
    if prompt.template is None:
        return False
    text = prompt.expected([{"role": "user", "content": "Hello."}])
    return text is not None and text.startswith(tuple(filter(None, prompt.special_texts)))
