"""A small training that is over in a second, and repeats to the bit."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

LENGTH = 12


def train(checkpoint: Path, output: Path, callbacks: Sequence[Any] = (), **changes: Any) -> Any:
    """Train a checkpoint for a few steps, with dropout and shuffled data; returns the ``Trainer``.

    ``tokenizer`` and ``adapt`` (the model to the model that is trained) are no training arguments.
    """
    adapt = changes.pop("adapt", lambda model: model)
    tokenizer = changes.pop("tokenizer", transformers.AutoTokenizer.from_pretrained(checkpoint))
    transformers.set_seed(7)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attention_dropout=0.2
    )
    settings = {
        "max_steps": 3,
        "save_steps": 1,
        "save_only_model": True,
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 2,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 7,
        **changes,
    }
    trainer = transformers.Trainer(
        adapt(model),
        transformers.TrainingArguments(str(output), **settings),
        train_dataset=_data(),
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )
    trainer.train()
    return trainer


def random_states() -> list[bytes]:
    """The states of all generators that a training draws from."""
    numbers = np.random.get_state()
    return [repr(random.getstate()).encode(), repr(numbers).encode(), torch.get_rng_state().numpy().tobytes()]


def _data() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randint(0, 300, (16, LENGTH), generator=generator)
    return [{"input_ids": row, "labels": row} for row in rows]
