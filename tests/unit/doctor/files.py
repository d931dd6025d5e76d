"""Small GGUF files, written by the gguf package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

TOKENS = ("<unk>", "<s>", "</s>", "a", "b", "<|im_start|>", "<|im_end|>", "c")
KINDS = (2, 3, 3, 1, 1, 3, 3, 1)
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GO_CHATML = (
    "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
)


def write_gguf(
    path: Path,
    *,
    template: str | None = CHATML,
    ids: Mapping[str, int] | None = None,
    tokens: Sequence[str] = TOKENS,
    rows: int = 8,
    pre: str | None = "llama-bpe",
    add_bos: bool = False,
    file_type: int = 1,
    context: int | None = 2048,
    weights: Any = None,
) -> Path:
    """A file without a warning; each argument makes one thing wrong."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(file_type)
    if context is not None:
        writer.add_context_length(context)
    writer.add_tokenizer_model("gpt2")
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(list(tokens))
    writer.add_token_types(KINDS)
    for name, number in ({"bos": 1, "eos": 6} if ids is None else ids).items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", number)
    writer.add_add_bos_token(add_bos)
    if template is not None:
        writer.add_chat_template(template)
    writer.add_tensor("token_embd.weight", np.ones((rows, 32), np.float16))
    writer.add_tensor("output_norm.weight", np.ones(32, np.float32))
    if weights is not None:
        writer.add_tensor("blk.0.ffn_up.weight", weights, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
