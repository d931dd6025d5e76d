"""Uploads a repository to the Hugging Face Hub, through huggingface_hub.

Each GGUF is uploaded before the one commit that makes all files visible, so a repository never shows
half a package. Who runs an interrupted upload again sends nothing twice that had arrived: the Hub says
which files it has (Git LFS batch API), and with Xet, which parts of a file. Source: huggingface_hub's
guide "Upload files to the Hub", preupload_lfs_files and create_commit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ggufpack import __version__
from ggufpack.errors import HubError, UsageError
from ggufpack.publishing.contents import GGUF_SUFFIX, RepoFile
from ggufpack.publishing.hub_client import hub_client
from ggufpack.publishing.hub_committed import check_commit
from ggufpack.publishing.hub_errors import hub_errors
from ggufpack.publishing.ollama_files import OLLAMA_FILES
from ggufpack.spec import EventHandler, Note, ignore_event

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
_TARGET = re.compile(rf"hf:({_NAME}/{_NAME})\Z")
# larger files are always stored as large files (the Hub's documentation: "Storage limits"); the others are
# sent from memory, in the commit itself
_MOST_REGULAR = 10 << 20


@dataclass(frozen=True)
class Uploaded:
    """What is on the Hub now. ``deleted`` are files that were in the repository and would have changed
    how the new ones are run."""

    repo: str
    url: str
    commit: str
    private: bool
    deleted: tuple[str, ...]


def parse_target(text: str) -> str:
    """``USER/REPO`` of ``hf:USER/REPO``.

    Raises:
        UsageError: anything else.
    """
    match = _TARGET.match(text)
    if match is None or ".." in text or "--" in text:
        raise UsageError(f"{text!r} is no repository on the Hub.", action="Write --to hf:USER/REPO.")
    return match[1]


def upload(
    repo: str,
    files: Sequence[RepoFile],
    message: str,
    *,
    public: bool = False,
    replace: bool = False,
    on_event: EventHandler = ignore_event,
) -> Uploaded:
    """Create the repository where it is missing, and put the files into it in one commit.

    The token is huggingface_hub's own: HF_TOKEN, or the one that ``hf auth login`` stored.

    Args:
        repo: ``USER/REPO``.
        files: ``contents.make_contents``.
        message: of the commit.
        public: makes a new repository public; without it, one that is public already is refused.
        replace: deletes GGUFs of the repository that are not among ``files``.
        on_event: gets notes.

    Raises:
        UsageError: huggingface_hub is not installed, the repository is public, or it holds other GGUFs.
        HubError: no token, the Hub refused, failed or cannot be reached, or shows something else afterwards.
    """
    try:
        import huggingface_hub as hub
    except ImportError:
        raise UsageError(
            "huggingface_hub is not installed.", action="Install it: pip install 'ggufpack[hub]'."
        ) from None
    token = hub.get_token()
    if token is None:
        raise HubError(
            "There is no token for the Hub.",
            action="Log in with `hf auth login`, or set HF_TOKEN. --dry-run needs none.",
        )
    api = hub.HfApi(library_name="ggufpack", library_version=__version__)
    with hub_client(token, on_event), hub_errors(repo, token):
        api.create_repo(repo, private=not public, exist_ok=True)
        info = api.model_info(repo)
        private = bool(info.private)
        if not public and not private:
            raise UsageError(
                f"{repo} exists and is public.", action="Pass --public if everybody shall have the package."
            )
        if public and private:
            on_event(Note(f"{repo} exists and stays private; its settings on the Hub can change that"))
        there = {sibling.rfilename for sibling in info.siblings or ()}
        stale = _stale(repo, there, files, replace=replace)
        additions = [_addition(file) for file in files]
        for file, addition in zip(files, additions, strict=True):
            if file.sha256 is not None:
                on_event(Note(f"Uploading {file.name}"))
                _send(api, repo, file, addition)
        on_event(Note("Committing"))
        commit = api.create_commit(
            repo,
            [*additions, *(hub.CommitOperationDelete(name) for name in stale)],
            commit_message=message,
            parent_commit=info.sha,
        )
        check_commit(api, repo, commit.oid, files, stale, on_event)
    return Uploaded(repo, f"{api.endpoint}/{repo}", commit.oid, private, stale)


def _stale(repo: str, there: set[str], files: Sequence[RepoFile], *, replace: bool) -> tuple[str, ...]:
    """Files in the repository that may not stay beside the new ones."""
    old = there - {file.name for file in files}
    models = sorted(name for name in old if name.lower().endswith(GGUF_SUFFIX))
    if models and not replace:
        raise UsageError(
            f"{repo} holds {models[0]}, which is not in this package and would get its prompt.",
            action="Pass --replace to delete other GGUFs there, or choose another repository.",
        )
    return (*models, *(name for name in OLLAMA_FILES if name in old))


def _addition(file: RepoFile) -> CommitOperationAdd:
    from huggingface_hub import CommitOperationAdd

    return CommitOperationAdd(file.name, file.source)


def _send(api: HfApi, repo: str, file: RepoFile, addition: CommitOperationAdd) -> None:
    api.preupload_lfs_files(repo, [addition], free_memory=False)
    sent = addition.upload_info.sha256.hex()
    if sent != file.sha256:
        raise HubError(
            f"{file.name} was changed while it was uploaded: its sha256 is {sent[:12]}… now."
            " Nothing was committed.",
            action="Build the package again.",
        )
    if addition._should_ignore or (
        addition._upload_mode != "lfs" and addition.upload_info.size > _MOST_REGULAR
    ):
        raise HubError(
            f"The Hub does not take {file.name} as a large file. Nothing was committed.",
            action="Look at .gitattributes and .gitignore in the repository.",
        )
