"""A GGUF file: header, tensor types, tokenizer, chat template and, when asked, every weight."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ggufpack.chat_template.guard import is_guarded
from ggufpack.chat_template.stops import KNOWN_ENDS
from ggufpack.doctor.examination import DEEP, Log
from ggufpack.doctor.findings import make_finding
from ggufpack.doctor.prompts import JinjaFacts, add_native_losses, read_jinja
from ggufpack.gguf_header import GgufFileError, GgufHeader, read_gguf_header
from ggufpack.modelfile.render import quoted
from ggufpack.quantize.types import FILE_TYPES
from ggufpack.spec import Finding

HEADER, TYPES, TOKENIZER, TEMPLATE, WEIGHTS = (
    "GGUF header",
    "tensor types",
    "GGUF tokenizer",
    "GGUF chat template",
    "GGUF weights",
)
_AFTER_HEADER = (TYPES, TOKENIZER, TEMPLATE, WEIGHTS)
TOKENS = "tokenizer.ggml.tokens"
_CONTROL, _USER_DEFINED = 3, 4  # llama.h, llama_token_type
_SPECIAL = ("bos", "eos", "eot", "eom", "unknown", "seperator", "padding", "cls", "mask", "prefix", "suffix")
_NAMED = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
_LIKE_SPECIAL = re.compile(r"<[|｜][^<>\s]+[|｜]>|</?s>|<(?:end|start)_of_turn>")
_GUESSED = 1024  # LLAMA_FTYPE_GUESSED
# these take no prompt, whether or not they say how they pool (conversion: the encoders of llama.cpp)
_ENCODERS = frozenset({"bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert"})


@dataclass(frozen=True)
class Vocabulary:
    """What the GGUF, or a server that shows its keys, says about the tokenizer.

    Attributes:
        tokens: texts by id; ``None`` when they are not shown.
        ids: special token ids by name (``"eos"``), those outside the vocabulary left out.
        special_texts: texts of control and user-defined tokens.
        add_bos: ``add_bos_token``; ``None`` for the tokenizer's default.
    """

    tokens: Sequence[str] | None = field(repr=False)
    ids: Mapping[str, int]
    special_texts: tuple[str, ...] = field(repr=False)
    add_bos: bool | None

    def text(self, name: str) -> str | None:
        """Of a special token."""
        number = self.ids.get(name)
        return None if number is None or self.tokens is None else self.tokens[number]

    @property
    def special_tokens(self) -> dict[str, str | None]:
        """Variables of the chat template."""
        return {variable: self.text(name) for name, variable in _NAMED.items()}

    @property
    def named_ends(self) -> tuple[str, ...]:
        """Texts of the tokens that the file itself calls ends."""
        return tuple(text for text in map(self.text, ("eos", "eot", "eom")) if text)

    @property
    def ends(self) -> tuple[str, ...]:
        """Texts of the tokens at which llama.cpp ends by itself (src/llama-vocab.cpp, special_eog_ids)."""
        known = [text for text in self.special_texts if text in KNOWN_ENDS]
        return tuple(dict.fromkeys([*self.named_ends, *known]))


@dataclass(frozen=True)
class GgufFacts:
    """What later checks need of a GGUF.

    ``chat_template`` is its text, ``None`` for none; ``is_whole`` is off where a server shows a part only,
    so that a chat template may be there all the same. ``jinja`` is ``None`` when it cannot be read.
    """

    vocabulary: Vocabulary
    jinja: JinjaFacts | None
    chat_template: str | None = field(repr=False)
    context_length: int | None
    is_encoder: bool
    is_whole: bool = True


def check_gguf(
    log: Log, path: Path, *, template: str | None = None, prompts: bool = True
) -> GgufFacts | None:
    """All checks of one file.

    Args:
        log: gets the findings.
        path: the file.
        template: TEMPLATE of the Modelfile that names this file.
        prompts: whether the chat template is read; a package's second file has the same.

    Returns:
        ``None`` when the header cannot be read, and for an adapter, which is no model of its own.
    """
    header = _read(log, path)
    if header is None:
        return None
    facts = log.facts.setdefault("gguf", {}).setdefault(path.name, {})
    architecture = header.text("general.architecture")
    if header.text("general.type") == "adapter":
        facts |= {"architecture": architecture, "size": header.size, "name": header.text("general.name")}
        log.skip_all(_AFTER_HEADER, "it is an adapter, no model")
        return None
    with log.check(TYPES):
        log.add(_check_tensors(header))
    types = Counter(tensor.type_name or f"type {tensor.type_number}" for tensor in header.tensors)
    facts |= {
        "architecture": architecture,
        "file_type": _file_type(header),
        "tensors": dict(types.most_common()),
        "size": header.size,
        "name": header.text("general.name"),
    }
    context = header.integer(f"{architecture}.context_length")
    facts["context_length"] = context
    with log.check(TOKENIZER):
        vocabulary, raised = read_vocabulary(header.keys, path)
        log.add([*raised, *_check_rows(header, vocabulary)])
    is_encoder = architecture in _ENCODERS or header.integer(f"{architecture}.pooling_type") is not None
    jinja_text = header.text("tokenizer.chat_template")
    jinja = None
    if prompts:
        with log.check(TEMPLATE):
            jinja = check_jinja(
                log, jinja_text, vocabulary, path=path, template=template, is_encoder=is_encoder
            )
        facts |= jinja_facts(jinja, jinja_text)
    if log.deep:
        from ggufpack.doctor.weights import check_gguf_weights

        with log.check(WEIGHTS), log.reading(path.name):
            check_gguf_weights(log, header)
    else:
        log.skip(WEIGHTS, DEEP)
    return GgufFacts(vocabulary, jinja, jinja_text, context, is_encoder)


def _read(log: Log, path: Path) -> GgufHeader | None:
    with log.check(HEADER):
        try:
            header = read_gguf_header(path)
        except GgufFileError as error:
            log.add([_damage(path, error)])
        except OSError as error:
            reason = error.strerror or str(error)
            log.add([make_finding("GP265", f"{path} cannot be read: {reason}.", path=path)])
        else:
            log.add(_damage(path, problem) for problem in header.problems[:8])
            return header
    log.skip_all(_AFTER_HEADER, "the header cannot be read")
    return None


def _damage(path: Path, error: GgufFileError) -> Finding:
    return make_finding(
        error.finding, f"{path}: {error.problem}.", path=path, key=error.key, action=error.action
    )


def _file_type(header: GgufHeader) -> str | None:
    number = header.integer("general.file_type")
    if number is None:
        return None
    number &= ~_GUESSED
    return next((name for name, kind in FILE_TYPES.items() if kind.number == number), f"type {number}")


def _check_tensors(header: GgufHeader) -> list[Finding]:
    path = header.path
    found = []
    if not header.text("general.architecture"):
        found.append(
            make_finding(
                "GP266",
                f"{path} has no general.architecture: llama.cpp cannot load it.",
                path=path,
                key="general.architecture",
                action="Convert the model again.",
            )
        )
    elif header.integer(f"{header.text('general.architecture')}.context_length") is None:
        key = f"{header.text('general.architecture')}.context_length"
        found.append(
            make_finding(
                "GP270",
                f"{path} does not say its context length, so nobody can tell whether num_ctx is too large.",
                path=path,
                key=key,
                action="Convert the model again, with a config.json that has max_position_embeddings.",
            )
        )
    if not header.tensors:
        found.append(
            make_finding(
                "GP271",
                f"{path} holds no tensors: it is a vocabulary or metadata only, not a model.",
                path=path,
                action="Give the file that has the weights.",
            )
        )
    named = _file_type(header)
    kind = FILE_TYPES.get(named or "")
    matrices = Counter(tensor.type_name for tensor in header.tensors if len(tensor.shape) > 1)
    if kind is not None and matrices and kind.base.name not in matrices:
        most, count = matrices.most_common(1)[0]
        found.append(
            make_finding(
                "GP268",
                f"{path} calls itself {named}, and has no {kind.base.name} tensor; {count} of"
                f" {sum(matrices.values())} matrices are {most}.",
                path=path,
                key="general.file_type",
                action="Check which quantisation it is before you publish it under that name.",
            )
        )
    return found


def read_vocabulary(keys: Mapping[str, Any], path: Path | None) -> tuple[Vocabulary, list[Finding]]:
    """The tokenizer's keys, and what is wrong with them.

    Args:
        keys: of the GGUF, or those that a server shows.
        path: the file, for the findings.
    """
    where = "The model" if path is None else str(path)
    found: list[Finding] = []
    tokens = keys.get(TOKENS)
    tokens = tokens if isinstance(tokens, list) else None
    if not tokens:
        found.append(
            make_finding(
                "GP350",
                f"{where} has no tokenizer ({TOKENS}).",
                path=path,
                key=TOKENS,
                action="Convert the checkpoint again, with its tokenizer files beside config.json.",
            )
        )
    ids: dict[str, int] = {}
    for name in _SPECIAL:
        key = f"tokenizer.ggml.{name}_token_id"
        number = keys.get(key)
        if not isinstance(number, int) or isinstance(number, bool):
            continue
        if tokens and not 0 <= number < len(tokens):
            found.append(
                make_finding(
                    "GP351",
                    f"{where}: {key} is {number:,}, and the vocabulary ends at {len(tokens) - 1:,}.",
                    path=path,
                    key=key,
                    action=f"Correct it: gguf-set-metadata {path or 'FILE'} {key} ID (of the gguf"
                    " package), or"
                    " convert again"
                    " after correcting the id in generation_config.json.",
                )
            )
        elif tokens:
            ids[name] = number
    model, pre = keys.get("tokenizer.ggml.model"), keys.get("tokenizer.ggml.pre")
    if tokens and model == "gpt2" and pre in (None, "", "default"):
        said = "has no tokenizer.ggml.pre" if pre is None else f'has the pre-tokenizer "{pre}"'
        found.append(
            make_finding(
                "GP354",
                f"{where} {said}: llama.cpp splits text by a rule that few models were trained with.",
                path=path,
                key="tokenizer.ggml.pre",
                action="Convert the checkpoint with a converter that knows its tokenizer.",
            )
        )
    if tokens and "eos" not in ids and "tokenizer.ggml.eos_token_id" not in keys:
        found.append(
            make_finding(
                "GP356",
                f"{where} names no EOS token: llama.cpp takes its tokenizer's default.",
                path=path,
                key="tokenizer.ggml.eos_token_id",
                action="Set it to the token that ends the model's turn.",
            )
        )
    kinds = keys.get("tokenizer.ggml.token_type")
    special: list[str] = []
    if tokens and kinds is not None and not isinstance(kinds, str):
        pairs = zip(tokens, kinds, strict=False)
        special = [token for token, kind in pairs if kind in (_CONTROL, _USER_DEFINED) and token.strip()]
    add_bos = keys.get("tokenizer.ggml.add_bos_token")
    return Vocabulary(tokens, ids, tuple(special), add_bos if isinstance(add_bos, bool) else None), found


def _check_rows(header: GgufHeader, vocabulary: Vocabulary) -> list[Finding]:
    embedding = next((tensor for tensor in header.tensors if tensor.name == "token_embd.weight"), None)
    if embedding is None or len(embedding.shape) < 2 or not vocabulary.tokens:
        return []
    rows, tokens = embedding.shape[1], len(vocabulary.tokens)
    if rows == tokens:
        return []
    return [
        make_finding(
            "GP355",
            f"{header.path}: the vocabulary has {tokens:,} tokens, and the embedding {rows:,} rows: llama.cpp"
            " refuses to load it.",
            path=header.path,
            key=embedding.name,
            action="Convert the checkpoint again, with the tokenizer that belongs to these weights.",
        )
    ]


def check_jinja(
    log: Log,
    text: str | None,
    vocabulary: Vocabulary,
    *,
    path: Path | None,
    template: str | None,
    is_encoder: bool,
) -> JinjaFacts | None:
    """The chat template of a GGUF: whether it can be read, run, and what ends a turn."""
    if is_encoder:
        return None
    if text is None:
        if template is None:
            log.add(
                [
                    make_finding(
                        "GP451",
                        "The GGUF has no chat template (tokenizer.chat_template): in a chat the roles"
                        " are lost,"
                        " unless a TEMPLATE is given.",
                        path=path,
                        key="tokenizer.chat_template",
                        action="Write a TEMPLATE into the Modelfile, or convert the checkpoint with its chat"
                        " template.",
                    )
                ]
            )
        return None
    eos = vocabulary.text("eos")
    jinja = read_jinja(text, path, vocabulary.special_tokens, vocabulary.special_texts, (eos,) if eos else ())
    if template is None:
        add_native_losses(log, jinja, path)
        if not is_guarded(text):
            log.add([_may_be_replaced(path)])
    end = jinja.stops[0] if jinja.stops else None
    if end is not None and vocabulary.tokens and end not in vocabulary.ends:
        log.add([_other_end(end, vocabulary, path)])
    elif end is not None and vocabulary.tokens and end not in vocabulary.named_ends:
        log.add([_known_end(end, eos, path)])
    if vocabulary.add_bos and jinja.plan.emits_bos is False and not jinja.bos:
        bos = vocabulary.text("bos")
        log.add(
            [
                make_finding(
                    "GP353",
                    f"The engine puts {bos!r} in front of every prompt (add_bos_token), and the chat"
                    " template has"
                    " none: training saw prompts without it.",
                    path=path,
                    key="tokenizer.ggml.add_bos_token",
                    action=f"Set add_bos_token to false: gguf-set-metadata {path or 'FILE'}"
                    " tokenizer.ggml.add_bos_token 0 (of"
                    " the gguf package).",
                )
            ]
        )
    return jinja


def jinja_facts(jinja: JinjaFacts | None, text: str | None) -> dict[str, Any]:
    """For ``facts``."""
    if jinja is None:
        return {"chat_template": "none" if text is None else "not read"}
    return {
        "chat_template": f"{len(jinja.template.text)} characters",
        "strategy": jinja.plan.strategy,
        "stops": list(jinja.stops),
    }


def _other_end(end: str, vocabulary: Vocabulary, path: Path | None) -> Finding:
    ends = ", ".join(map(repr, vocabulary.ends)) or "no token at all"
    token = vocabulary.tokens.index(end) if vocabulary.tokens and end in vocabulary.tokens else None
    repair = (
        f" gguf-set-metadata {path or 'FILE'} tokenizer.ggml.eos_token_id {token} (of the gguf package),"
        " or add"
        if token is not None
        else " Add"
    )
    return make_finding(
        "GP352",
        f"The chat template ends a turn with {end!r}, and llama.cpp ends an answer at {ends}: the model"
        " would go"
        " on and talk to itself.",
        path=path,
        key="tokenizer.ggml.eos_token_id",
        action=f"{repair.strip()} the line PARAMETER stop {quoted(end)} to the Modelfile.",
    )


def _known_end(end: str, eos: str | None, path: Path | None) -> Finding:
    return make_finding(
        "GP357",
        f"The chat template ends a turn with {end!r}, and the file's EOS is {eos!r}: llama.cpp ends"
        " there because"
        " it knows the text; other programs go by the file.",
        path=path,
        key="tokenizer.ggml.eos_token_id",
        action=f"Add the line PARAMETER stop {quoted(end)} to the Modelfile.",
    )


def _may_be_replaced(path: Path | None) -> Finding:
    return make_finding(
        "GP452",
        "Without a TEMPLATE, Ollama compares this chat template with about 35 known ones and uses the nearest"
        " one's TEMPLATE when it is close, without a word. Whether it would was not checked.",
        path=path,
        key="tokenizer.chat_template",
        action="Look at `ollama show --template MODEL` after creating it, or build with ggufpack, which"
        " shuts this"
        " out.",
    )
