"""Where the project's own data files are: templates/ and vendor/.

In a wheel they are inside the package (``ggufpack/_data``, put there by setup.py); in a checkout
and an editable install they are beside it.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_INSTALLED = _PACKAGE / "_data"


def data_folder(name: str) -> Path:
    """The folder ``templates`` or ``vendor``, as shipped."""
    root = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent
    return root / name


def in_checkout() -> bool:
    """Whether this is a source checkout (or an editable install of one)."""
    return not _INSTALLED.is_dir()
