"""Tokenizer files, without a tokenizer; the vocabularies against the libraries that write them."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models, processors

from ggufpack.checkpoint.tokenizer import AddedToken, Tokenizer, read_tokenizer
from ggufpack.checkpoint.vocabulary import read_vocabulary
from ggufpack.errors import CheckpointFileError

from .builders import TOKENIZER, VOCABULARY, make_checkpoint, write_json

UNKNOWN = "<unk>"


def read(folder: Path) -> tuple[Tokenizer, list[str]]:
    tokenizer, _config, findings = read_tokenizer(folder)
    return tokenizer, [finding.id for finding in findings]


def made(folder: Path, **parts: Any) -> tuple[Tokenizer, list[str]]:
    return read(make_checkpoint(folder, **parts))


def test_what_the_files_say(tmp_path: Path) -> None:
    tokenizer, ids = made(tmp_path)
    assert ids == []
    assert (tokenizer.bos, tokenizer.eos, tokenizer.unk, tokenizer.pad) == ("<s>", "</s>", "<unk>", None)
    assert tokenizer.added_tokens[-2:] == (AddedToken(6, "<tool>", False), AddedToken(7, "<|im_end|>", True))
    assert tokenizer.size == 8
    assert [tokenizer.text(number) for number in (2, 3, 7, 8, -1)] == ["</s>", "a", "<|im_end|>", None, None]
    assert [tokenizer.id(text) for text in ("</s>", "a", "<|im_end|>", "zz")] == [2, 3, 7, None]
    assert tokenizer.special_texts == ("<s>", "</s>", "<unk>", "<|im_end|>")
    assert (tokenizer.add_bos, tokenizer.add_eos) == (None, None)
    assert set(tokenizer.files) == {"tokenizer.json", "tokenizer_config.json"}


def test_extra_and_model_specific_special_tokens(tmp_path: Path) -> None:
    tokenizer, ids = made(
        tmp_path,
        tokenizer_config={
            "additional_special_tokens": ["<tool>", {"content": "a", "special": True}],
            "image_token": "b",
            "add_bos_token": True,
            "pad_token": None,
        },
    )
    assert ids == []
    assert tokenizer.extra_special == ("<tool>", "a")
    assert tokenizer.special.get("image_token") == "b"
    assert "add_bos_token" not in tokenizer.special
    assert {"<tool>", "a", "b"} <= set(tokenizer.special_texts)


def test_extra_special_tokens_as_an_object(tmp_path: Path) -> None:
    tokenizer, _ = made(tmp_path, tokenizer_config={"extra_special_tokens": {"image_token": "a"}})
    assert tokenizer.special.get("image_token") == "a"


def test_special_tokens_map_counts_only_without_added_tokens_decoder(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    write_json(tmp_path / "special_tokens_map.json", {"eos_token": {"content": "<|im_end|>"}})
    assert read(tmp_path)[0].eos == "<|im_end|>"
    decoder = {"7": {"content": "<|im_end|>", "special": True}}
    make_checkpoint(tmp_path, tokenizer_config={"added_tokens_decoder": decoder})
    assert read(tmp_path)[0].eos == "</s>"


def test_tokens_that_only_the_decoder_has_are_added(tmp_path: Path) -> None:
    tokenizer, ids = made(
        tmp_path, tokenizer_config={"added_tokens_decoder": {"9": {"content": "<new>", "special": True}}}
    )
    assert ids == []
    assert tokenizer.added_tokens[-1] == AddedToken(9, "<new>", True)
    assert tokenizer.size == 10


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"content": "<|im_end|>", "special": True}, []),
        ({"content": "<|im_end|>", "special": False}, ["GP303"]),
        ({"content": "<other>", "special": True}, ["GP302"]),
    ],
)
def test_files_that_disagree_on_a_token(tmp_path: Path, entry: dict[str, Any], expected: list[str]) -> None:
    tokenizer, ids = made(tmp_path, tokenizer_config={"added_tokens_decoder": {"7": entry}})
    assert ids == expected
    assert tokenizer.text(7) == "<|im_end|>"


def test_an_added_token_on_an_id_of_the_vocabulary(tmp_path: Path) -> None:
    added = [*TOKENIZER["added_tokens"], {"id": 4, "content": "<x>", "special": False}]
    assert made(tmp_path, tokenizer={"added_tokens": added})[1] == ["GP302"]


def test_a_special_token_without_an_id(tmp_path: Path) -> None:
    assert made(tmp_path, tokenizer_config={"pad_token": "[PAD]"})[1] == ["GP306"]


def test_legacy_added_tokens_json(tmp_path: Path) -> None:
    write_json(tmp_path / "vocab.json", VOCABULARY)
    write_json(tmp_path / "added_tokens.json", {"<x>": 7, "<eos>": 6})
    write_json(tmp_path / "tokenizer_config.json", {"eos_token": "<eos>"})
    tokenizer, ids = read(tmp_path)
    assert tokenizer.added_tokens == (AddedToken(6, "<eos>", True), AddedToken(7, "<x>", False))
    assert ids == []


@pytest.mark.parametrize(
    ("name", "content", "key"),
    [
        ("tokenizer.json", {"model": {}}, "model.vocab"),
        ("tokenizer.json", {"model": {"vocab": {"a": "1"}}}, "model.vocab"),
        ("tokenizer.json", {"model": {"vocab": [["a", 0.0], 7]}}, "model.vocab"),
        ("tokenizer.json", {**TOKENIZER, "added_tokens": {}, "x": 1}, None),
        ("tokenizer.json", {**TOKENIZER, "added_tokens": "abc"}, "added_tokens"),
        ("tokenizer.json", {**TOKENIZER, "added_tokens": [{"id": "1", "content": "a"}]}, "added_tokens"),
        ("tokenizer.json", {**TOKENIZER, "added_tokens": [{"id": 1}]}, "added_tokens"),
        ("tokenizer_config.json", {"eos_token": 7}, "eos_token"),
        ("tokenizer_config.json", {"eos_token": {"special": True}}, "eos_token"),
        ("tokenizer_config.json", {"additional_special_tokens": "<x>"}, "additional_special_tokens"),
        ("tokenizer_config.json", {"added_tokens_decoder": []}, None),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "a"}}}, "added_tokens"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"1": "a"}}, "added_tokens"),
        ("tokenizer_config.json", {"add_bos_token": "yes"}, "add_bos_token"),
        ("special_tokens_map.json", {"eos_token": []}, "eos_token"),
    ],
)
def test_malformed_files_name_the_key(tmp_path: Path, name: str, content: object, key: str | None) -> None:
    make_checkpoint(tmp_path)
    write_json(tmp_path / name, content)
    if key is None:  # an empty container of the wrong kind is no harm
        read(tmp_path)
        return
    with pytest.raises(CheckpointFileError) as caught:
        read(tmp_path)
    assert caught.value.key == key
    assert caught.value.path == tmp_path / name


def test_no_tokenizer(tmp_path: Path) -> None:
    write_json(tmp_path / "tokenizer_config.json", {})
    with pytest.raises(CheckpointFileError, match="has no tokenizer"):
        read(tmp_path)


def test_a_vocabulary_of_an_unknown_kind_is_unchecked(tmp_path: Path) -> None:
    write_json(tmp_path / "tekken.json", {})
    tokenizer, ids = read(tmp_path)
    assert (ids, tokenizer.size, tokenizer.text(0)) == (["GP307"], None, None)


# --- does encoding add BOS and EOS? The answer of the library that runs the post-processor counts.


def rust_tokenizer() -> RustTokenizer:
    tokenizer = RustTokenizer(models.WordLevel(VOCABULARY, unk_token=UNKNOWN))
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


TEMPLATES = {
    "bos": processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]),
    "both": processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B", special_tokens=[("<s>", 1), ("</s>", 2)]
    ),
    "eos": processors.TemplateProcessing(single="$A </s>", pair="$A $B", special_tokens=[("</s>", 2)]),
    "none": processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[]),
    "byte level": processors.ByteLevel(),
    "roberta": processors.RobertaProcessing(("</s>", 2), ("<s>", 1)),
    "bert": processors.BertProcessing(("</s>", 2), ("<s>", 1)),
    "byte level last": processors.Sequence(
        [
            processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]),
            processors.ByteLevel(),
        ]
    ),
    "sequence": processors.Sequence(
        [
            processors.ByteLevel(),
            processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]),
        ]
    ),
}


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_added_bos_and_eos_as_the_post_processor_does_it(tmp_path: Path, name: str) -> None:
    make_checkpoint(tmp_path)
    tokenizer = rust_tokenizer()
    tokenizer.post_processor = TEMPLATES[name]
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    tokens = tokenizer.encode("a").tokens
    ours, _ = read(tmp_path)
    assert (ours.add_bos, ours.add_eos) == (tokens[0] == "<s>", tokens[-1] == "</s>")


@pytest.mark.parametrize(("configured", "expected"), [(True, []), (False, ["GP304"]), (None, [])])
def test_the_post_processor_counts_more_than_the_config(
    tmp_path: Path, configured: bool | None, expected: list[str]
) -> None:
    make_checkpoint(tmp_path, tokenizer_config={"add_bos_token": configured})
    tokenizer = rust_tokenizer()
    tokenizer.post_processor = TEMPLATES["bos"]
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    ours, ids = read(tmp_path)
    assert (ours.add_bos, ids) == (True, expected)


def test_without_a_post_processor_the_config_counts(tmp_path: Path) -> None:
    tokenizer, ids = made(tmp_path, tokenizer_config={"add_bos_token": True, "add_eos_token": False})
    assert (tokenizer.add_bos, tokenizer.add_eos, ids) == (True, False, [])


# --- vocabularies


@pytest.mark.parametrize(
    "model",
    [
        models.WordLevel(VOCABULARY, unk_token=UNKNOWN),
        models.BPE(vocab=VOCABULARY, merges=[]),
        models.WordPiece(VOCABULARY, unk_token=UNKNOWN),
        models.Unigram([("<unk>", 0.0), ("▁a", -1.0), ("b", -2.5)], unk_id=0),
    ],
    ids=["word-level", "bpe", "wordpiece", "unigram"],
)
def test_tokenizer_json_of_every_model(tmp_path: Path, model: Any) -> None:
    tokenizer = RustTokenizer(model)
    tokenizer.add_special_tokens(["<unk>", "<|end|>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    ours, _ = read(tmp_path)
    theirs = tokenizer.get_vocab(with_added_tokens=True)
    assert dict(ours.texts) == {number: text for text, number in theirs.items()}


def test_a_sentencepiece_model(tmp_path: Path) -> None:
    sentences = [f"the quick brown fox {number} jumps over é 世界" for number in range(200)]
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=written, vocab_size=60, byte_fallback=False,
        user_defined_symbols=["<|im_end|>"], minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(written.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    pieces = {number: processor.id_to_piece(number) for number in range(processor.get_piece_size())}
    assert len(pieces) > 30
    tokenizer, ids = read(tmp_path)
    assert dict(tokenizer.texts) == pieces
    assert ids == []


@pytest.mark.parametrize(
    "content", [b"IQ== 0\nIg== 1\n", b"", b"\xff" * 40, b"\x0a\x7fabc", b"\x08\x01", b"\x0a\x02\x0a\x01"]
)
def test_a_tokenizer_model_that_is_not_sentencepiece(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    assert read_vocabulary(tmp_path, None) is None


def test_unknown_fields_of_a_sentencepiece_model_are_skipped(tmp_path: Path) -> None:
    # field 5 as varint, 6 as 64 bits, 7 as 32 bits, between two pieces "a" and "b" with a type
    content = b"\x0a\x05\x0a\x01a\x18\x04" + b"\x28\x96\x01" + b"\x31" + bytes(8) + b"\x3d" + bytes(4)
    (tmp_path / "tokenizer.model").write_bytes(content + b"\x0a\x05\x18\x04\x0a\x01b")
    assert read_vocabulary(tmp_path, None) == {"a": 0, "b": 1}


def test_a_wordpiece_list(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes("[PAD]\n[UNK]\n##é\n".encode())
    assert read_vocabulary(tmp_path, None) == {"[PAD]": 0, "[UNK]": 1, "##é": 2}


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "first"}}, "first"),
        ({"pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "never"}}, "never"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "always"),
        (
            {
                "pre_tokenizer": {
                    "type": "Sequence",
                    "pretokenizers": [{"type": "Digits"}, {"type": "Metaspace"}],
                }
            },
            "always",
        ),
        (
            {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}]}},
            "always",
        ),
        ({"normalizer": {"type": "Prepend", "prepend": "x"}}, None),
        ({"pre_tokenizer": {"type": "ByteLevel"}}, None),
        ({"pre_tokenizer": None, "normalizer": None}, None),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": "?"}}, None),
    ],
)
def test_where_a_space_is_put_in_front(part: dict[str, Any], expected: str | None, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **part}), encoding="utf-8")
    assert read_tokenizer(folder)[0].space_prefix == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"tokenizer_class": "LlamaTokenizer"}, "first"),
        ({"tokenizer_class": "LlamaTokenizer", "legacy": True}, "always"),
        ({"tokenizer_class": "LlamaTokenizerFast", "add_prefix_space": False}, "never"),
        ({"tokenizer_class": "GemmaTokenizer"}, None),
        ({}, None),
    ],
)
def test_where_a_tokenizer_model_alone_puts_it(
    settings: dict[str, Any], expected: str | None, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copy(tiny_model("llama-spm") / "tokenizer.model", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert read_tokenizer(tmp_path)[0].space_prefix == expected
