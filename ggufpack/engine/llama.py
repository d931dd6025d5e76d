"""llama.cpp's C interface, as far as full logits and tokens need it; from the library inside xllamacpp.

xllamacpp has no call for the logits of a text, but its extension exports llama.cpp's own functions
(include/llama.h). Parameter structures grow from version to version, so nothing here knows their size:
they are passed in room for more than they need, and only their first fields are set, whose places are
checked against their documented defaults before, and by llama.cpp's own getters after. A llama.cpp that
aborts takes its process along: use it in a worker (``verification.fidelity.engine_worker``).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module, metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpack.errors import VerificationError

# room for a structure: three times what llama_context_params had in October 2026
_ROOM = 512
_DEFAULT_CONTEXT = (512, 2048, 512, 1)  # n_ctx, n_batch, n_ubatch, n_seq_max: llama_context_default_params
_WARNING, _ERROR = 3, 4  # ggml_log_level (ggml.h)


class _Params(ctypes.Structure):
    """A structure that begins with words or one pointer; on every ABI of ours passed in memory."""

    _fields_ = (("words", ctypes.c_uint32 * 4), ("rest", ctypes.c_uint64 * (_ROOM // 8)))


class _Batch(ctypes.Structure):
    """``struct llama_batch``."""

    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


_VOID, _INT, _BOOL, _TEXT = ctypes.c_void_p, ctypes.c_int32, ctypes.c_bool, ctypes.c_char_p
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llama_model_default_params": (_Params, ()),
    "llama_context_default_params": (_Params, ()),
    "llama_model_load_from_file": (_VOID, (_TEXT, _Params)),
    "llama_model_free": (None, (_VOID,)),
    "llama_model_get_vocab": (_VOID, (_VOID,)),
    "llama_init_from_model": (_VOID, (_VOID, _Params)),
    "llama_free": (None, (_VOID,)),
    "llama_n_ctx": (ctypes.c_uint32, (_VOID,)),
    "llama_n_batch": (ctypes.c_uint32, (_VOID,)),
    "llama_set_n_threads": (None, (_VOID, _INT, _INT)),
    "llama_get_memory": (_VOID, (_VOID,)),
    "llama_memory_clear": (None, (_VOID, _BOOL)),
    "llama_batch_init": (_Batch, (_INT, _INT, _INT)),
    "llama_batch_free": (None, (_Batch,)),
    "llama_decode": (_INT, (_VOID, _Batch)),
    "llama_get_logits_ith": (ctypes.POINTER(ctypes.c_float), (_VOID, _INT)),
    "llama_set_embeddings": (None, (_VOID, _BOOL)),
    "llama_get_embeddings_seq": (ctypes.POINTER(ctypes.c_float), (_VOID, _INT)),
    "llama_model_n_embd_out": (_INT, (_VOID,)),
    "llama_vocab_n_tokens": (_INT, (_VOID,)),
    "llama_vocab_get_add_bos": (_BOOL, (_VOID,)),
    "llama_tokenize": (_INT, (_VOID, _TEXT, _INT, _VOID, _INT, _BOOL, _BOOL)),
    "llama_token_to_piece": (_INT, (_VOID, _INT, _TEXT, _INT, _INT, _BOOL)),
    "llama_log_set": (None, (_VOID, _VOID)),
}


class LlamaModel:
    """A GGUF, loaded on the CPU. A context manager.

    Args:
        model: the file.
        window: tokens of the longest text.
        threads: for the computation.

    Raises:
        VerificationError: xllamacpp is missing, has another interface, or cannot load the file.
    """

    def __init__(self, model: Path, *, window: int, threads: int) -> None:
        self._path = model
        self._window = window
        self._threads = threads
        self._library = _library()
        self._model: Any = None
        self._context: Any = None
        self._batch: _Batch | None = None

    def __enter__(self) -> LlamaModel:
        try:
            self._load()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free everything. May be called twice."""
        if self._batch is not None:
            self._library.llama_batch_free(self._batch)
        if self._context is not None:
            self._library.llama_free(self._context)
        if self._model is not None:
            self._library.llama_model_free(self._model)
        self._batch = self._context = self._model = None

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of a text, special tokens in it parsed; ``special`` adds BOS and EOS as the file says."""
        data = text.encode()
        size = len(data) + 8
        while True:
            tokens = np.empty(size, np.int32)
            count = self._library.llama_tokenize(
                self._vocab, data, len(data), tokens.ctypes.data, size, special, True
            )
            if count >= 0:
                return [int(token) for token in tokens[:count]]
            size = -count

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; special tokens as their texts."""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = self._library.llama_token_to_piece(self._vocab, token, buffer, size, 0, True)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens."""
        return int(self._library.llama_vocab_n_tokens(self._vocab))

    @property
    def adds_bos(self) -> bool:
        """Whether an engine puts a BOS in front of a prompt."""
        return bool(self._library.llama_vocab_get_add_bos(self._vocab))

    def logits(self, tokens: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        """The logits after each token of one text: rows of the vocabulary's size, each valid until the next.

        Raises:
            VerificationError: the text is longer than the window, or llama.cpp failed.
        """
        self._decode(tokens)
        size = self.vocabulary_size
        for index in range(len(tokens)):
            row = self._library.llama_get_logits_ith(self._context, index)
            yield np.ctypeslib.as_array(row, (size,))

    def embedding(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """The vector of one text, pooled as the file says, of any length.

        Raises:
            VerificationError: the text is longer than the window, the file names no pooling, or llama.cpp
                failed.
        """
        self._library.llama_set_embeddings(self._context, True)
        self._decode(tokens)
        vector = self._library.llama_get_embeddings_seq(self._context, 0)
        if not vector:
            raise VerificationError(
                f"{self._path} names no pooling, so it makes no vector of a text.", path=self._path
            )
        return np.array(np.ctypeslib.as_array(vector, (self._library.llama_model_n_embd_out(self._model),)))

    def _decode(self, tokens: Sequence[int]) -> None:
        """Compute one text, every token of it an output."""
        batch = self._batch
        if batch is None or len(tokens) > self._window:
            raise VerificationError(f"{self._path}: {len(tokens)} tokens do not fit in {self._window}")
        for index, token in enumerate(tokens):
            batch.token[index] = token
            batch.pos[index] = index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = 1
        batch.n_tokens = len(tokens)
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)
        if status := self._library.llama_decode(self._context, batch):
            raise VerificationError(f"llama.cpp cannot compute {self._path} (status {status})")

    def _load(self) -> None:
        library = self._library
        library.llama_log_set(_LOG, None)
        _said.clear()
        self._no_devices = ctypes.c_void_p(None)  # an empty list, which ends with NULL: the CPU alone
        params = library.llama_model_default_params()
        if any(params.words):
            raise _other_interface("llama_model_params")
        ctypes.memmove(
            ctypes.byref(params), ctypes.byref(ctypes.c_void_p(ctypes.addressof(self._no_devices))), 8
        )
        self._model = library.llama_model_load_from_file(str(self._path).encode(), params)
        if self._model is None:
            raise VerificationError(
                f"llama.cpp cannot load {self._path}{_reason()}",
                action="Build the package again; if it fails again, this llama.cpp does not know the model.",
                path=self._path,
            )
        self._vocab = library.llama_model_get_vocab(self._model)
        params = library.llama_context_default_params()
        if tuple(params.words) != _DEFAULT_CONTEXT:
            raise _other_interface("llama_context_params")
        params.words[:3] = (self._window, self._window, self._window)
        self._context = library.llama_init_from_model(self._model, params)
        if self._context is None:
            raise VerificationError(
                f"llama.cpp cannot make a context for {self._path}{_reason()}", path=self._path
            )
        # it pads n_ctx, so it may be more
        got = library.llama_n_ctx(self._context), library.llama_n_batch(self._context)
        if not all(self._window <= number <= 2 * self._window + 256 for number in got):
            raise _other_interface("llama_context_params")
        library.llama_set_n_threads(self._context, self._threads, self._threads)
        self._batch = library.llama_batch_init(self._window, 0, 1)


_said: list[str] = []  # what llama.cpp called an error, since a file began to load


def _log(level: int, text: bytes, _data: Any) -> None:
    if level >= _WARNING:
        said = text.decode("utf-8", "replace")
        sys.stderr.write(said)
        if level == _ERROR:
            _said.append(said.strip())


# it has to live as long as the library may call it
_LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(_log)


def _reason() -> str:
    """The first error is the cause; the others follow from it."""
    return f" ({_said[0]})" if _said else ""


def engine_name() -> str:
    """Program and version.

    Raises:
        VerificationError: xllamacpp is not installed.
    """
    try:
        return f"llama.cpp in xllamacpp {metadata.version('xllamacpp')}"
    except metadata.PackageNotFoundError as error:
        raise _missing(error) from error


def _library() -> Any:
    try:
        extension = import_module("xllamacpp.xllamacpp")
    except ImportError as error:
        raise _missing(error) from error
    library = ctypes.CDLL(str(extension.__file__))
    for name, (result, arguments) in _FUNCTIONS.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise _other_interface(name) from None
        function.restype, function.argtypes = result, arguments
    return library


def _missing(error: ImportError) -> VerificationError:
    return VerificationError(
        f"Comparing logits needs the package xllamacpp ({error})",
        action="Run: pip install 'ggufpack[engine]'.",
    )


def _other_interface(what: str) -> VerificationError:
    return VerificationError(
        f"The installed xllamacpp has another interface ({what})",
        action="Install the version in constraints.txt.",
    )
