"""What a process may do. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

OFF_VARIABLE = "GGUFPACK_UNCONFINED"  # set to 1: for looking for a mistake in the confinement itself


@dataclass(frozen=True)
class Confinement:
    """What a process may do; everything else is refused, where the system can refuse it.

    No network, no signal and no look into another process is ever part of it.

    Attributes:
        read: files, and folders with all that is below them. Those that do not exist are passed over.
        write: the same for writing; in a folder of these, files are also made and removed. A file of these
            has to exist.
        longest_file: bytes of the longest file that it may write.
        written: bytes that it may write in all.
        listen: a folder in which it may make local sockets and listen on them; it connects to none.
        gpu: it may use the GPUs' devices, and start processes: their libraries compile with them.
    """

    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    longest_file: int | None = None
    written: int | None = None
    listen: Path | None = None
    gpu: bool = False
