"""Benchmarks: programs that print ratios."""
