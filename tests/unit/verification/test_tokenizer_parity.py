"""Tokenizer parity with real tokenizers: what is wrong on purpose is found, and made short."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.normalizers import NFC

from ggufpack.proofs import TokenizerMiss, TokenizerParity, Verification
from ggufpack.verification.findings import SHOWN_MISSES, fidelity_findings
from ggufpack.verification.hard_texts import HARD_TEXTS, HardText, special_hard_texts
from ggufpack.verification.tokenizer_parity import Tokenize, check_tokenizer

SPECIAL = "<|im_end|>"
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
MERGES = [("1", "2"), ("12", "3"), ("a", "b"), ("Ġ", "a"), ("Ġ", "Ġ"), ("ĠĠ", "ĠĠ"), ("Ċ", "Ċ"), ("'", "s")]


def tokenizer(
    split: str = GPT2, *, merges: Sequence[tuple[str, str]] = MERGES, special: bool = True
) -> Tokenizer:
    """A byte-level BPE tokenizer with a few merges."""
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(left + right for left, right in MERGES)]
    made = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, list(merges)))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    if special:
        made.add_special_tokens([AddedToken(SPECIAL, special=True, normalized=False)])
    return made


def ids(of: Tokenizer) -> Tokenize:
    return lambda texts: [one.ids for one in of.encode_batch(list(texts), add_special_tokens=False)]


def check(actual: Tokenizer) -> TokenizerParity:
    right = tokenizer()
    return check_tokenizer(
        ids(right), ids(actual), lambda i: right.decode([i], False), special_texts=[SPECIAL]
    )


def test_the_same_tokenizer_has_no_miss() -> None:
    parity = check(tokenizer())
    assert parity.misses == ()
    assert parity.texts == len(HARD_TEXTS) + len(special_hard_texts([SPECIAL]))
    assert fidelity_findings(Verification("m", "e", "fidelity", tokenizer=parity))[-1].id != "GP614"


@pytest.mark.parametrize(
    ("split", "shortest"),
    [
        (GPT2.replace(r"\p{N}+", r"\p{N}"), "12"),  # every digit alone
        (GPT2.replace(r"\p{N}+", r"\p{N}{1,2}"), "123"),
        (GPT2.replace(r"\s+(?!\S)|", ""), None),
        (GPT2.replace("(?:[sdmt]|ll|ve|re)", "(?!.).") + "|x", "'s"),  # no contractions
    ],
)
def test_a_wrong_split_is_found_and_made_short(split: str, shortest: str | None) -> None:
    parity = check(tokenizer(split))
    assert parity.misses
    assert all(len(miss.text) <= 4 for miss in parity.misses), [miss.text for miss in parity.misses]
    if shortest is not None:
        assert parity.misses[0].text == shortest
    assert check(tokenizer(split)) == parity


def test_texts_that_come_out_alike_are_one_miss() -> None:
    (miss,) = check(tokenizer(merges=[merge for merge in MERGES if merge != ("a", "b")])).misses
    assert (miss.text, miss.expected, miss.actual) == ("ab", ("ab",), ("a", "b"))
    assert miss.name.endswith("more")


def test_a_special_token_that_is_read_as_text_is_found() -> None:
    (miss,) = check(tokenizer(special=False)).misses
    assert (miss.text, miss.expected) == (SPECIAL, (SPECIAL,))
    assert miss.name.startswith("special token '<|im_end|>' alone")


def test_a_normalizer_is_found() -> None:
    actual = tokenizer()
    actual.normalizer = NFC()
    assert "e\u0301" in {miss.text for miss in check(actual).misses}


def test_a_token_in_front_is_found_with_the_empty_text() -> None:
    right = ids(tokenizer())
    parity = check_tokenizer(right, lambda texts: [[0, *one] for one in right(texts)], str)
    assert [(miss.text, miss.expected, miss.actual) for miss in parity.misses] == [("", (), ("0",))]
    assert parity.misses[0].name == f"empty and {len(HARD_TEXTS) - 1} more"


@pytest.mark.parametrize("needed", ["a" * 700, "aXbYc", "X"])
def test_what_is_left_cannot_be_shorter(needed: str) -> None:
    # differs where all characters of ``needed`` stand in the text, in their order
    def wrong(text: str) -> bool:
        rest = iter(text)
        return all(character in rest for character in needed)

    calls = []

    def actual(texts: Sequence[str]) -> list[list[int]]:
        calls.append(len(texts))
        return [[int(wrong(text))] for text in texts]

    text = "a" * 500 + "X--b" + "Y" * 300 + "c" + "a" * 500
    parity = check_tokenizer(lambda texts: [[0]] * len(texts), actual, str, [HardText("long", text)])
    assert [miss.text for miss in parity.misses] == [needed]
    assert len(calls) <= 110


def test_a_part_in_the_middle_is_found_though_no_single_character_can_go() -> None:
    def actual(texts: Sequence[str]) -> list[list[int]]:
        return [[int(text in ("ab", "xaby"))] for text in texts]

    parity = check_tokenizer(lambda texts: [[0]] * len(texts), actual, str, [HardText("one", "xaby")])
    assert [miss.text for miss in parity.misses] == ["ab"]


def test_a_text_that_cannot_be_shortened_costs_a_bounded_number_of_calls() -> None:
    text = "".join(chr(0x4E00 + i) for i in range(600))
    kept = set(text[::2])
    calls = []

    def actual(texts: Sequence[str]) -> list[list[int]]:
        calls.append(len(texts))
        return [[int(kept <= set(one))] for one in texts]

    parity = check_tokenizer(lambda texts: [[0]] * len(texts), actual, str, [HardText("long", text)])
    assert kept <= set(parity.misses[0].text)
    assert len(calls) <= 103


def test_a_tokenizer_that_loses_a_text_is_an_error() -> None:
    with pytest.raises(ValueError, match="149 results for 150 texts"):
        check_tokenizer(lambda texts: [[0]] * len(texts), lambda texts: [[0]] * (len(texts) - 1), str)


def test_the_hard_texts_are_unique_valid_and_have_names() -> None:
    texts = (*HARD_TEXTS, *special_hard_texts(["<s>", "<|im_start|>", "<s>", ""]))
    assert len({text.name for text in texts}) == len(texts)
    assert len({text.text for text in HARD_TEXTS}) == len(HARD_TEXTS) >= 140
    assert all(text.text.encode() is not None for text in texts), "no lone surrogate"
    everything = "".join(text.text for text in HARD_TEXTS)
    for part in (
        "\r\n",
        "\u00a0",
        "\u3000",
        "\u200d",
        "\ufeff",
        "e\u0301",
        "\u00e9",
        "🏽",
        "٣",
        "I'LL",
        "\x1b",
    ):
        assert part in everything


def test_special_tokens_get_every_form() -> None:
    texts = {text.text for text in special_hard_texts(["<|im_start|>", "<|im_end|>"])}
    assert {"<|im_end|>", "<|im_end|><|im_end|>", "ab<|im_end|>cd", "a <|im_end|> b"} <= texts
    assert any("<|im_en" in text and "<|im_end|>" not in text for text in texts)
    assert any("<|IM_END|>" in text for text in texts)
    assert "<|im_start|>a<|im_end|>" in texts
    assert special_hard_texts([]) == ()


def _found(make: Callable[[int], TokenizerMiss], count: int) -> list[str]:
    parity = TokenizerParity(150, tuple(map(make, range(count))))
    done = Verification("m:q8_0", "engine", "fidelity", tokenizer=parity)
    assert not done.passed
    return [finding.message for finding in fidelity_findings(done) if finding.id == "GP614"]


def test_the_finding_shows_the_text_escaped_and_both_cuts() -> None:
    miss = TokenizerMiss("newlines 2", "\n\u3000", ("\n", "\u3000"), ("\n\u3000",))
    (message,) = _found(lambda _: miss, 1)
    assert message == (
        "m:q8_0: the tokenizer cuts '\\n\\u3000' (newlines 2) into '\\n\\u3000',"
        " the checkpoint's into '\\n' '\\u3000'"
    )
    (long,) = _found(lambda _: replace(miss, text="x" * 1000, actual=("x",) * 1000), 1)
    assert len(long) < 400


def test_many_misses_are_counted() -> None:
    messages = _found(lambda n: TokenizerMiss(str(n), str(n), (), ("x",)), 9)
    assert len(messages) == SHOWN_MISSES + 1
    assert "6 more texts" in messages[-1]
