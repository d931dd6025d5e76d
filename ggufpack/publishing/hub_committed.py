"""What a commit on the Hub holds, compared with the files that were sent."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufpack.errors import HubError
from ggufpack.publishing.contents import RepoFile
from ggufpack.spec import EventHandler, Note

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_LOOK = "Look at the repository before anybody uses it, and publish again."


def check_commit(
    api: HfApi,
    repo: str,
    commit: object,
    files: Sequence[RepoFile],
    deleted: Sequence[str],
    on_event: EventHandler,
) -> None:
    """Ask the Hub for the commit that it named, and compare the digests of all files.

    Args:
        api: of the Hub.
        repo: ``USER/REPO``.
        commit: as the Hub gave it.
        files: that it should hold.
        deleted: names that it should not hold.
        on_event: gets a note where the Hub tells no digest.

    Raises:
        HubError: it is another commit, or one file of it is missing or another one.
    """
    if not isinstance(commit, str) or not _COMMIT.match(commit):
        raise HubError(f"The Hub says that {repo} has the files, and names no commit.", action=_LOOK)
    info = api.model_info(repo, revision=commit, files_metadata=True)
    if info.sha != commit:
        raise HubError(f"The Hub shows another commit of {repo} than {commit}.", action=_LOOK)
    there = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    untold = []
    for file in files:
        equal = _is_same(file, there[file.name]) if file.name in there else False
        if equal is False:
            state = "another" if file.name in there else "no"
            raise HubError(f"{repo} has {state} {file.name} in commit {commit}.", action=_LOOK)
        if equal is None:
            untold.append(file.name)
    for name in deleted:
        if name in there:
            raise HubError(f"{repo} still has {name} in commit {commit}.", action=_LOOK)
    if untold:
        on_event(Note(f"The Hub tells no digest of {', '.join(untold)}; not compared"))


def _is_same(file: RepoFile, sibling: Any) -> bool | None:
    """``None`` where the Hub does not tell. A large file has a SHA-256, another one git's own digest."""
    if sibling.lfs is not None:
        sha256 = file.sha256 or hashlib.sha256(_content(file)).hexdigest()
        return bool(sibling.lfs["sha256"] == sha256)
    if sibling.blob_id is None:
        return None
    content = _content(file)
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content)  # noqa: S324 - git's
    return bool(sibling.blob_id == blob.hexdigest())


def _content(file: RepoFile) -> bytes:
    return file.source.read_bytes() if isinstance(file.source, Path) else file.source
