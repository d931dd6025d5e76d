"""Real LoRA adapters: trained with PEFT for a few steps, and merged by PEFT as the oracle."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ggufpack.gguf_header import read_gguf_header

_SEED = 7
TOKENIZER_NAMES = ("tokenizer", "special_tokens_map", "vocab", "merges", "added_tokens", "chat_template")


def train_adapter(
    base: Path,
    folder: Path,
    *,
    steps: int = 3,
    vocabulary: int | None = None,
    texts: Sequence[Sequence[int]] = (),
    rate: float = 0.02,
    options: Mapping[str, Any] | None = None,
    seed: int = _SEED,
    **config: Any,
) -> Path:
    """Train an adapter of ``base`` on the CPU, and save it as PEFT does.

    Args:
        base: a checkpoint folder.
        folder: gets the adapter.
        steps: of AdamW, one text each.
        vocabulary: resizes the embeddings before training.
        texts: token ids to learn; random ones by default.
        rate: learning rate: large, so that each factor really moves.
        options: of ``save_pretrained``.
        seed: of the factors and of random texts.
        config: of ``LoraConfig``; ``r`` 4 and ``lora_alpha`` 8 unless given.
    """
    import peft
    import torch
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        if vocabulary is not None:
            model.resize_token_embeddings(vocabulary, mean_resizing=False)
        task = peft.LoraConfig(task_type="CAUSAL_LM", **{"r": 4, "lora_alpha": 8, **config})
        adapted = peft.get_peft_model(model, task)
        size = vocabulary or model.config.vocab_size
        rows = [torch.tensor([row]) for row in texts] or [torch.randint(0, size, (1, 24)) for _ in range(3)]
        trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=rate)
        adapted.train()
        for step in range(steps):
            ids = rows[step % len(rows)]
            adapted(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        adapted.save_pretrained(str(folder), **(options or {}))
    return folder


def merge_with_peft(
    base: Path,
    adapters: Sequence[tuple[Path, float]],
    target: Path,
    *,
    vocabulary: int | None = None,
    arithmetic: str = "float32",
    **load_options: Any,
) -> Path:
    """What PEFT's ``merge_and_unload`` makes, saved in the base's dtype with its tokenizer.

    Args:
        base: a checkpoint folder.
        adapters: folders and weights; a weight multiplies PEFT's own ``scaling``.
        target: gets the checkpoint.
        vocabulary: resizes the embeddings first.
        arithmetic: dtype that the model is loaded and merged in.
        load_options: of ``PeftModel.from_pretrained``.
    """
    import peft
    import torch
    import transformers

    load = transformers.AutoModelForCausalLM.from_pretrained
    stored = transformers.AutoConfig.from_pretrained(base).dtype
    model = load(base, dtype=getattr(torch, arithmetic))
    if vocabulary is not None:
        model.resize_token_embeddings(vocabulary, mean_resizing=False)
    (first, _), *others = adapters
    adapted = peft.PeftModel.from_pretrained(model, first, adapter_name="0", **load_options)
    for number, (folder, _) in enumerate(others, 1):
        adapted.load_adapter(folder, adapter_name=str(number))
    for module in adapted.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            for number, (_, weight) in enumerate(adapters):
                if str(number) in module.scaling:
                    module.scaling[str(number)] *= weight
    merged = adapted.merge_and_unload(adapter_names=[str(number) for number in range(len(adapters))])
    merged.to(stored).save_pretrained(target)
    for file in base.iterdir():
        if file.name.startswith(TOKENIZER_NAMES) and not (target / file.name).exists():
            shutil.copy(file, target)
    return target


def gguf_tensors(path: Path) -> Iterator[tuple[str, str | None, bytes]]:
    """Name, type and bytes of every tensor of a GGUF."""
    with path.open("rb") as file:
        for tensor in read_gguf_header(path).tensors:
            file.seek(tensor.offset)
            yield tensor.name, tensor.type_name, file.read(tensor.nbytes)


def tensor_differences(ours: Path, theirs: Path) -> list[str]:
    """Names of tensors that are not in both files with the same type and bytes."""
    left = {name: rest for name, *rest in gguf_tensors(ours)}
    right = {name: rest for name, *rest in gguf_tensors(theirs)}
    assert left, f"{ours} has no tensors"
    return sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))
