"""Faults, and what they leave: ``python -m tests.faults`` prints the table."""
