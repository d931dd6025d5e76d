"""The journal: what was done for each package folder, by digest. SQLite in WAL mode, on a local disk.

One row an item, found by its package folder. It has a token, which stands in its package's record and in
all temporary names of its builds: by it the package is known as the journal's own, and whoever takes the
claim of a dead owner over can clean up after it. A claim names the lease of its owner (``lease``).

States: ``claimed`` → ``done`` (a package that is as it should be), ``failed`` (its verification failed) or
``error``. Only ``done`` is finished work.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

from ggufpack.batch.lease import Lease, is_held, owner_words, sweep
from ggufpack.batch.storage import Signature
from ggufpack.errors import JournalError

State = Literal["claimed", "done", "failed", "error"]
SCHEMA_VERSION = 1
_APPLICATION_ID = 0x47475042  # "GGPB"
_BUSY_SECONDS = 60.0
_SCHEMA = """
CREATE TABLE items (
    target TEXT PRIMARY KEY,     -- the package folder
    key TEXT NOT NULL,           -- of the item
    checkpoint TEXT NOT NULL,
    state TEXT NOT NULL,
    spec_digest TEXT NOT NULL,   -- sha256, inputs.spec_digest
    input_digest TEXT,           -- blake3, inputs.Inputs.digest
    lease TEXT,                  -- of the claim's owner
    owner TEXT,                  -- the owner, for people
    token TEXT NOT NULL,         -- in the record and in temporary names
    outcome TEXT,                -- JSON, items.Outcome
    outputs TEXT,                -- JSON, file name to sha256
    changed REAL NOT NULL        -- seconds since the epoch
) STRICT;
CREATE TABLE stages (
    target TEXT NOT NULL, lease TEXT NOT NULL, stage TEXT NOT NULL,
    started REAL NOT NULL, seconds REAL
) STRICT;
CREATE INDEX stages_by_target ON stages (target);
CREATE TABLE files (
    path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, inode INTEGER NOT NULL,
    device INTEGER NOT NULL, digest TEXT NOT NULL
) STRICT;
"""
_STATEMENTS = tuple(statement.strip() for statement in _SCHEMA.split(";\n") if statement.strip())
_SELECT = (
    "SELECT target, key, state, spec_digest, input_digest, lease, owner, token, outcome, outputs FROM items"
)


@dataclass(frozen=True)
class Entry:
    """A row of ``items``; ``outcome`` is the JSON of ``items.Outcome``."""

    target: Path
    key: str
    state: State
    spec_digest: str
    input_digest: str | None
    lease: str | None
    owner: str | None
    token: str
    outcome: Mapping[str, Any] | None
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Claim:
    """An item that is this batch's to build."""

    target: Path
    token: str


@dataclass(frozen=True)
class Held:
    """An item that another living batch builds."""

    owner: str


class Journal:
    """An open journal; a context manager. Safe in threads.

    Args:
        path: of the file; its folder is made.

    Raises:
        JournalError: the file is damaged, no journal, or of a newer ggufpack.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock = threading.RLock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            sweep(self.path)
            self.lease = Lease(self.path)
        except OSError as error:
            raise JournalError(
                f"{path} cannot be written: {error.strerror or error}.",
                action="Give --journal FILE.",
                path=path,
            ) from error
        try:
            self._connection = self._open()
        except BaseException:
            self.lease.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give claims and the lease back.

        Raises:
            JournalError: the claims could not be written; they end with the lease all the same.
        """
        with self._lock, self._mapped():
            try:
                self._connection.execute("UPDATE items SET lease = NULL WHERE lease = ?", (self.lease.name,))
            finally:
                self._connection.close()
                self.lease.close()

    # --- claims -----------------------------------------------------------------

    def entry(self, target: Path) -> Entry | None:
        """What is known of a package folder."""
        with self._reading() as connection:
            row = connection.execute(f"{_SELECT} WHERE target = ?", (str(target),)).fetchone()
            return None if row is None else _entry(row)

    def entries(self) -> tuple[Entry, ...]:
        """All of them, by package folder."""
        with self._reading() as connection:
            rows = connection.execute(f"{_SELECT} ORDER BY target").fetchall()
            return tuple(map(_entry, rows))

    def claim(
        self, target: Path, *, key: str, checkpoint: Path, spec_digest: str, seen: Entry | None
    ) -> Claim | Held | None:
        """Make an item this batch's own; a dead owner's claim is taken over.

        What the item was last made into stays in its row until it is made again. The input digest stays
        when the claim of a dead owner with the same options is taken over.

        Args:
            target: the package folder.
            key: of the item.
            checkpoint: its folder.
            spec_digest: of its options.
            seen: the row on which the caller decided.

        Returns:
            ``None`` when the row is not the one seen any more.
        """
        with self._writing() as connection:
            old = self.entry(target)
            if old != seen:
                return None
            if old is not None and self._is_held(old):
                return Held(old.owner or "another process")
            taken_over = old is not None and old.state == "claimed" and old.spec_digest == spec_digest
            token = secrets.token_hex(6) if old is None else old.token
            connection.execute(
                "INSERT INTO items VALUES (?, ?, ?, 'claimed', ?, NULL, ?, ?, ?, NULL, NULL, ?)"
                " ON CONFLICT (target) DO UPDATE SET key = excluded.key, checkpoint = excluded.checkpoint,"
                " state = excluded.state, spec_digest = excluded.spec_digest, lease = excluded.lease,"
                " owner = excluded.owner, changed = excluded.changed,"
                " input_digest = CASE WHEN ? THEN input_digest END",
                (
                    str(target),
                    key,
                    str(checkpoint),
                    spec_digest,
                    self.lease.name,
                    owner_words(),
                    token,
                    time.time(),
                    taken_over,
                ),
            )
        return Claim(target, token)

    def _is_held(self, entry: Entry) -> bool:
        if entry.state != "claimed" or entry.lease is None:
            return False
        return entry.lease != self.lease.name and is_held(self.path, entry.lease)

    def dead(self) -> tuple[Entry, ...]:
        """Items whose claim has an owner that lives no more: it may have left temporary files and names."""
        return tuple(
            one
            for one in self.entries()
            if one.state == "claimed" and one.lease not in (None, self.lease.name) and not self._is_held(one)
        )

    def take_over(self, entry: Entry) -> Claim | None:
        """A dead owner's claim as it is, to clean up after it; ``None`` when somebody else was first."""
        with self._writing() as connection:
            if self.entry(entry.target) != entry:
                return None
            connection.execute(
                "UPDATE items SET lease = ?, owner = ? WHERE target = ?",
                (self.lease.name, owner_words(), str(entry.target)),
            )
        return Claim(entry.target, entry.token)

    def give_back(self, claim: Claim, lease: str | None) -> None:
        """A claim that was taken over: to nobody, or to its dead owner when cleaning up failed."""
        self._update(claim, "lease = ?", lease)

    def inputs(self, claim: Claim, digest: str | None) -> None:
        """The digest of what the build reads."""
        self._update(claim, "input_digest = ?", digest)

    def finish(
        self, claim: Claim, state: State, outcome: Mapping[str, Any], outputs: Mapping[str, str]
    ) -> None:
        """How it ended; it is on the disk when this returns."""
        self._update(
            claim,
            "state = ?, outcome = ?, outputs = ?, lease = NULL, changed = ?",
            state,
            json.dumps(outcome),
            json.dumps(dict(outputs)),
            time.time(),
        )

    # --- stages -----------------------------------------------------------------

    def stage_started(self, claim: Claim, stage: str) -> None:
        """A stage of a build begins."""
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO stages VALUES (?, ?, ?, ?, NULL)",
                (str(claim.target), self.lease.name, stage, time.time()),
            )

    def stage_finished(self, claim: Claim, stage: str, seconds: float) -> None:
        """A stage of a build ended well."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE stages SET seconds = ?"
                " WHERE target = ? AND lease = ? AND stage = ? AND seconds IS NULL",
                (seconds, str(claim.target), self.lease.name, stage),
            )

    def stages(self, target: Path) -> list[tuple[str, str, float | None]]:
        """(lease, stage, seconds) of all builds of a package folder, in order."""
        with self._reading() as connection:
            return connection.execute(
                "SELECT lease, stage, seconds FROM stages WHERE target = ? ORDER BY rowid", (str(target),)
            ).fetchall()

    # --- digests of files ---------------------------------------------------------

    def known_digest(self, path: Path, state: Signature) -> str | None:
        """The digest that was computed when the file had exactly this state."""
        with self._reading() as connection:
            row = connection.execute(
                "SELECT digest FROM files WHERE path = ? AND size = ? AND mtime_ns = ? AND inode = ?"
                " AND device = ?",
                (str(path), *state),
            ).fetchone()
        return None if row is None else str(row[0])

    def remember_digests(self, digests: Mapping[Path, str], states: Mapping[Path, Signature]) -> None:
        """For ``known_digest``."""
        with self._writing() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)",
                [(str(path), *states[path], digest) for path, digest in digests.items()],
            )

    # --- SQLite -----------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        with self._mapped():
            connection = sqlite3.connect(
                self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA trusted_schema = OFF")
        self._refuse_other(connection)  # before anything is changed in it
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        if self._refuse_other(connection):
            for statement in _STATEMENTS:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        # written always: a file that SQLite only reads is refused here, and not after the first build
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
        (check,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if check != "ok":
            raise sqlite3.DatabaseError(check)

    def _refuse_other(self, connection: sqlite3.Connection) -> bool:
        """Whether the file is new; an error where it is no journal of this version."""
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        found = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
        if application == 0 and version == 0 and not found:
            return True
        if application != _APPLICATION_ID:
            raise JournalError(
                f"{self.path} is a database of another program.",
                action="Give --journal FILE.",
                path=self.path,
            )
        if version > SCHEMA_VERSION:
            raise JournalError(
                f"{self.path} was written by a newer ggufpack (schema {version}, this one knows"
                f" {SCHEMA_VERSION}).",
                action="Update ggufpack, or give another --journal FILE.",
                path=self.path,
                key="schema_version",
            )
        # a view or a trigger in it would be somebody's program; it may never end
        if sorted(sql for (sql,) in found) != sorted(_STATEMENTS):
            raise sqlite3.DatabaseError("its tables are not a journal's")
        return False

    def _update(self, claim: Claim, assignments: str, *values: object) -> None:
        with self._writing() as connection:
            connection.execute(
                f"UPDATE items SET {assignments} WHERE target = ? AND lease = ?",  # noqa: S608 - ours
                (*values, str(claim.target), self.lease.name),
            )

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._mapped():
            yield self._connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._mapped():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise JournalError(
                f"The journal {self.path} cannot be used: {error}.",
                action="It must lie on a local disk with room; --journal FILE puts it elsewhere.",
                path=self.path,
            ) from error
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise JournalError(
                f"The journal {self.path} is damaged: {error}.",
                action="Move it away and run again with --overwrite: packages are then built anew.",
                path=self.path,
            ) from error


def _entry(row: tuple[Any, ...]) -> Entry:
    target, key, state, spec, inputs, lease, owner, token, outcome, outputs = row
    if not all(isinstance(text, str) for text in (target, key, spec, token)) or state not in get_args(State):
        raise sqlite3.DatabaseError(f"the row of {target!r:.200} is none of its own")
    return Entry(
        target=Path(target),
        key=key,
        state=state,
        spec_digest=spec,
        input_digest=inputs,
        lease=lease,
        owner=owner,
        token=token,
        outcome=None if outcome is None else _object(target, outcome),
        outputs=_object(target, outputs) if outputs else {},
    )


def _object(target: str, text: object) -> dict[str, Any]:
    try:
        value = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise sqlite3.DatabaseError(f"the row of {target!r:.200} holds no JSON object where one must be")
    return value
