"""Regular expressions over module names (``rank_pattern``, ``alpha_pattern``), matched as PEFT does.

An expression out of a download can need time that doubles with every character of a name (``(a*)*b``,
``(a|a)(a|a)…``), and Python's engine cannot be interrupted. So only those are taken whose time grows with a
small power of the name's length: no group is repeated, and there are few groups and repetitions. What
trainers write (``model.layers.0.self_attn.q_proj``, ``.*layers\\.\\d+\\.(q|k)_proj``) is well within that.
"""

from __future__ import annotations

import functools
import re

_LONGEST = 1000  # characters
_MOST_REPETITIONS = 3
_MOST_GROUPS = 3
# an escaped character, or a set: nothing in them repeats or groups
_ATOM = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)


@functools.lru_cache(maxsize=4096)  # Python's own keeps 512, and an adapter may have one a module
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """PEFT's ``get_pattern_key`` with ``pattern`` in it: for the end of a module's name.

    Raises:
        ValueError: it is no regular expression, or its time is not bounded; a clause that says why.
    """
    bare = _ATOM.sub("x", pattern)
    if len(pattern) > _LONGEST:
        raise ValueError(f"it has more than {_LONGEST:,} characters")
    if "#" in bare or re.search(r"\)\s*[*+?{]", bare):
        raise ValueError("it repeats a group")
    if len(re.findall(r"[*+{]|(?<!\()\?", bare)) > _MOST_REPETITIONS or bare.count("(") > _MOST_GROUPS:
        raise ValueError(f"it has more than {_MOST_REPETITIONS} repetitions or {_MOST_GROUPS} groups")
    try:
        return re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"it is no regular expression ({error})") from error
