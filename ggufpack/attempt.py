"""One attempt at a package folder, known by a file beside it: the next one cleans up after a killed one.

    .NAME.build-TOKEN     locked while the build lives; a line of JSON says at which server it registers,
                          and one which files it is about to give their names; it stays until a build
                          has come to its end
    .NAME.tmp-TOKEN-…     the folder in the making
    .NAME.old-TOKEN       an older package that is being replaced
    ggufpack-tmp-TOKEN-…  names on the server

A batch's journal keeps the tokens of its items, and cleans up by itself; of the first file an item has the
last line only, from the moment on that it says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ggufpack.errors import GgufpackError, UsageError
from ggufpack.held import held_sibling, hold, take_dead
from ggufpack.package_folder import clean_up, parent_folder, unwritable
from ggufpack.registry import OllamaServer, leftovers
from ggufpack.registry.register import temporary_prefix
from ggufpack.spec import EventHandler, Note


@dataclass(frozen=True)
class Attempt:
    """An attempt under way.

    Attributes:
        final: the package folder.
        token: part of all its temporary names.
        own: sha256 of files that earlier attempts gave names to, and came no further: those names may be
            taken again.
    """

    final: Path
    token: str
    own: frozenset[str]

    @property
    def mark(self) -> Path:
        """The file."""
        return _mark(self.final, self.token)

    def registers_at(self, server: OllamaServer | None) -> None:
        """Write down where temporary names will be, before there are any.

        Raises:
            UsageError: the disk refuses.
        """
        if server is not None:
            self._append({"host": server.host})

    def publishes(self, digests: Iterable[str]) -> None:
        """Write down which files are given their final names on the server and in the store.

        Raises:
            UsageError: the disk refuses.
        """
        self._append({"files": sorted(digests)})

    def _append(self, line: Mapping[str, object]) -> None:
        try:
            with self.mark.open("ab") as file:
                _write(file, line)
        except OSError as error:
            raise unwritable(self.mark, error) from error


@dataclass(frozen=True)
class _ItemAttempt(Attempt):
    """Of an item of a batch."""

    locks: contextlib.ExitStack

    def registers_at(self, server: OllamaServer | None) -> None:
        """The journal knows the token, and the item its server."""

    def publishes(self, digests: Iterable[str]) -> None:
        """As for any; the file is whole and locked from the moment that it is there."""
        try:
            path, file = self.locks.enter_context(held_sibling(self.mark))
            _write(file, {"files": sorted({*digests, *self.own})})
            path.replace(self.mark)
        except OSError as error:
            raise unwritable(self.mark, error) from error


def published(final: Path, token: str) -> frozenset[str]:
    """``Attempt.own`` of the next attempt at an item of a batch."""
    return _files(_mark(final, token))


def settle(final: Path, token: str) -> None:
    """Of an item of a batch whose package is in place: no names have to be taken again."""
    _mark(final, token).unlink(missing_ok=True)


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
        with contextlib.ExitStack() as locks:
            yield _ItemAttempt(final, token, published(final, token), locks)
            settle(final, token)
        return
    with parent_folder(final), contextlib.ExitStack() as locks:
        prefix = _mark(final, "").name
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
        files = frozenset().union(*map(_files, dead))
        done = False
        try:
            yield Attempt(final, own.name[len(prefix) :], files)
            done = True
        finally:
            for mark in (*dead, own):
                _finish(mark, final, mark.name[len(prefix) :], on_event, done=done)


def _mark(final: Path, token: str) -> Path:
    return final.with_name(f".{final.name}.build-{token}")


def _write(file: BinaryIO, line: Mapping[str, object]) -> None:
    file.write(json.dumps(line).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())


def _files(mark: Path) -> frozenset[str]:
    """The sha256 that it says; none where there is none.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return frozenset(map(str, _said(mark, "files") or ()))
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except OSError as error:
        raise UsageError(
            f"{mark}, which says what an earlier build published, cannot be read: {error.strerror or error}.",
            path=mark,
        ) from error


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
