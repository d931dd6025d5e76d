"""Code that a hostile checkpoint brings: the tokenizer class of ``--trust-remote-code`` is this file.

It is imported by transformers inside the conversion worker. Every attempt is made, and what came of it goes
into the error that it raises. ``TARGETS`` is replaced by the test.
"""

# ruff: noqa: PTH101, PTH116, PTH208, S103, BLE001 - an attacker's

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TARGETS: dict[str, Any] = {}
MARK = "ATTEMPTS "
C = ctypes.CDLL(None, use_errno=True)


def called(result: int) -> int:
    """What the C library says, past Python's audit hooks."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def address(port: int) -> bytes:
    return struct.pack("=HH4s8x", socket.AF_INET, socket.htons(port), socket.inet_aton("127.0.0.1"))


def connect() -> None:
    there = address(TARGETS["tcp"])
    called(C.connect(called(C.socket(socket.AF_INET, socket.SOCK_STREAM, 0)), there, len(there)))


def send_datagram() -> None:
    there = address(TARGETS["udp"])
    called(
        C.sendto(called(C.socket(socket.AF_INET, socket.SOCK_DGRAM, 0)), b"secret", 6, 0, there, len(there))
    )


def listen() -> None:
    here = address(0)
    called(C.bind(called(C.socket(socket.AF_INET, socket.SOCK_STREAM, 0)), here, len(here)))


def resolve() -> None:
    """What a resolver does first."""
    socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()


def local_socket() -> None:
    there = struct.pack("=H", socket.AF_UNIX) + TARGETS["unix"].encode() + b"\0"
    called(C.connect(called(C.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0)), there, len(there)))


def abstract_socket() -> None:
    there = struct.pack("=H", socket.AF_UNIX) + b"\0" + TARGETS["abstract"].encode()
    called(C.connect(called(C.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0)), there, len(there)))


def read_home() -> None:
    Path(TARGETS["home"], ".ssh", "id_ed25519").read_text()


def list_home() -> None:
    os.listdir(TARGETS["home"])


def read_shadow() -> None:
    Path("/etc/shadow").read_bytes()


def read_through_link() -> None:
    link = Path(tempfile.gettempdir(), "link")
    link.symlink_to(Path(TARGETS["home"], ".ssh", "id_ed25519"))
    try:
        link.read_text()
    finally:
        link.unlink()


def read_linked() -> None:
    """The checkpoint brings a link under a name that a model has."""
    Path(TARGETS["checkpoint"], "vocab.json").read_text()


def link_secret() -> None:
    """A hard link in a folder that may be read."""
    link = Path(tempfile.gettempdir(), "hard")
    os.link(Path(TARGETS["home"], ".ssh", "id_ed25519"), link)
    link.unlink()


def read_token() -> None:
    if b"a-token" not in Path("/proc/self/environ").read_bytes() and "HF_TOKEN" not in os.environ:
        raise OSError(errno.ENOENT, "there is none")


def write_home() -> None:
    Path(TARGETS["home"], ".bashrc").write_text("evil")


def write_other_package() -> None:
    with Path(TARGETS["package"]).open("r+b") as file:
        file.write(b"evil")


def write_beside_output() -> None:
    Path(TARGETS["output"], "planted.gguf").write_bytes(b"evil")


def remove_other_package() -> None:
    Path(TARGETS["victim"]).unlink()


def overwrite_checkpoint() -> None:
    with Path(TARGETS["checkpoint"], "README.md").open("a") as file:
        file.write("evil")


def poison_cache() -> None:
    Path(TARGETS["cache"], "planted").write_bytes(b"evil")


def plant_module() -> None:
    path = Path(os.__file__).parent / "ggufpack_planted.py"
    path.write_text("")
    path.unlink()


def change_mode() -> None:
    """Copying files does it too, so that it stays without effect and says nothing."""
    os.chmod(TARGETS["victim"], 0o777)
    if os.stat(TARGETS["victim"]).st_mode & 0o777 != 0o777:
        raise OSError(errno.EPERM, "the mode is the same")


def change_times() -> None:
    os.utime(TARGETS["victim"], (1, 1))
    if os.stat(TARGETS["victim"]).st_mtime != 1:
        raise OSError(errno.EPERM, "the times are the same")


def signal_parent() -> None:
    os.kill(os.getppid(), signal.SIGURG)  # does nothing when it arrives


def signal_all() -> None:
    os.kill(TARGETS["bystander"], signal.SIGURG)


def trace_parent() -> None:
    called(C.ptrace(0x4206, os.getppid(), None, None))  # PTRACE_SEIZE
    called(C.ptrace(0x4207, os.getppid(), None, None))  # PTRACE_INTERRUPT
    os.waitpid(os.getppid(), 0x40000000)  # __WALL
    called(C.ptrace(17, os.getppid(), None, None))  # PTRACE_DETACH


def read_parents_environment() -> None:
    Path(f"/proc/{os.getppid()}/environ").read_bytes()


def read_parents_memory() -> None:
    with Path(f"/proc/{os.getppid()}/mem").open("rb"):
        pass


def spawn_shell() -> None:
    subprocess.run(["/bin/sh", "-c", "true"], check=True)


def replace_itself() -> None:
    called(C.execve(b"/nonexistent", None, None))


def fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def leave_daemon() -> None:
    pid = os.fork()
    if pid == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(0.2)
        os._exit(0)
    os.waitpid(pid, 0)


def fill_disk() -> None:
    """A hole: it takes no room where it is allowed."""
    path = Path(tempfile.gettempdir(), "large")
    with path.open("wb") as file:
        file.truncate(4 << 30)
    path.unlink()


def use_io_uring() -> None:
    """io_uring makes system calls that no filter sees."""
    buffer = mmap.mmap(-1, 4096)
    called(C.syscall(425, 4, ctypes.byref(ctypes.c_char.from_buffer(buffer))))


def change_namespace() -> None:
    called(C.unshare(0x20000))  # CLONE_NEWNS


def keyring() -> None:
    called(C.syscall(250 if os.uname().machine == "x86_64" else 219, 0, -3, 1))


ATTEMPTS: tuple[Callable[[], None], ...] = (
    *(connect, send_datagram, listen, resolve, local_socket, abstract_socket),
    *(read_home, list_home, read_shadow, read_through_link, link_secret, read_token, read_linked),
    *(write_home, write_other_package, write_beside_output, overwrite_checkpoint, poison_cache, plant_module),
    *(change_mode, change_times, remove_other_package),
    *(signal_parent, signal_all, trace_parent, read_parents_environment, read_parents_memory),
    *(spawn_shell, replace_itself, fork, leave_daemon, fill_disk),
    *(use_io_uring, change_namespace, keyring),
)


def outcome(attempt: Callable[[], None]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "OSError")
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def run() -> None:
    outcomes = {attempt.__name__: outcome(attempt) for attempt in ATTEMPTS}
    raise RuntimeError(MARK + json.dumps(outcomes))


if TARGETS:
    run()
