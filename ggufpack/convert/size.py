"""How much is in hand at once. Apart, because both the worker and its parent's estimate use it."""

CHUNK_WEIGHTS = 1 << 20
