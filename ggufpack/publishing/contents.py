"""What a repository gets: the package's files, and those that are made for it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufpack.errors import UsageError
from ggufpack.held import held_folder
from ggufpack.publishing.card import CARD_NAME, CardFacts, render_card
from ggufpack.publishing.ollama_files import ollama_files, shared_modelfile
from ggufpack.publishing.package import CheckedPackage
from ggufpack.resources import sync, write_new

GGUF_SUFFIX = ".gguf"


@dataclass(frozen=True)
class RepoFile:
    """A file at the repository's root: ``source`` is its content, or a file of the package.

    ``sha256`` is the record's, of a GGUF.
    """

    name: str
    source: bytes | Path
    sha256: str | None = None


def make_contents(
    package: CheckedPackage, repo: str, *, license_id: str | None = None, base_models: Sequence[str] = ()
) -> tuple[RepoFile, ...]:
    """The files of a repository: GGUFs, Modelfiles, what Ollama reads, licence and card.

    The record and the report stay at home: they hold paths of this machine and all texts.

    Raises:
        ModelfileError: the Modelfiles cannot be one repository's.
        UsageError: a parameter that Ollama would refuse; no licence or no model of the Hub.
    """
    modelfile = shared_modelfile(package.modelfiles)
    result = package.record.result
    prompt = ollama_files(modelfile)
    facts = CardFacts(repo, license_id, tuple(base_models), template="template" in prompt)
    files = [RepoFile(file.path, package.folder / file.path, file.sha256) for file in result.files]
    files += [RepoFile(name, package.folder / name) for name in result.modelfiles.values()]
    files += [RepoFile(name, content) for name, content in prompt.items()]
    if modelfile.license:
        files.append(RepoFile("LICENSE", "\n\n".join(modelfile.license).encode()))
    files.append(RepoFile(CARD_NAME, render_card(package.data, facts).encode()))
    return tuple(files)


def write_folder(files: Sequence[RepoFile], target: Path) -> None:
    """Write the repository as a folder, which appears when it is whole. GGUFs are hard links where
    the file system has them, and copies elsewhere.

    Raises:
        UsageError: ``target`` is there already, or cannot be written.
    """
    if target.exists():
        raise UsageError(f"{target} exists.", action="Name a folder that is not there yet.", path=target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with held_folder(f".{target.name}.tmp-", target.parent) as working:
            for file in files:
                _write(file, working / file.name)
            working.chmod(0o755)
            sync(working)
            working.rename(target)
    except OSError as error:
        raise UsageError(
            f"{target} cannot be written: {error.strerror or error}.",
            action="Choose another --output.",
            path=target,
        ) from error


def _write(file: RepoFile, path: Path) -> None:
    if isinstance(file.source, bytes):
        write_new(path, file.source)
        return
    if file.sha256 is not None:
        with contextlib.suppress(OSError):  # another file system, or one without links: a copy does
            os.link(file.source, path)
            return
    shutil.copyfile(file.source, path)
    sync(path)
