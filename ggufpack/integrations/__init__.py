"""Packaging from inside other programs: a training process, in the background."""
