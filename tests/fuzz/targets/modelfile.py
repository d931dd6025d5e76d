"""Modelfile text: parsed, or refused with GP501; what was parsed is the same after render and parse."""

from __future__ import annotations

from collections.abc import Iterator

from ggufpack.errors import ModelfileError
from ggufpack.modelfile.model import Modelfile
from ggufpack.modelfile.parse import parse
from ggufpack.modelfile.render import inexpressible, render

WORDS = tuple(
    word.encode()
    for word in (
        *("FROM ", "TEMPLATE ", "SYSTEM ", "PARAMETER ", "MESSAGE ", "LICENSE ", "ADAPTER ", "DRAFT "),
        *("RENDERER ", "PARSER ", "REQUIRES ", "stop ", "user ", "assistant ", "system ", "num_ctx "),
        *('"""', '"', "\n", "\r\n", "\r", "#", "\ufeff", "\u2028", "\x00", "{{ .Prompt }}"),
    )
)


def one_input(data: bytes) -> None:
    try:
        modelfile = parse(data.decode("utf-8", "replace"))
    except ModelfileError as error:
        assert error.finding == "GP501"
        return
    if not inexpressible(modelfile):
        assert parse(render(modelfile)) == modelfile


def seeds() -> Iterator[bytes]:
    whole = Modelfile(
        "./m.gguf",
        projector="./v.gguf",
        template="{{ .Prompt }}\n",
        system="be\nbrief",
        parameters=(("stop", "<|im_end|>"), ("num_ctx", "4096")),
        license=("one", 'two "quoted"'),
        messages=(("user", "hi: there"), ("assistant", "hello")),
        adapters=("./a",),
        draft="d",
        renderer="qwen3",
        parser="qwen3",
        requires="0.30.0",
    )
    yield render(Modelfile("a")).encode()
    yield render(whole).encode()
    yield b'# made by hand\r\nfrom "./a b"\r\nSystem """x\r\ny"""\r\nparameter stop  x y \r\n'
