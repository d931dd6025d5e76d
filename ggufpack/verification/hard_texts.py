"""Texts that tokenizers get wrong: what pre-tokenizers, normalisers and byte fallbacks decide about.

Each is about one thing, so that its name says what to look at. Written for this program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_LONG = 1000
_TOKENS_IN_FULL = 6  # special tokens that get every form; all others stand in one text


@dataclass(frozen=True)
class HardText:
    """One text under a stable name."""

    name: str
    text: str


def _texts(group: str, *texts: str) -> tuple[HardText, ...]:
    """Texts of one group, named by the group and a number."""
    return tuple(HardText(f"{group} {number}", text) for number, text in enumerate(texts, start=1))


_SPACES = (
    *_texts("spaces", *(" " * count for count in (1, 2, 3, 4, 5, 8, 15, 16, 17))),
    *_texts("spaces between words", *(f"a{' ' * count}b" for count in (2, 3, 4, 7))),
    *_texts("spaces at the edges", " a", "a ", "  a  ", "    a", "a    "),
    *_texts("spaces before punctuation", "a , b", "a  ! b", "a   (b)", ' "a" '),
    *_texts("tabs", "\t", "\t\t\ta", "a\tb", " \t a", "a \t\t  b\t"),
    HardText("no-break space", "a\u00a0b \u00a0c\u00a0 d"),
    HardText("narrow no-break space", "10\u202f000\u202f€"),
    HardText("ideographic space", "你好\u3000世界 \u3000a"),
    HardText("other spaces", "a\u2002b\u2003c\u2009d\u200ae\u205ff\u1680g"),
    HardText("line separators", "a\u2028b\u2029c\u0085d\u000be\u000cf"),
)
_NEWLINES = (
    *_texts("newlines", *("\n" * count for count in (1, 2, 3, 4, 9))),
    *_texts("newlines between words", "a\nb", "a\n\nb", "a\n\n\n\nb", "a \n b", "a\n  b", "a  \n\n  b"),
    *_texts("windows newlines", "\r\n", "a\r\nb\r\n", "a\r\n\r\n b", "a\rb\r\rc"),
    HardText("newlines after punctuation", "a.\n\nb:\n- c;\n\n\t- d!\n"),
)
_DIGITS = (
    *_texts("digits", *("1234567890123456"[:count] for count in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 16))),
    HardText("digits after spaces", "a 1 12  123   1234 b"),
    HardText("digits in words", "a1b22c333d4444 x86_64 utf8 2nd 3D"),
    HardText("numbers", "3.14159 -2.5e-10 1,000,000 1_000 0x1F 50% 1/2 $9.99"),
    HardText("dates and times", "2024-01-31T23:59:59.123+02:00 31.12.1999"),
    HardText("arabic digits", "١٢٣٤٥٦ ۱۲۳۴"),
    HardText("devanagari digits", "१२३४५६"),
    HardText("full width digits", "１２３４５"),
    HardText("other numbers", "½ ¾ ² ³ ₁₂ ① ⑳ Ⅳ ㊿ 𝟙𝟚𝟛"),
)
_SCRIPTS = (
    HardText("chinese", "你好，世界。这是一个测试：“引号”、《书》！"),
    HardText("chinese and letters", "我用Python3写了100行code。"),
    HardText("traditional chinese", "繁體中文與標點「測試」"),
    HardText("rare ideographs", "㐀𠀀𠮷龘𪚥"),
    HardText("hiragana and katakana", "こんにちは、カタカナとひらがなー。ﾊﾝｶｸ"),
    HardText("hangul", "안녕하세요 세계"),
    HardText("hangul jamo", "\u1112\u1161\u11ab\u1100\u1173\u11af"),
    HardText("thai", "สวัสดีชาวโลก น้ำ"),
    HardText("devanagari", "नमस्ते दुनिया क्षत्रिय"),
    HardText("bengali and tamil", "বাংলা তமிழ் తెలుగు"),
    HardText("arabic", "مرحبا بالعالم، كيف حالك؟ مُحَمَّد"),
    HardText("hebrew", "שָׁלוֹם עולם"),
    HardText("cyrillic", "Привет, мир! Ёлка ЙЦУКЕН"),
    HardText("greek", "Γειά σου Κόσμε ὦ ἄνδρες"),
    HardText("armenian and georgian", "Բարև გამარჯობა"),
    HardText("vietnamese", "Tiếng Việt: đường, nghĩa, ưỡn"),
    HardText("latin with accents", "Où est l'école ? Straße ÅNGSTRÖM ĳ ŉ"),
    HardText("case that changes length", "İstanbul ıssız ẞ ŒUVRE ǅ"),
    HardText("right to left marks", "a\u200f\u202bשלום\u202c\u200eb"),
    HardText("mixed scripts", "abcабвαβγ你好かな한글ไทย123"),
    HardText("ethiopic and cherokee", "ሰላም ᎣᏏᏲ"),
    HardText("mathematical letters", "𝐀𝑏𝒞𝔡 ℝ ∑ ∫ ≤ ≠ → ∞"),
)
_MARKS = (
    HardText("composed", "é ü ñ ç Å"),
    HardText("decomposed", "e\u0301 u\u0308 n\u0303 c\u0327 A\u030a"),
    HardText("stacked marks", "a\u0301\u0302\u0303\u0304\u0305\u0306b"),
    HardText("mark without a letter", "\u0301 \u0308a"),
    HardText("marks in another order", "a\u0323\u0301 a\u0301\u0323"),
    HardText("compatibility characters", "ﬁ ﬀ ™ ㎏ Ａｂｃ ⁵ ſ Å Ω"),
    HardText("voiced kana", "が か\u3099 ガ カ\u3099"),
)
_EMOJI = (
    HardText("emoji", "😀 👍🎉"),
    HardText("emoji in words", "ok👍ok 😀, 😀!"),
    HardText("emoji with skin tones", "👍🏽 👋🏿"),
    HardText("joined emoji", "👩\u200d👩\u200d👧 🏳\ufe0f\u200d🌈"),
    HardText("flags", "🇨🇭🇯🇵 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"),
    HardText("variation selectors", "☺\ufe0f ☺\ufe0e ❤ 1\ufe0f\u20e3"),
)
_INVISIBLE = (
    HardText("zero width", "zero\u200bwidth\u200cnon\u200djoiner\u2060word"),
    HardText("byte order mark", "\ufeffa \ufeff b"),
    HardText("soft hyphen", "hy\u00adphen"),
    HardText("private use", "\ue000a\uf8ff\U000f0000"),
    HardText("unassigned", "\u0378a\U0003ffff"),
    HardText("noncharacters", "\ufffea\uffff \ufdd0"),
    HardText("replacement character", "a\ufffdb\ufffd\ufffd"),
    HardText("control characters", "a\x01b\x07\x08c\x1b[0md\x7fe\x80f\x9fg"),
    HardText("high planes", "\U00010000\U00010330𐎠𓀀\U0010fffd"),
)
_WORDS = (
    HardText("contractions", "I'm you're he's we've I'll don't they'd"),
    HardText("contractions in capitals", "I'M YOU'RE HE'S WE'VE I'LL DON'T THEY'D"),
    HardText("contractions in mixed case", "I'Ll dOn'T 'S 'll x'd's"),
    HardText("typographic apostrophe", "don\u2019t it\u2019s l\u2019été"),
    HardText("capitals", "CamelCase HTTPServer XMLHttpRequest iPhone McDONALD"),
    HardText("snake and kebab", "snake_case __init__ _a_ kebab-case --flag"),
    HardText("hyphens and dashes", "well-known a–b c—d e - f −1"),
    HardText("one letter", "a"),
    HardText("long word", "Donaudampfschifffahrtsgesellschaftskapitän antidisestablishmentarianism"),
    HardText("no sense", "xqzjkvw QXZ zzyzx asdfghjkl"),
)
_MARKUP = (
    HardText("url", "https://user:pw@example.com:8080/a/b%20c?x=1&y=[2]#frag"),
    HardText("mail and paths", r"a.b+c@example.org C:\Users\me\file.txt /usr/local/bin ../x ~/y"),
    HardText("python", 'def f(x: int = 0) -> str:\n    """Doc."""\n\n    return f"{x!r}\\n"  # ok\n'),
    HardText("c", "#include <stdio.h>\nint main(void) {\n\tfor (;;) { x->y++; }\n\treturn 0;\n}\n"),
    HardText("deep indentation", "if a:\n        if b:\n                c()\n    else:\n\t\td()\n"),
    HardText("json", '{"a": [1, 2.5, null, true], "b": {"c": "\\u00e9\\n"}}'),
    HardText("html", "<p class='x'>1 &lt; 2 &amp; <br/></p><!-- c -->"),
    HardText("markdown", "# Title\n\n- **a** _b_\n  1. `c`\n\n| a | b |\n|---|---|\n"),
    HardText("latex", r"\frac{\partial f}{\partial x_1} = \sum_{i=0}^{n} a_i^2 $\alpha$ \\ \%"),
    HardText("regular expression", r"^(?:[A-Za-z_]\w*)\s*=\s*(\d+|\"[^\"]*\")$"),
    HardText("shell", "echo \"$HOME\" | sed 's/a/b/g' > /dev/null 2>&1 && ls -la"),
    HardText("looks like byte tokens", "<0x0A> <0x41> ▁a▁▁b Ġa Ċ <unk>"),
)
_PUNCTUATION = (
    HardText("punctuation", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"),
    HardText("punctuation runs", "... !!! ??? --- === *** ### $$$ ((())) ;;;; !?!?"),
    HardText("punctuation and words", "a.b,c;d:e!f?g(h)i[j]k{l}m\"n'o"),
    HardText("typographic quotes", "“a” ‘b’ «c» „d“ …"),
    HardText("currency and symbols", "€ £ ¥ ₹ § © ® ° µ ¶ † ‡ • ★ ☃"),
    HardText("box drawing", "┌─┐│└┘ ░▒▓█"),
    HardText("punctuation before newlines", "a!!!\n\n\nb)))\n;\n"),
)
_RUNS = (
    HardText("long run of a letter", "a" * _LONG),
    HardText("long run of capitals", "A" * _LONG),
    HardText("long run of spaces", " " * _LONG),
    HardText("long run of equals signs", "=" * _LONG),
    HardText("long run of digits", "1234567890" * (_LONG // 10)),
    HardText("long run of newlines", "\n" * _LONG),
    HardText("long run of an ideograph", "好" * _LONG),
    HardText("long run of an emoji", "😀" * (_LONG // 4)),
)

HARD_TEXTS: tuple[HardText, ...] = (
    HardText("empty", ""),
    *_SPACES,
    *_NEWLINES,
    *_DIGITS,
    *_SCRIPTS,
    *_MARKS,
    *_EMOJI,
    *_INVISIBLE,
    *_WORDS,
    *_MARKUP,
    *_PUNCTUATION,
    *_RUNS,
)


def special_hard_texts(special_texts: Sequence[str]) -> tuple[HardText, ...]:
    """Hard texts made from a checkpoint's special tokens: whole ones, partial ones, and such between words.

    Args:
        special_texts: texts of the tokens; the first few get every form, and all stand in one text.
    """
    tokens = [token for token in dict.fromkeys(special_texts) if token]
    if not tokens:
        return ()
    forms = (
        ("alone", "{0}"),
        ("doubled", "{0}{0}"),
        ("inside a word", "ab{0}cd"),
        ("between spaces", "a {0} b"),
        ("before a newline", "{0}\n{0}\n\na"),
    )
    found = [
        HardText(f"special token {token!r} {name}", form.format(token))
        for token in tokens[:_TOKENS_IN_FULL]
        for name, form in forms
    ]
    for token in tokens[:_TOKENS_IN_FULL]:
        half = max(1, len(token) * 2 // 3)
        found += [
            HardText(f"begin of special token {token!r}", f"a {token[:half]} b{token[:-1]}"),
            HardText(f"end of special token {token!r}", f"a {token[half:]} b{token[1:]}"),
        ]
        found += [
            HardText(f"special token {token!r} in other case", f"a {other} b")
            for other in dict.fromkeys((token.lower(), token.upper()))
            if other != token
        ]
    found.append(HardText("every special token", "a".join(tokens)))
    return tuple(found)
