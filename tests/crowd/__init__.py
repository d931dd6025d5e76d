"""Many builds at once, on one of everything: ``python -m tests.crowd``."""
