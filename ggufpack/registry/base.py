"""A registered model that an adapter is put on, and whether the adapter fits it.

Source: Ollama 0.33.0, server/create.go. A model made FROM another keeps that one's layers and the renderer
of its configuration; TEMPLATE, SYSTEM and each parameter are replaced where the request has them. A name
that is not there is pulled from the public registry, so it is looked up before. llama.cpp reads the adapter
when the model is loaded (src/llama-adapter.cpp), and says no more than "wrong base model" then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ggufpack.checkpoint import Tokenizer
from ggufpack.errors import AdapterError, ServerResponseError
from ggufpack.gguf_header import GgufHeader
from ggufpack.registry.names import parse
from ggufpack.registry.server import Json, OllamaServer
from ggufpack.registry.shown import ShownModel

_A, _B = ".lora_a", ".lora_b"
# llama.cpp b11434, src/models: these multiply weights that adapters train with ggml_mul_mat, not with
# build_lora_mm, so an adapter is loaded and left out there without a word
_LEAVES_ADAPTERS_OUT = frozenset(
    {
        *(
            "bailingmoe3",
            "deepseek2",
            "deepseek2-ocr",
            "deepseek32",
            "deepseek4",
            "dots3note",
            "glm-dsa",
            "glm5-next",
        ),
        *("graniteswitch", "hy-v4", "kimi-k3", "kimi-linear", "minicpm3", "nemotron_h", "nemotron_h_moe"),
        *("gemma3n", "plm", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"),
    }
)


@dataclass(frozen=True)
class RegisteredBase:
    """A model on a server.

    Attributes:
        name: with its tag.
        host: of the server.
        shown: what the server stores under the name.
        info: the keys of its GGUF.
        shapes: of its tensors, the row length first, as in a GGUF.
    """

    name: str
    host: str
    shown: ShownModel
    info: Json = field(repr=False)
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)

    @property
    def architecture(self) -> str:
        """As llama.cpp names it."""
        return str(self.info.get("general.architecture", ""))


def registered_base(server: OllamaServer, name: str) -> RegisteredBase:
    """Look a base model up.

    Raises:
        InvalidModelNameError: no name of a model.
        ServerResponseError: the server has no such model, or does not describe it.
        AdapterError: it has an adapter already.
    """
    full = str(parse(name))
    if not server.exists(full):
        raise ServerResponseError(
            f'The Ollama server at {server.host} has no model "{full}" to put the adapter on',
            action=f"Register the base model first: ggufpack build BASE --name NAME, or ollama pull {full}.",
            key="from",
        )
    shown = server.show(full)
    if shown.adapters:
        raise AdapterError(
            f"{full} on {server.host} has an adapter already, and Ollama would apply both.",
            action="Give the model that it was made from, or merge the adapters: ggufpack build BASE"
            " --adapter ONE --adapter OTHER",
            key="from",
        )
    info, shapes = server.description(full)
    return RegisteredBase(full, server.host, shown, info, shapes)


def check_weights(base: RegisteredBase, header: GgufHeader, advice: str) -> None:
    """Whether llama.cpp would apply all of an adapter's file to this model.

    Args:
        base: the model.
        header: of the adapter's GGUF.
        advice: what to do in place of it.

    Raises:
        AdapterError: another architecture, or one for which adapters are not applied everywhere; a tensor
            that the model has not, or that has another shape.
    """
    architecture = header.text("general.architecture")
    if architecture != base.architecture:
        raise _unfit(base, f"is a {base.architecture} model, and the adapter is one of {architecture}", None)
    if architecture in _LEAVES_ADAPTERS_OUT:
        raise AdapterError(
            f"llama.cpp does not apply adapters to every weight of the architecture {architecture}.",
            action=advice,
            key="from",
        )
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    for name in sorted(name.removesuffix(_B) for name in shapes if name.endswith(_B)):
        factors_a, factors_b = shapes[name + _A], shapes[name + _B]
        wanted = (factors_a[0], factors_b[1], *factors_b[2:])
        have = base.shapes.get(name)
        if have is None:
            raise _unfit(base, f"has no tensor {name}, which the adapter changes", name)
        if have != wanted:
            raise _unfit(base, f"has {name} of {list(have)} weights, and the adapter of {list(wanted)}", name)


def check_vocabulary(base: RegisteredBase, tokenizer: Tokenizer, advice: str) -> None:
    """Whether added and special tokens are the same ones in the model and in the adapter's tokenizer.

    Raises:
        AdapterError: a token is another one there.
    """
    tokens = base.info.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list):
        return
    named = {text: tokenizer.id(text) for text in tokenizer.special_texts}
    wanted = {**named, **{token.text: token.id for token in tokenizer.added_tokens}}
    for text, number in wanted.items():
        if number is None:
            continue
        have = tokens[number] if number < len(tokens) else None
        if have != text:
            there = "nothing" if have is None else repr(have)
            raise AdapterError(
                f"{base.name} on {base.host}: token {number} is {there}, and {text!r} in the tokenizer that"
                " the adapter was trained with.",
                action=advice,
                key="from",
            )


def _unfit(base: RegisteredBase, problem: str, key: str | None) -> AdapterError:
    return AdapterError(
        f"{base.name} on {base.host} {problem}.",
        action="Give --from the base model that the adapter was trained on.",
        key=key or "from",
    )
