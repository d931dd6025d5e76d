"""The tokenizer files of a checkpoint: special tokens, added tokens, ids. No tokenizer is loaded.

Precedence is that of transformers 5 (``tokenization_utils_base.py``, ``_from_pretrained``):
``special_tokens_map.json`` counts only when tokenizer_config.json has no ``added_tokens_decoder``,
``add_bos_token`` only when the post-processor of tokenizer.json does not say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ggufpack.checkpoint.findings import make_finding
from ggufpack.checkpoint.jsonfiles import MAX_TOKENIZER_BYTES, read_object, type_name
from ggufpack.checkpoint.space_prefix import SpacePrefix, space_prefix
from ggufpack.checkpoint.vocabulary import read_vocabulary
from ggufpack.checkpoint.wording import some
from ggufpack.errors import CheckpointFileError
from ggufpack.spec import Finding

TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tekken.json",
    "tiktoken.model",
)
_CARRIES_VOCABULARY = frozenset(TOKENIZER_FILES) - {
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
}
_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
# transformers, llama.cpp and the search for stops look at each; Llasa adds 65,536 codes of sound
MAX_ADDED_TOKENS = 250_000


@dataclass(frozen=True)
class AddedToken:
    """A token beside the model's own vocabulary. ``special`` ones are left out of decoded text."""

    id: int
    text: str
    special: bool


@dataclass(frozen=True)
class Tokenizer:
    """What the tokenizer files say.

    Attributes:
        files: file name → path, of those that are there.
        bos, eos, pad, unk: token texts; ``None`` when no file names one. A tokenizer class may
            have defaults that are not in any file.
        special: every named special token (``"eos_token"`` → text), model-specific ones included.
        extra_special: ``extra_special_tokens`` and ``additional_special_tokens``.
        added_tokens: in the order of their ids.
        add_bos, add_eos: whether encoding adds the token; ``None`` when the files do not say.
        space_prefix: where a SentencePiece tokenizer puts a space in front of text: "always" (after special
            tokens too), "first" (at the beginning only), "never"; ``None`` for other tokenizers.
        texts: id → text, added tokens included; empty when the vocabulary could not be read.
    """

    files: Mapping[str, Path]
    bos: str | None
    eos: str | None
    pad: str | None
    unk: str | None
    special: Mapping[str, str]
    extra_special: tuple[str, ...]
    added_tokens: tuple[AddedToken, ...]
    add_bos: bool | None
    add_eos: bool | None
    space_prefix: SpacePrefix | None
    texts: Mapping[int, str] = field(repr=False)

    def text(self, token: int) -> str | None:
        """The text of an id as the vocabulary writes it; ``None`` when there is no such id."""
        return self.texts.get(token)

    def id(self, text: str) -> int | None:
        """The id of a token text; ``None`` when it is not one token. An added token goes first."""
        for added in self.added_tokens:
            if added.text == text:
                return added.id
        return next((token for token, known in self.texts.items() if known == text), None)

    @property
    def size(self) -> int | None:
        """One more than the highest id; ``None`` when the vocabulary could not be read."""
        return max(self.texts) + 1 if self.texts else None

    @property
    def special_texts(self) -> tuple[str, ...]:
        """The texts of all special tokens, without repetitions: named ones, extra ones, added ones."""
        flagged = (token.text for token in self.added_tokens if token.special)
        return tuple(dict.fromkeys([*self.special.values(), *self.extra_special, *flagged]))


def read_tokenizer(folder: Path) -> tuple[Tokenizer, dict[str, Any], tuple[Finding, ...]]:
    """Read the tokenizer files; also gives the content of tokenizer_config.json (empty without it).

    Raises:
        CheckpointFileError: no file with a vocabulary, or one that is unreadable, malformed or has more
            than ``MAX_ADDED_TOKENS``.
    """
    files = {name: folder / name for name in TOKENIZER_FILES if (folder / name).exists()}
    if not _CARRIES_VOCABULARY & files.keys():
        raise CheckpointFileError(
            f"{folder} has no tokenizer.",
            action="Copy the tokenizer files of the base model into it.",
            path=folder,
            key="tokenizer.json",
        )
    config = read_object(files[TOKENIZER_CONFIG]) if TOKENIZER_CONFIG in files else {}
    fast = read_object(files["tokenizer.json"], MAX_TOKENIZER_BYTES) if "tokenizer.json" in files else None
    findings: list[Finding] = []
    special, extra = _special_tokens(files, config)
    added = _added_tokens(files, config, fast, {*special.values(), *extra}, findings)
    vocabulary = read_vocabulary(folder, fast)
    texts = {} if vocabulary is None else {token: text for text, token in vocabulary.items()}
    if vocabulary is None:
        findings.append(
            make_finding("GP307", "The vocabulary is in a format that is not read here.", path=folder)
        )
    findings += _check_ids_free(texts, added, folder)
    if texts:
        texts.update((token.id, token.text) for token in added)
    add_bos, add_eos = _adds(config, fast, files, findings)
    tokenizer = Tokenizer(
        files=files,
        bos=special.get("bos_token"),
        eos=special.get("eos_token"),
        pad=special.get("pad_token"),
        unk=special.get("unk_token"),
        special=special,
        extra_special=extra,
        added_tokens=added,
        add_bos=add_bos,
        add_eos=add_eos,
        space_prefix=space_prefix(config, fast, files),
        texts=texts,
    )
    _check_special_known(tokenizer, findings, folder)
    return tokenizer, config, tuple(findings)


def _special_tokens(
    files: Mapping[str, Path], config: Mapping[str, Any]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Named special tokens and the extra ones."""
    merged, path = dict(config), files.get(TOKENIZER_CONFIG)
    if "added_tokens_decoder" not in config and "special_tokens_map.json" in files:
        path = files["special_tokens_map.json"]
        merged.update(read_object(path))
    extra_key = "extra_special_tokens" if merged.get("extra_special_tokens") else "additional_special_tokens"
    extra = merged.get(extra_key) or []
    named = {key: merged[key] for key in merged if key in _NAMED or key.endswith("_token")}
    if isinstance(extra, dict):
        # transformers 5 keeps model-specific tokens in a dict: {"image_token": "<image>"}
        named, extra = {**named, **extra}, []
    special: dict[str, str] = {}
    for key, value in named.items():
        # add_bos_token and its like end in _token too, and are booleans
        if value is not None and not isinstance(value, bool):
            special[key] = _token_text(value, path, key)
    if not isinstance(extra, list):
        raise _malformed(path, extra_key, f"must be an array and is {type_name(extra)}")
    _refuse_many(len(extra) + len(named), path, extra_key)
    return special, tuple(_token_text(item, path, extra_key) for item in extra)


def _token_text(value: object, path: Path | None, key: str) -> str:
    """A token given as text, or as the dict of an ``AddedToken``."""
    content = value.get("content") if isinstance(value, dict) else value
    if isinstance(content, str):
        return content
    raise _malformed(path, key, f"must be a token text and is {type_name(value)}")


def _added_tokens(
    files: Mapping[str, Path],
    config: Mapping[str, Any],
    fast: Mapping[str, Any] | None,
    special_texts: set[str],
    findings: list[Finding],
) -> tuple[AddedToken, ...]:
    """tokenizer.json's, then those that only tokenizer_config.json or added_tokens.json has."""
    tokens: dict[int, AddedToken] = {}
    if fast is not None:
        path = files["tokenizer.json"]
        entries = fast.get("added_tokens") or []
        if not isinstance(entries, list):
            raise _malformed(path, "added_tokens", f"must be an array and is {type_name(entries)}")
        _refuse_many(len(entries), path, "added_tokens")
        for entry in entries:
            token = _added_token(entry, entry.get("id") if isinstance(entry, dict) else None, path)
            tokens[token.id] = token
    decoder = config.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise _malformed(
            files[TOKENIZER_CONFIG], "added_tokens_decoder", f"must be an object and is {type_name(decoder)}"
        )
    _refuse_many(len(decoder), files.get(TOKENIZER_CONFIG), "added_tokens_decoder")
    twice: list[tuple[AddedToken, AddedToken]] = []
    for key, entry in decoder.items():
        number = int(key) if key.isascii() and key.isdigit() and len(key) < 10 else None
        token = _added_token(entry, number, files[TOKENIZER_CONFIG])
        known = tokens.setdefault(token.id, token)
        if known is not token:
            twice.append((known, token))
    findings += _compare(twice, files.get(TOKENIZER_CONFIG))
    if not tokens and "added_tokens.json" in files:
        # legacy, and only where nothing newer is: transformers reads it without added_tokens_decoder
        path = files["added_tokens.json"]
        legacy = read_object(path)
        _refuse_many(len(legacy), path, "the object")
        for text, number in legacy.items():
            if type(number) is not int or number < 0:
                raise _malformed(path, text, "must be a token id")
            tokens[number] = AddedToken(number, text, text in special_texts)
    return tuple(tokens[number] for number in sorted(tokens))


def _added_token(entry: object, number: object, path: Path) -> AddedToken:
    if isinstance(entry, dict) and isinstance(entry.get("content"), str):
        special = entry.get("special", False)
        if type(number) is int and number >= 0 and isinstance(special, bool):
            return AddedToken(number, entry["content"], special)
    raise _malformed(
        path, "added_tokens", f"has an entry without id, content and special flag: {entry!r:.80}"
    )


def _compare(twice: Sequence[tuple[AddedToken, AddedToken]], path: Path | None) -> list[Finding]:
    """Tokens of tokenizer.json and what ``path`` says of the same ids; a finding for each kind."""
    texts = [(known, token) for known, token in twice if known.text != token.text]
    flags = [
        (known, token)
        for known, token in twice
        if known.text == token.text and known.special != token.special
    ]
    name = TOKENIZER_CONFIG if path is None else path.name
    findings = []
    if texts:
        known, token = texts[0]
        message = f"Id {token.id} is {known.text!r} in tokenizer.json and {token.text!r} in {name}"
        findings.append(_id_clash(message, len(texts), path, f"added_tokens_decoder.{token.id}"))
    if flags:
        known, token = flags[0]
        findings.append(
            make_finding(
                "GP303",
                f"{token.text!r} is {_flag(known)} in tokenizer.json and {_flag(token)} in {name}"
                f"{_and_more(len(flags))}.",
                path=path,
                key=f"added_tokens_decoder.{token.id}",
                action="Save the tokenizer again.",
            )
        )
    return findings


def _flag(token: AddedToken) -> str:
    return "special" if token.special else "not special"


def _check_ids_free(texts: Mapping[int, str], added: tuple[AddedToken, ...], folder: Path) -> list[Finding]:
    taken = [token for token in added if texts.get(token.id, token.text) != token.text]
    if not taken:
        return []
    first = taken[0]
    message = f"Id {first.id} is {texts[first.id]!r} in the vocabulary, {first.text!r} when added"
    return [_id_clash(message, len(taken), folder / "tokenizer.json", f"added_tokens.{first.id}")]


def _id_clash(message: str, number: int, path: Path | None, key: str) -> Finding:
    return make_finding(
        "GP302",
        f"{message}{_and_more(number)}.",
        path=path,
        key=key,
        action="Save the tokenizer again with the one that the model was trained with.",
    )


def _and_more(number: int) -> str:
    return f", and so are {number - 1:,} more" if number > 1 else ""


def _refuse_many(number: int, path: Path | None, key: str) -> None:
    if number > MAX_ADDED_TOKENS:
        raise _malformed(
            path, key, f"has {number:,} tokens, more than the {MAX_ADDED_TOKENS:,} that are read"
        )


def _check_special_known(tokenizer: Tokenizer, findings: list[Finding], folder: Path) -> None:
    known = {*tokenizer.texts.values(), *(token.text for token in tokenizer.added_tokens)}
    unknown = [text for text in [*tokenizer.special.values(), *tokenizer.extra_special] if text not in known]
    if tokenizer.texts and unknown:
        findings.append(
            make_finding(
                "GP306",
                f"Special tokens without an id: {some(map(repr, dict.fromkeys(unknown)))}; "
                "transformers gives them new ids that the model has no embedding for.",
                path=tokenizer.files.get(TOKENIZER_CONFIG, folder),
                action="Save the tokenizer again, or remove these tokens from tokenizer_config.json.",
            )
        )


def _adds(
    config: Mapping[str, Any],
    fast: Mapping[str, Any] | None,
    files: Mapping[str, Path],
    findings: list[Finding],
) -> tuple[bool | None, bool | None]:
    """Whether encoding adds BOS and EOS: the post-processor first, then tokenizer_config.json."""
    from_processor = _post_processor_adds(None if fast is None else fast.get("post_processor"))
    result: list[bool | None] = []
    for key, processor in zip(("add_bos_token", "add_eos_token"), from_processor, strict=True):
        configured = config.get(key)
        if configured is not None and not isinstance(configured, bool):
            raise _malformed(
                files[TOKENIZER_CONFIG], key, f"must be a boolean and is {type_name(configured)}"
            )
        if processor is not None and configured is not None and processor != configured:
            findings.append(
                make_finding(
                    "GP304",
                    f"{key} is {str(configured).lower()}, and the post-processor in tokenizer.json "
                    f"{'adds' if processor else 'does not add'} the token; the post-processor counts.",
                    path=files[TOKENIZER_CONFIG],
                    key=key,
                    action="Save the tokenizer again.",
                )
            )
        result.append(configured if processor is None else processor)
    return result[0], result[1]


def _post_processor_adds(processor: object) -> tuple[bool | None, bool | None]:
    """``(BOS, EOS)`` of a post-processor, as gguf-py's ``SpecialVocab`` reads it.

    A ``TemplateProcessing`` adds what stands at the ends of its ``single`` template.
    """
    if not isinstance(processor, dict):
        return None, None
    steps = processor.get("processors", [processor])
    bos: bool | None = None
    eos: bool | None = None
    for step in steps if isinstance(steps, list) else []:
        kind = step.get("type") if isinstance(step, dict) else None
        if kind == "ByteLevel":
            bos, eos = bos or False, eos or False
        elif kind in ("RobertaProcessing", "BertProcessing"):
            bos, eos = True, True
        elif kind == "TemplateProcessing":
            single = step.get("single")
            if isinstance(single, list) and single:
                bos, eos = _is_special(single[0]), _is_special(single[-1])
    return bos, eos


def _is_special(item: object) -> bool:
    return isinstance(item, dict) and "SpecialToken" in item


def _malformed(path: Path | None, key: str, why: str) -> CheckpointFileError:
    return CheckpointFileError(
        f"{path or TOKENIZER_CONFIG}: {key} {why}.",
        action="Save the tokenizer again, or copy the file from the base model.",
        path=path,
        key=key,
    )
