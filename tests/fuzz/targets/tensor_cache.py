"""An entry of the tensor cache: what comes back is what was stored; anything else is removed and counted."""

from __future__ import annotations

from collections.abc import Iterator

from blake3 import blake3

from ggufpack.tensor_cache import TensorCache, entries, remove_damaged
from tests.fuzz import scratch

_KEY = bytes(range(32))
_BLOCK = b"block of a tensor" * 4


def one_input(data: bytes) -> None:
    cache = TensorCache(scratch.folder() / "cache", limit=1 << 20)
    path = cache.folder / _KEY.hex()[:2] / f"{_KEY.hex()}.Q4_K"
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = data[:32] == blake3(data[32:], key=_KEY).digest()
    for read in (_read_all, _read):
        path.write_bytes(data)
        found = read(cache)
        assert found is None or (whole and found == data[32:])
        assert path.is_file() == (found is not None)
    path.write_bytes(data)
    checked, removed = remove_damaged(cache.folder)
    assert (checked, removed.entries) == (1, 0 if whole else 1)
    assert len(list(entries(cache.folder))) == whole


def _read_all(cache: TensorCache) -> bytes | None:
    return cache.read_all(_KEY, "Q4_K")


def _read(cache: TensorCache) -> bytes | None:
    out = bytearray(len(_BLOCK))
    return bytes(out) if cache.read(_KEY, "Q4_K", out) else None


def seeds() -> Iterator[bytes]:
    for block in (_BLOCK, b"", b"other"):
        yield blake3(block, key=_KEY).digest() + block
