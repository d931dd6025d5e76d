"""A tiny Gemma 3 with a vision tower (SigLIP): random BF16 weights, real image processor; and images.

An image is 112 × 112: 8 × 8 patches, which the projector pools to 4 tokens. Gemma 3's own processor
resizes to that size, so an image that has it already enters unchanged, in transformers and in llama.cpp.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

from tests.support.cache import cached_folder, key_of, say
from tests.support.llama_cpp import SDIST
from tests.support.tokenizers import IMAGE_TOKENS, TOKENIZERS

RECIPE = "2"  # raise it when what this file makes changes
SIDE = 112
TOKENS_PER_IMAGE = 4
_SEED = 21


def vision_checkpoint() -> Path:
    """``Gemma3ForConditionalGeneration`` with its processor's files; a few seconds the first time."""
    versions = [version(name) for name in ("transformers", "torch", "sentencepiece")]
    return cached_folder(f"model-tiny-vision-{key_of(*versions, SDIST.sha256, RECIPE)}", _make)


def _make(folder: Path) -> None:
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    say("making the tiny Gemma 3 with a vision tower")
    vocabulary = TOKENIZERS["sentencepiece-gemma-images"](folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    boi, eoi, soft = (tokenizer.convert_tokens_to_ids(token) for token in IMAGE_TOKENS)
    ends = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    text = transformers.Gemma3TextConfig(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        query_pre_attn_scalar=64,
        sliding_window=256,
        max_position_embeddings=1024,
        **ends,
    )
    vision = transformers.SiglipVisionConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=14,
        vision_use_head=False,
    )
    config = transformers.Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=TOKENS_PER_IMAGE,
        boi_token_index=boi,
        eoi_token_index=eoi,
        image_token_index=soft,
        **ends,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = transformers.Gemma3ForConditionalGeneration(config)
        for parameter in model.parameters():
            # norms and biases: a wrong order must show. The others: initialised too small for an image
            # to be more than noise beside the text
            spread = 0.02 if parameter.min() == parameter.max() else 0.05
            parameter.data += torch.randn_like(parameter) * spread
    model.to(torch.bfloat16).save_pretrained(folder)
    # transformers writes these names for what was loaded from them, and shorter ones for a model of its own
    file = folder / "model.safetensors"
    renamed = {
        name.replace("vision_tower.", "vision_tower.vision_model.", 1): tensor
        for name, tensor in load_file(file).items()
    }
    save_file(renamed, file, metadata={"format": "pt"})
    images = transformers.Gemma3ImageProcessor(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    written = {**images.to_dict(), "image_seq_length": TOKENS_PER_IMAGE, "processor_class": "Gemma3Processor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(written, indent=2), encoding="utf-8")


def png(colour_at: Callable[[int, int], tuple[int, int, int]], side: int = SIDE) -> bytes:
    """A square RGB image: ``colour_at(x, y)`` in 0 … 255."""
    from PIL import Image

    image = Image.new("RGB", (side, side))
    image.putdata([colour_at(x, y) for y in range(side) for x in range(side)])
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def stripes() -> bytes:
    """Black and white, 14 pixels each."""
    return png(lambda x, _: (255, 255, 255) if x // 14 % 2 else (0, 0, 0))


def red_and_blue() -> bytes:
    """Red above, blue below."""
    return png(lambda _, y: (220, 30, 20) if y < SIDE // 2 else (10, 40, 230))
