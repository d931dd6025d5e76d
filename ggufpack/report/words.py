"""Numbers and texts as the report shows them."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterable
from datetime import datetime

from ggufpack.proofs import Estimate

_NOT_A_NUMBER = "not a number"
# anywhere; and at the start, where a list, a heading or a number would begin
_MARKDOWN = re.compile(r"[\\`*_\[\]<>|~&$]|^(?:[-+#=](?!\d)|\d+(?=[.)](?:\s|$)))")
_SHOWN_FORMATS = "\u200c\u200d\u00ad"  # joiners and the soft hyphen: Persian, emoji, ordinary text


def clean(text: str) -> str:
    """``text`` without what could break or disguise a page: controls, direction marks, lone surrogates."""
    return "".join(f"⟨U+{ord(c):04X}⟩" if _is_unsafe(c) else c for c in text)


def _is_unsafe(character: str) -> bool:
    if character in _SHOWN_FORMATS or character in "\n\t":
        return False
    return unicodedata.category(character) in ("Cc", "Cf", "Cs")


def markdown(text: str) -> str:
    """``text`` as one line of Markdown that means nothing but itself, in a table too."""
    return _MARKDOWN.sub(_escaped, " ".join(clean(text).split()))


def _escaped(match: re.Match[str]) -> str:
    found = match[0]
    return f"{found}\\" if found.isdigit() else f"\\{found}"


def megabytes(size: int) -> str:
    """Bytes as MB or GB of a thousand, as download pages count."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def significant(value: float, digits: int = 3) -> str:
    """Three significant digits, without an exponent down to a millionth."""
    if not math.isfinite(value):
        return _NOT_A_NUMBER if math.isnan(value) else "infinite"
    if value == 0 or not 1e-6 <= abs(value) < 1e6:
        return f"{value:.{digits}g}"
    places = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:.{places}f}"


def short(value: float) -> str:
    """A limit, or a value beside one: no zeros at the end."""
    text = significant(value)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def percent(value: float, places: int = 1) -> str:
    """A share of 0 to 1; only 1 itself is 100 %."""
    if not math.isfinite(value):
        return _NOT_A_NUMBER
    text = f"{100 * value:.{places}f}"
    while value < 1 and float(text) >= 100 and places < 6:
        places += 1
        text = f"{100 * value:.{places}f}"
    return f"{text} %"


def cosine(value: float, places: int = 4) -> str:
    """A cosine of vectors; only 1 itself is 1."""
    if not math.isfinite(value):
        return _NOT_A_NUMBER
    text = f"{value:.{places}f}"
    while value < 1 and float(text) >= 1 and places < 9:
        places += 1
        text = f"{value:.{places}f}"
    return text


def signed(value: float) -> str:
    """A difference, with its sign."""
    return ("+" if value > 0 else "") + significant(value)


def interval(estimate: Estimate, *, share: bool = False) -> str:
    """The ends of the 95 % interval."""
    show = percent if share else significant
    return f"{show(estimate.low)} to {show(estimate.high)}"


def seconds(value: float) -> str:
    """A time, to a tenth below a minute."""
    if not math.isfinite(value):
        return _NOT_A_NUMBER
    return f"{value:.1f} s" if value < 60 else f"{value // 60:.0f} min {value % 60:.0f} s"


def moment(created: str) -> str:
    """The record's time, to the minute; as it stands when it is no time."""
    try:
        time = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{time:%Y-%m-%d %H:%M} {time.tzname() or ''}".rstrip()


def json_text(value: object) -> str:
    """A value of the record as it stands there; texts without quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def listed(words: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *front, last = list(words) or [""]
    return f"{', '.join(front)} and {last}" if front else last


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """``1 prompt``, ``2 prompts``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
