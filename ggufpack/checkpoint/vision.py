"""Whether a checkpoint takes images: a vision tower in config.json, with tensors of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ggufpack.checkpoint import Checkpoint
from ggufpack.checkpoint.findings import make_finding
from ggufpack.spec import Finding, GgufFile

# of transformers' models: model.visual.blocks, vision_tower.vision_model, model.vision_embed_tokens …
_TOWER = re.compile(
    r"(^|\.)(vision_tower|vision_model|vision_encoder|vision_embed_tokens|vision|visual|vit|image_encoder)\."
)

# by architecture: what llama.cpp is known to do otherwise than transformers' processor
_KNOWN = {
    "Gemma3ForConditionalGeneration": " Known: transformers' processor puts a blank line before and after"
    " each image, llama.cpp does not.",
}


def has_vision_tower(checkpoint: Checkpoint) -> bool:
    """Whether the weights of a vision tower are there.

    A configuration alone does not say it: a model that was trained on text is often saved with the
    ``vision_config`` of the model it comes from.
    """
    thinker = checkpoint.config.get("thinker_config")
    parts = [checkpoint.config, *([thinker] if isinstance(thinker, Mapping) else [])]
    described = any(isinstance(part.get("vision_config"), Mapping) for part in parts)
    return described and any(_TOWER.search(name) for name in checkpoint.tensors)


def left_out(checkpoint: Checkpoint, wanted: bool, projector: GgufFile | None) -> tuple[Finding, ...]:
    """What a checkpoint with a vision tower loses, or what of it is not proven; nothing without one.

    Args:
        checkpoint: opened.
        wanted: whether it was to be packaged.
        projector: its file, when the converter wrote one.
    """
    if not has_vision_tower(checkpoint):
        return ()
    path = checkpoint.model_config.path
    if not wanted:
        message = "The vision tower is left out, as asked for: the package takes no images."
        return (make_finding("GP131", message, path=path, key="vision_config"),)
    if projector is None:
        return (
            make_finding(
                "GP130",
                f"{path}: the converter knows no vision tower of {checkpoint.architecture}, so the model is"
                " packaged without it and takes no images.",
                path=path,
                key="vision_config",
                action="Try a newer converter (ggufpack vendor status), or pass --no-vision to keep it so.",
            ),
        )
    return (
        make_finding(
            "GP132",
            f"{projector.path.name} has the trained weights of the vision tower, but what the engine makes of"
            " an image (its resizing, the tokens around, their number) was not compared with training."
            f"{_KNOWN.get(checkpoint.architecture, '')}",
            path=path,
            key="vision_config",
            action="Ask it about a few images with a known answer.",
        ),
    )
