"""The trained model of an adapted checkpoint, as PEFT and transformers load it.

This is the proof's side: it shares no code with the merge that the package was made with
(``convert.lora``). PEFT merges in float32, and the result is rounded to the dtype of the base model, as
who saves a merged model does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ggufpack.checkpoint.adapter import Adaptation
from ggufpack.errors import VerificationError


def adaptation_to_json(adaptation: Adaptation) -> dict[str, Any]:
    """What the process of the trained model is asked to load."""
    return {
        "base": str(adaptation.base.absolute()),
        "adapters": [
            {"folder": str(adapter.folder.absolute()), "weight": adapter.weight}
            for adapter in adaptation.adapters
        ],
        "vocabulary": adaptation.vocabulary,
        "untied": bool(adaptation.merge.copies),
    }


def files_of(adaptation: Mapping[str, Any]) -> list[Path]:
    """The files that the adapters' values come from."""
    folders = [Path(adapter["folder"]) for adapter in adaptation["adapters"]]
    return [file for folder in folders for file in sorted(folder.glob("adapter_*"))]


def load_adapted(adaptation: Mapping[str, Any], load: Callable[..., Any]) -> Any:
    """The merged model in the base model's own dtype.

    Args:
        adaptation: of ``adaptation_to_json``.
        load: ``AutoModelForCausalLM.from_pretrained`` of a folder, with options.

    Raises:
        VerificationError: PEFT is not installed, or cannot load an adapter.
    """
    peft = _peft()
    options = {"tie_word_embeddings": False} if adaptation["untied"] else {}
    model = load(Path(adaptation["base"]), dtype="auto", **options)
    if adaptation["untied"]:
        _give_head_of_its_own(model)
    if adaptation["vocabulary"] is not None:
        model.resize_token_embeddings(adaptation["vocabulary"], mean_resizing=False)
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.data = parameter.data.float()
    try:
        merged = _merge(peft, model, adaptation["adapters"])
    except Exception as error:
        raise VerificationError(
            f"PEFT {peft.__version__} cannot load the adapters ({type(error).__name__}: {error})",
            action="Update PEFT, or use --verify smoke, which needs no source model.",
        ) from error
    for name, parameter in merged.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])
    return merged


def _merge(peft: Any, model: Any, adapters: Sequence[Mapping[str, Any]]) -> Any:
    names = [str(number) for number in range(len(adapters))]
    adapted = peft.PeftModel.from_pretrained(model, adapters[0]["folder"], adapter_name=names[0])
    for name, adapter in zip(names[1:], adapters[1:], strict=True):
        adapted.load_adapter(adapter["folder"], adapter_name=name)
    for module in adapted.modules():
        scaling = getattr(module, "scaling", None)
        if isinstance(scaling, dict):
            for name, adapter in zip(names, adapters, strict=True):
                if name in scaling:
                    scaling[name] *= adapter["weight"]
    return adapted.merge_and_unload(adapter_names=names)


def _give_head_of_its_own(model: Any) -> None:
    """Of the values that were tied: without the tie transformers leaves random ones."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    head.weight.data = embedding.weight.data.clone()


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise VerificationError(
            "Comparing logits with an adapted model needs the package peft.",
            action="Run: pip install peft.",
        ) from error
    return peft
