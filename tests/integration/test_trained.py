"""The models of ``support.trained`` are sure of what they say, unlike random ones."""

from __future__ import annotations

import math

import pytest

from ggufpack.checkpoint import open_checkpoint
from tests.support.trained import SOUND


@pytest.mark.network
@pytest.mark.parametrize("name", SOUND)
def test_its_distributions_are_peaked(name: str) -> None:
    import torch
    import transformers

    folder = SOUND[name]()
    assert open_checkpoint(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer("Dear Hannah,\n\nthe ferry was two hours late, so", return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model(ids).logits[0].log_softmax(-1)
    entropy = float(-(logits.exp() * logits).sum(-1).mean())
    assert entropy < 0.6 * math.log(logits.shape[-1])
