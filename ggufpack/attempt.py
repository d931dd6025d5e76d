"""One attempt at a package folder, known by a file beside it: the next one cleans up after a killed one.

    .NAME.build-TOKEN     locked while the build lives; a line of JSON says at which server it registers,
                          and one which files it is about to give their names; it stays until a build
                          has come to its end
    .NAME.tmp-TOKEN-…     the folder in the making
    .NAME.old-TOKEN       an older package that is being replaced
    ggufpack-tmp-TOKEN-…  names on the server

A batch's journal keeps the tokens of its items, and cleans up by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufpack.errors import GgufpackError
from ggufpack.held import hold, take_dead
from ggufpack.package_folder import clean_up, parent_folder, unwritable
from ggufpack.registry import OllamaServer, leftovers
from ggufpack.registry.register import temporary_prefix
from ggufpack.spec import EventHandler, Note


@dataclass(frozen=True)
class Attempt:
    """An attempt under way.

    Attributes:
        token: part of all its temporary names.
        mark: the file; ``None`` where a batch keeps the token.
        own: sha256 of files that earlier attempts gave names to, and came no further: those names may be
            taken again.
    """

    token: str
    mark: Path | None = None
    own: frozenset[str] = frozenset()

    def registers_at(self, server: OllamaServer | None) -> None:
        """Write down where temporary names will be, before there are any.

        Raises:
            UsageError: the disk refuses.
        """
        if server is not None:
            self._write({"host": server.host})

    def publishes(self, digests: Iterable[str]) -> None:
        """Write down which files are given their final names on the server and in the store.

        Raises:
            UsageError: the disk refuses.
        """
        self._write({"files": sorted(digests)})

    def _write(self, line: Mapping[str, object]) -> None:
        if self.mark is None:
            return
        try:
            with self.mark.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise unwritable(self.mark, error) from error


@contextlib.contextmanager
def attempt_at(final: Path, token: str | None, on_event: EventHandler) -> Iterator[Attempt]:
    """Begin an attempt. Folders of killed ones go at once, and a package that they had moved aside is put
    back; their names on the server go at the end: it then is done with what they had asked for, and keeps
    the blobs that both have.

    Args:
        final: the package folder.
        token: of an item of a batch; ``None`` makes one.
        on_event: told what has to stay for now.

    Raises:
        UsageError: the folder above cannot be written.
    """
    if token is not None:
        yield Attempt(token)
        return
    with parent_folder(final), contextlib.ExitStack() as locks:
        prefix = f".{final.name}.build-"
        dead = []
        try:
            own = _make(final.parent, prefix, locks)
            for path in sorted(final.parent.iterdir()):
                if path.name.startswith(prefix) and (held := take_dead(path)) is not None:
                    locks.callback(os.close, held)
                    clean_up(final, path.name[len(prefix) :])
                    dead.append(path)
        except OSError as error:
            raise unwritable(final.parent, error) from error
        files = {str(file) for mark in dead for file in _said(mark, "files") or ()}
        done = False
        try:
            yield Attempt(own.name[len(prefix) :], own, frozenset(files))
            done = True
        finally:
            for mark in (*dead, own):
                _finish(mark, final, mark.name[len(prefix) :], on_event, done=done)


def _make(folder: Path, prefix: str, locks: contextlib.ExitStack) -> Path:
    while True:
        path = folder / f"{prefix}{secrets.token_hex(6)}"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            path.touch(mode=0o644, exist_ok=False)
        except FileNotFoundError:  # a build that failed has just removed the folder
            continue
        held = hold(path)
        if held is not None:
            locks.callback(os.close, held)
            return path


def _finish(mark: Path, final: Path, token: str, on_event: EventHandler, *, done: bool) -> None:
    """Remove what is left, then the file; it stays when something else has to.

    Until a build is ``done`` it stays as well where names were given: the next one may take them again.
    """
    try:
        clean_up(final, token)
        if host := _said(mark, "host"):
            _clean_server(str(host), token)
        if done or not _said(mark, "files"):
            mark.unlink()
    except FileNotFoundError:  # somebody has removed the whole folder
        return
    except (GgufpackError, OSError) as error:
        reason = error.problem if isinstance(error, GgufpackError) else str(error)
        on_event(
            Note(
                f"Something may be left of {temporary_prefix(token)}…: {reason.removesuffix('.')}."
                f" The next build of this package removes it, as {mark} says"
            )
        )


def _said(mark: Path, key: str) -> Any:
    """The last value of a key; a line that was cut short said nothing yet."""
    value = None
    for line in mark.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            value = json.loads(line).get(key, value)
    return value


def _clean_server(host: str, token: str) -> None:
    with contextlib.closing(OllamaServer(host)) as server:
        server.check()  # within seconds: a server that hangs holds nobody up
        for name in leftovers(server, token):
            server.delete(name)
