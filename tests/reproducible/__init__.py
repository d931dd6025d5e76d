"""The same input gives the same bytes: ``python -m tests.reproducible``."""
