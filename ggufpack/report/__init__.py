"""The record of a build: what went in, what was decided, what was proven."""
