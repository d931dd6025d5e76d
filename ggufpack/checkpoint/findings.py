"""Every finding that opening a checkpoint can raise: one id, one severity, one meaning.

Ids are never used again for something else. GP1xx configuration and layout, GP2xx tensors,
GP3xx tokenizer, GP4xx the source of the chat template.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ggufpack.spec import Finding, Severity


@dataclass(frozen=True)
class FindingKind:
    """What an id stands for, whatever file it was found in."""

    severity: Severity
    meaning: str


_ERROR, _WARNING, _INFO, _UNCHECKED = (
    Severity.ERROR,
    Severity.WARNING,
    Severity.INFO,
    Severity.UNCHECKED,
)

FINDING_KINDS: dict[str, FindingKind] = {
    # --- configuration and layout
    "GP101": FindingKind(_INFO, "the only checkpoint inside the given folder was taken"),
    "GP102": FindingKind(_WARNING, "adapter files lie beside a full model and are not applied"),
    "GP110": FindingKind(_INFO, "no generation_config.json"),
    "GP111": FindingKind(_WARNING, "no end-of-sequence id in the generation configuration"),
    "GP112": FindingKind(_ERROR, "a generation parameter has the wrong type or range and is ignored"),
    "GP113": FindingKind(_WARNING, "the context length is not known"),
    "GP114": FindingKind(_INFO, "RoPE scaling reaches further than the configured context length"),
    "GP115": FindingKind(_INFO, "the weights are stored quantised and are dequantised first"),
    "GP116": FindingKind(_WARNING, "config.json names a value of the wrong type, which is ignored"),
    "GP117": FindingKind(_WARNING, "an encoder without a pooling configuration"),
    "GP118": FindingKind(_INFO, "a key that transformers leaves out is added for the conversion"),
    "GP119": FindingKind(_ERROR, "llama.cpp weights the chosen experts otherwise than config.json says"),
    "GP120": FindingKind(_INFO, "adapters are merged into the base model while it is converted"),
    "GP121": FindingKind(_INFO, "files of the checkpoint come from an adapter's folder"),
    "GP122": FindingKind(_WARNING, "an adapter names another base model than the one it is merged into"),
    "GP123": FindingKind(_WARNING, "adapters bring different tokenizers, and the first one's is taken"),
    "GP124": FindingKind(_INFO, "the vocabulary is larger or smaller than the base model's"),
    "GP125": FindingKind(_INFO, "tied embeddings become separate, as they were in training"),
    "GP126": FindingKind(_INFO, "the base model was taken from the adapter's or the trainer's configuration"),
    "GP127": FindingKind(_INFO, "the trainer's configuration names a chat template"),
    "GP128": FindingKind(_INFO, "an adapter becomes a layer on a model that is registered"),
    "GP129": FindingKind(
        _UNCHECKED, "whether a registered model has the weights of the base was not checked"
    ),
    "GP130": FindingKind(_WARNING, "the converter knows no vision tower of this architecture"),
    "GP131": FindingKind(_INFO, "the vision tower is left out, as asked for"),
    "GP132": FindingKind(_UNCHECKED, "what the packaged vision tower makes of an image was not compared"),
    "GP140": FindingKind(_ERROR, "steps of an embedding model that a GGUF cannot hold"),
    "GP141": FindingKind(_WARNING, "every text gets a prompt that servers do not send"),
    "GP142": FindingKind(_INFO, "an embedding model was trained with prompts"),
    "GP143": FindingKind(_INFO, "vectors of any length, which servers normalise"),
    # --- tensors
    "GP201": FindingKind(_INFO, "the floating-point tensors are stored in more than one dtype"),
    "GP202": FindingKind(_INFO, "the tensors are stored in another dtype than config.json names"),
    "GP203": FindingKind(_WARNING, "several shards without an index, so completeness cannot be proven"),
    "GP204": FindingKind(_WARNING, "the index names another shard than the one that holds the tensor"),
    "GP205": FindingKind(_WARNING, "a safetensors file that is not part of the checkpoint"),
    "GP206": FindingKind(_ERROR, "the embedding has another number of rows than the vocabulary"),
    "GP207": FindingKind(_WARNING, "an output head is stored although the configuration ties it"),
    "GP208": FindingKind(_ERROR, "an untied model without an output head"),
    "GP209": FindingKind(_WARNING, "a layer lacks tensors that most layers have"),
    "GP210": FindingKind(_WARNING, "tensors of more layers than the configuration names"),
    "GP211": FindingKind(_UNCHECKED, "completeness of the layers was not checked"),
    # --- tokenizer
    "GP301": FindingKind(_ERROR, "the tokenizer has ids outside the configured vocabulary"),
    "GP302": FindingKind(_ERROR, "tokenizer files give the same id to different tokens"),
    "GP303": FindingKind(_WARNING, "tokenizer files disagree on whether a token is special"),
    "GP304": FindingKind(_WARNING, "tokenizer_config.json and the post-processor disagree on BOS or EOS"),
    "GP305": FindingKind(_WARNING, "the tokenizer's EOS token does not stop generation"),
    "GP306": FindingKind(_WARNING, "a special token is not in the vocabulary"),
    "GP307": FindingKind(_UNCHECKED, "the vocabulary could not be read without loading the tokenizer"),
    "GP308": FindingKind(_ERROR, "an end-of-sequence id is not in the vocabulary"),
    "GP309": FindingKind(_WARNING, "added tokens outside the vocabulary, which the converter leaves out"),
    # --- source of the chat template
    "GP401": FindingKind(_WARNING, "transformers and llama.cpp's converter pick different chat templates"),
    "GP402": FindingKind(_WARNING, "conversations with tools use a chat template of their own"),
    "GP403": FindingKind(_ERROR, "several named chat templates and none is the default"),
    "GP404": FindingKind(_INFO, "the chat template comes from the processor's chat_template.json"),
}


def finding_of(
    kinds: Mapping[str, FindingKind],
    finding_id: str,
    message: str,
    *,
    path: Path | None = None,
    key: str | None = None,
    action: str | None = None,
) -> Finding:
    """A finding with the severity of its kind. ``KeyError`` when the id is not in the table ``kinds``."""
    return Finding(finding_id, kinds[finding_id].severity, message, path=path, key=key, action=action)


make_finding = partial(finding_of, FINDING_KINDS)
