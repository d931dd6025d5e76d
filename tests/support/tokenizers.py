"""Tokenizers that llama.cpp's converter accepts, for the tiny checkpoints.

Nothing but the locked sdist is fetched for them. BPE ones come from the vocabulary files in llama.cpp's
own ``models/`` (the converter knows a BPE tokenizer by a hash, so an invented one is refused);
sentencepiece ones are trained here on llama.cpp's documentation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.llama_cpp import llama_cpp_source

_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def _from_vocabulary_file(name: str) -> Callable[[Path], int]:
    """A Hugging Face tokenizer out of llama.cpp's ``models/ggml-vocab-NAME.gguf``."""

    def make(folder: Path) -> int:
        import transformers
        from tokenizers import pre_tokenizers

        source = llama_cpp_source() / "models"
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, gguf_file=f"ggml-vocab-{name}.gguf")
        if name == "starcoder":
            # as its own tokenizer.json has it; transformers does not read it out of a GGUF
            digits = pre_tokenizers.Digits(individual_digits=True)
            bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False)
            tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_of])
        tokenizer.chat_template = _CHATML
        tokenizer.save_pretrained(folder)
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text(encoding="utf-8"))
        # GPT2Tokenizer would build its own pre-tokenizer
        path.write_text(json.dumps({**settings, "tokenizer_class": "TokenizersBackend"}), encoding="utf-8")
        return len(tokenizer)

    return make


# Gemma 3's form: contents may come in parts, and an image leaves one token
_CHATML_WITH_IMAGES = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<start_of_image>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
IMAGE_TOKENS = ("<start_of_image>", "<end_of_image>", "<image_soft_token>")


def _sentencepiece_model(
    folder: Path,
    *,
    add_dummy_prefix: bool = True,
    legacy: bool = False,
    images: bool = False,
) -> int:
    """A ``tokenizer.model`` of 2,000 pieces with byte fallback, made as Llama's, and its configuration.

    Args:
        folder: gets the files.
        add_dummy_prefix: whether text begins with a space: not for Gemma.
        legacy: whether text after a special token does as well.
        images: whether it has Gemma 3's image tokens, and a template that takes images.
    """
    import sentencepiece

    texts = sorted((llama_cpp_source() / "docs").rglob("*.md"))
    lines = [line for text in texts for line in text.read_text(encoding="utf-8").splitlines() if line.strip()]
    size = 2000
    chat_tokens = ["<|im_start|>", "<|im_end|>", *(IMAGE_TOKENS if images else ())]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=size,
        byte_fallback=True,
        pad_id=3,
        user_defined_symbols=chat_tokens,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=add_dummy_prefix,
        minloglevel=2,
        num_threads=1,  # more threads may order equal pieces differently
    )
    (folder / "tokenizer.vocab").unlink()
    model = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
    special = {"normalized": False, "lstrip": False, "rstrip": False, "single_word": False, "special": True}
    settings: dict[str, Any] = {
        "tokenizer_class": "LlamaTokenizer" if add_dummy_prefix else "GemmaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": "<pad>",  # GemmaTokenizer would add one that the model does not have
        "add_bos_token": True,
        "add_eos_token": False,
        "legacy": legacy,
        "added_tokens_decoder": {
            str(model.piece_to_id(text)): {"content": text, **special}
            for text in ("<unk>", "<s>", "</s>", "<pad>", *chat_tokens)
        },
        "chat_template": _CHATML_WITH_IMAGES if images else _CHATML,
    }
    if images:
        names = ("boi_token", "eoi_token", "image_token")
        settings |= {"extra_special_tokens": dict(zip(names, IMAGE_TOKENS, strict=True))}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    return size


def _sentencepiece_with_json(
    folder: Path, *, add_dummy_prefix: bool = True, legacy: bool = False, images: bool = False
) -> int:
    """The same with the ``tokenizer.json`` that published models have beside it.

    Without one, transformers makes another tokenizer of the model for each architecture.
    """
    import transformers

    size = _sentencepiece_model(folder, add_dummy_prefix=add_dummy_prefix, legacy=legacy, images=images)
    kind = transformers.LlamaTokenizer if add_dummy_prefix else transformers.GemmaTokenizer
    kind.from_pretrained(folder).backend_tokenizer.save(str(folder / "tokenizer.json"))
    return size


def _bert_wordpiece(folder: Path) -> int:
    """BERT's vocabulary, out of llama.cpp's ``models/ggml-vocab-bert-bge.gguf``, and a mean pooling.

    Without the pooling (sentence-transformers' files) llama-server stops at the first embedding.
    """
    import transformers
    from gguf import GGUFReader

    reader = GGUFReader(llama_cpp_source() / "models" / "ggml-vocab-bert-bge.gguf")
    # phantom space: llama.cpp stores word starts with U+2581 and continuations without "##"
    stored = [str(token) for token in reader.get_field("tokenizer.ggml.tokens").contents()]
    tokens = [_bert_token(token) for token in stored]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    tokenizer = transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"), do_lower_case=True)
    tokenizer.save_pretrained(folder)
    modules = [{"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}', encoding="utf-8")
    return len(tokens)


def _bert_token(stored: str) -> str:
    if stored.startswith("\u2581"):
        return stored[1:]
    return stored if stored.startswith("[") and stored.endswith("]") else f"##{stored}"


# name: writes a tokenizer's files into a folder and returns the vocabulary's size
TOKENIZERS: Mapping[str, Callable[[Path], int]] = {
    "llama-bpe": _from_vocabulary_file("llama-bpe"),
    "qwen2": _from_vocabulary_file("qwen2"),
    "starcoder": _from_vocabulary_file("starcoder"),
    "sentencepiece": partial(_sentencepiece_with_json, legacy=True),
    "sentencepiece-first": _sentencepiece_with_json,
    "sentencepiece-gemma": partial(_sentencepiece_with_json, add_dummy_prefix=False),
    "sentencepiece-gemma-images": partial(_sentencepiece_with_json, add_dummy_prefix=False, images=True),
    "sentencepiece-alone": _sentencepiece_model,
    "wordpiece": _bert_wordpiece,
}
