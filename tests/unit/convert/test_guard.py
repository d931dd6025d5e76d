"""Audit hooks stay for the life of a process, so each of these has one of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

GUARDED = """
import pickle, socket, sys
from ggufpack.convert.guard import forbid_network_and_pickle
from ggufpack.errors import ConversionError

class Own: pass

plain, pickled = pickle.dumps([1, "a"]), pickle.dumps(Own())
listening = socket.socket()
listening.bind(("127.0.0.1", 0))
listening.listen()
address = listening.getsockname()
def attempt():
    {attempt}
if sys.argv[1] == "guarded":
    forbid_network_and_pickle()
try:
    attempt()
except ConversionError as error:
    print("refused", error)
else:
    print("done")
"""
ATTEMPTS = {
    "connect": ("socket.create_connection(address).close()", "network"),
    "look-up": ("socket.getaddrinfo('localhost', 80)", "network"),
    "old look-up": ("socket.gethostbyname('localhost')", "network"),
    "datagram": ("socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', address)", "network"),
    "pickle": ("pickle.loads(pickled)", "pickle"),
}


def run(attempt: str, mode: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", GUARDED.format(attempt=attempt), mode],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize(("attempt", "word"), ATTEMPTS.values(), ids=ATTEMPTS)
def test_network_and_pickle_are_refused(attempt: str, word: str) -> None:
    assert run(attempt, "free") == "done", "the attempt itself works"
    said = run(attempt, "guarded")
    assert said.startswith("refused The conversion tried to ")
    assert word in said


def test_pickled_plain_data_is_not_code() -> None:
    assert run("pickle.loads(plain)", "guarded") == "done"
