"""Tokenizer parity: the checkpoint's tokenizer against the GGUF's, token for token.

Both sides parse special tokens that stand in a text and add none of their own: so a chat template's output
is tokenized (transformers ``add_special_tokens=False``; llama.cpp ``llama_tokenize`` with ``add_special``
false and ``parse_special`` true).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from ggufpack.proofs import TokenizerMiss, TokenizerParity
from ggufpack.verification.hard_texts import HARD_TEXTS, HardText, special_hard_texts

# texts to their token ids, many at once
Tokenize = Callable[[Sequence[str]], list[list[int]]]
_Differ = Callable[[Sequence[str]], list[bool]]

_MAX_CALLS = 100  # to shorten one text
_ALL_PARTS = 48  # up to this length every part of a text is tried


def check_tokenizer(
    expected: Tokenize,
    actual: Tokenize,
    piece: Callable[[int], str],
    texts: Sequence[HardText] = HARD_TEXTS,
    special_texts: Sequence[str] = (),
) -> TokenizerParity:
    """Compare two tokenizers on hard texts.

    A text that they cut differently is shortened until no code point can be left out (Zeller and
    Hildebrandt's delta debugging), or until it was tried 100 times; texts that come out alike are one miss,
    which names how many they were. The same input gives the same result.

    Args:
        expected: the checkpoint's tokenizer.
        actual: the GGUF's.
        piece: what a token id stands for, for people.
        texts: what to compare.
        special_texts: texts of the checkpoint's special tokens, of which more texts are made.

    Raises:
        ValueError: a tokenizer gives another number of results than it got texts.
    """
    texts = (*texts, *special_hard_texts(special_texts))

    def differ(tried: Sequence[str]) -> list[bool]:
        pairs = zip(_tokens(expected, tried), _tokens(actual, tried), strict=True)
        return [one != other for one, other in pairs]

    names: dict[str, list[str]] = {}
    for text, wrong in zip(texts, differ([text.text for text in texts]), strict=True):
        if wrong:
            names.setdefault(_shortest(text.text, differ), []).append(text.name)
    short = sorted(names, key=lambda text: (len(text), text))
    rows = zip(short, _tokens(expected, short), _tokens(actual, short), strict=True)
    misses = tuple(
        TokenizerMiss(_named(names[text]), text, tuple(map(piece, one)), tuple(map(piece, other)))
        for text, one, other in rows
    )
    return TokenizerParity(len(texts), misses)


def _tokens(tokenize: Tokenize, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        return []
    found = [list(ids) for ids in tokenize(texts)]
    if len(found) != len(texts):
        raise ValueError(f"a tokenizer gave {len(found)} results for {len(texts)} texts")
    return found


def _named(names: Sequence[str]) -> str:
    more = len(names) - 1
    return names[0] if not more else f"{names[0]} and {more} more"


def _shortest(text: str, differ: _Differ) -> str:
    """A part of ``text`` that differs and has no code point that can be left out."""
    parts = 1  # the empty text is the first one tried
    for _ in range(_MAX_CALLS):
        if not text:
            return text
        tried = _without_parts(text, parts)
        found = next((part for part, wrong in zip(tried, differ(tried), strict=True) if wrong), None)
        if found is not None:
            text = found
            parts = max(2, min(parts - 1, len(text)))
        elif parts >= len(text):
            break
        else:
            parts = min(2 * parts, len(text))
    if len(text) > _ALL_PARTS:
        return text
    # two parts that only differ together may stand for one shorter part in the middle
    ranges = [(start, end) for start in range(len(text)) for end in range(start + 1, len(text) + 1)]
    inner = list(dict.fromkeys(text[start:end] for start, end in ranges))
    inner = sorted((part for part in inner if len(part) < len(text)), key=len)
    return next((part for part, wrong in zip(inner, differ(inner), strict=True) if wrong), text)


def _without_parts(text: str, parts: int) -> list[str]:
    """Each of so many parts of ``text``, and ``text`` without it; the shortest first, none twice."""
    edges = [len(text) * i // parts for i in range(parts + 1)]
    cuts = list(pairwise(edges))
    tried = [text[start:end] for start, end in cuts] + [text[:start] + text[end:] for start, end in cuts]
    return sorted(dict.fromkeys(part for part in tried if part != text), key=len)
