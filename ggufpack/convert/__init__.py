"""Drives the vendored llama.cpp converter in a worker process and streams its tensors to GGUF.

The parent's side is ``process``; ``worker``, ``sink``, ``recipes`` and ``guard`` are only ever
imported in the worker (they load torch and the vendored gguf-py).
"""
