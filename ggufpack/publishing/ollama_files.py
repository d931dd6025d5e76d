"""The files beside the GGUFs from which ``ollama run hf.co/USER/REPO`` takes the prompt.

Source: Hugging Face's documentation, "Use Ollama with any GGUF Model on Hugging Face Hub"
(huggingface/hub-docs, ``docs/hub/ollama.md``): ``template`` is a Go template, ``system`` a text,
``params`` a JSON object of Modelfile parameters, all at the repository's root and one for all its
GGUFs. Without ``template`` the Hub picks one from a list by the GGUF's ``tokenizer.chat_template``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace

from ggufpack.errors import ModelfileError
from ggufpack.modelfile.model import Modelfile

#: every name that the Hub gives a meaning
OLLAMA_FILES = ("template", "params", "system")
# LICENSE is a file of its own; REQUIRES is stored by Ollama and not enforced
_CARRIED = frozenset({"from_", "template", "system", "parameters", "license", "requires"})


def shared_modelfile(modelfiles: Mapping[str, Modelfile]) -> Modelfile:
    """The one Modelfile of several types, without FROM.

    Raises:
        ModelfileError: there is none, two differ, or one has an instruction that a repository
            cannot hold.
    """
    if not modelfiles:
        raise ModelfileError("The package has no Modelfile.", action="Build the package again.")
    (first, modelfile), *others = modelfiles.items()
    for kind, other in others:
        for name in _differing(modelfile, other):
            raise ModelfileError(
                f"The Modelfiles of {first} and {kind} have different {_instruction(name)}, and a"
                " repository has one for all its GGUFs.",
                action="Publish packages of one type each, to a repository each.",
                key=_instruction(name),
            )
    for field in fields(modelfile):
        if field.name not in _CARRIED and getattr(modelfile, field.name):
            raise ModelfileError(
                f"The Modelfile has {_instruction(field.name)}, for which a repository has no place.",
                action="Push the model to an Ollama registry instead.",
                key=_instruction(field.name),
            )
    return replace(modelfile, from_="")


def ollama_files(modelfile: Modelfile) -> dict[str, bytes]:
    """``template``, ``params`` and ``system``, those that the Modelfile has.

    Raises:
        UsageError: GP504, a parameter that Ollama would refuse.
    """
    request = modelfile.to_create_request()
    found: dict[str, str] = {}
    if "template" in request:
        found["template"] = request["template"]
    if "parameters" in request:
        found["params"] = json.dumps(request["parameters"], indent=2, ensure_ascii=False) + "\n"
    if "system" in request:
        found["system"] = request["system"]
    return {name: text.encode() for name, text in found.items()}


def _differing(one: Modelfile, other: Modelfile) -> list[str]:
    return [
        field.name
        for field in fields(one)
        if field.name != "from_" and getattr(one, field.name) != getattr(other, field.name)
    ]


def _instruction(name: str) -> str:
    named = {
        "projector": "a vision tower (a second FROM)",
        "parameters": "PARAMETER",
        "messages": "MESSAGE",
        "adapters": "ADAPTER",
    }
    return named.get(name, name.upper())
