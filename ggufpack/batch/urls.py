"""Paths that stand for URLs (``s3://bucket/run/checkpoint-5``). Pure.

A ``BuildSpec`` holds them as paths; ``Path`` makes ``s3:/bucket`` of ``s3://bucket``; ``url_of`` undoes that.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from ggufpack.errors import UsageError

# a scheme of one letter would be a drive
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}(?!/)(.*)\Z")
_LOCAL = ("file", "local")
_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:/{1,3})[^/@\s]*:[^/@\s]*@")
# "?" alone is a glob's
_QUERY = re.compile(r"\?[^\s/?]*=\S*")


def url_of(path: Path) -> str | None:
    """The URL that a path stands for; ``None`` for an ordinary path."""
    match = _URL.match(str(path))
    if match is None:
        return None
    scheme, rest = match[1], match[2]
    return f"{scheme}:///{rest}" if scheme in _LOCAL else f"{scheme}://{rest}"


def shown(path: Path) -> str:
    """A path as people write it: its URL where it stands for one."""
    return url_of(path) or str(path)


def absolute(path: Path) -> Path:
    """A path that does not depend on the current folder; what stands for a URL stays."""
    return path if url_of(path) is not None else path.absolute()


def joined(url: str, name: str) -> str:
    """The URL of what lies in a folder under a name."""
    return f"{url.rstrip('/')}/{name}"


def without_secrets(text: str) -> str:
    """A text whose URLs have neither a password nor a query."""
    return _QUERY.sub("?…", _USER.sub(r"\1…@", text))


def check_url(path: Path) -> Path:
    """The path, unless it stands for a URL that must not be written down or leads elsewhere.

    Raises:
        UsageError: the URL has a password, a query (a token), or ``..`` in it.
    """
    url = url_of(path)
    if url is None:
        return path
    if without_secrets(url) != url:
        raise UsageError(
            f"{without_secrets(url)} has credentials in it, which would be written down.",
            action="Leave them out: the storage's package reads them from the environment or its own files.",
        )
    if ".." in PurePosixPath(url).parts:
        raise UsageError(f"{url} has .. in it.", action="Give the URL without it.")
    return path
