"""How much is in hand at once. Apart, because both the worker and its parent's estimate use it."""

# weights that are encoded together
CHUNK_WEIGHTS = 1 << 20
# bytes that are encoded and not yet written: what the encoders may do while the vocabulary is read
AHEAD_BYTES = 64 << 20
