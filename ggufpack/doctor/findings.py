"""Every finding that only ``doctor`` raises, in one table: one id, one severity, one meaning.

The stages have tables of their own (``checkpoint.findings``, ``chat_template.findings``,
``modelfile.findings``, ``registry.findings``), which are used here as they are. The ids here begin at
GP150 and GP260 and so on, behind those.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

from ggufpack.checkpoint.findings import FindingKind, finding_of
from ggufpack.spec import Severity

_ERROR, _WARNING, _INFO, _UNCHECKED = (
    Severity.ERROR,
    Severity.WARNING,
    Severity.INFO,
    Severity.UNCHECKED,
)

FINDING_KINDS: Mapping[str, FindingKind] = MappingProxyType(
    {
        # --- checkpoint and package folder
        "GP150": FindingKind(_ERROR, "the folder is not one complete safetensors checkpoint"),
        "GP151": FindingKind(_ERROR, "a configuration or tokenizer file cannot be read"),
        "GP152": FindingKind(_ERROR, "the weights are in a form that must be merged or dequantised first"),
        "GP153": FindingKind(_ERROR, "the converter refuses the checkpoint"),
        "GP154": FindingKind(_ERROR, "the file is nothing that doctor knows"),
        "GP155": FindingKind(_ERROR, "an adapter cannot be merged into its base model"),
        "GP160": FindingKind(_ERROR, "the record of a package cannot be read"),
        "GP161": FindingKind(_ERROR, "a file of the package is missing"),
        "GP162": FindingKind(_ERROR, "a file of the package is not the one that was recorded"),
        "GP163": FindingKind(_ERROR, "the package failed its verification"),
        "GP164": FindingKind(_WARNING, "the package was never verified"),
        "GP165": FindingKind(_WARNING, "a GGUF in the package folder that the record does not name"),
        # --- tensors and the GGUF file
        "GP260": FindingKind(_ERROR, "a safetensors file or its index is damaged or incomplete"),
        "GP261": FindingKind(_WARNING, "weights that F16 cannot hold"),
        "GP262": FindingKind(_ERROR, "not a GGUF file"),
        "GP263": FindingKind(_ERROR, "a GGUF of a form that is not read: big-endian, an old version, split"),
        "GP264": FindingKind(_ERROR, "the GGUF is cut off"),
        "GP265": FindingKind(_ERROR, "the GGUF is damaged"),
        "GP266": FindingKind(_ERROR, "the GGUF names no architecture"),
        "GP267": FindingKind(_ERROR, "a tensor of a type that llama.cpp does not have"),
        "GP268": FindingKind(_WARNING, "general.file_type names another type than most tensors have"),
        "GP269": FindingKind(_ERROR, "NaN or infinity in the weights"),
        "GP270": FindingKind(_WARNING, "the GGUF does not say its context length"),
        "GP271": FindingKind(_ERROR, "a GGUF without weights"),
        # --- tokenizer of a GGUF
        "GP350": FindingKind(_ERROR, "the GGUF has no tokenizer"),
        "GP351": FindingKind(_ERROR, "a token id outside the vocabulary"),
        "GP352": FindingKind(_WARNING, "the template's turn ends with a token at which llama.cpp goes on"),
        "GP353": FindingKind(_WARNING, "the engine puts a BOS that the chat template does not have"),
        "GP354": FindingKind(_WARNING, "no pre-tokenizer, or the default one"),
        "GP355": FindingKind(_ERROR, "the vocabulary has another size than the embedding"),
        "GP356": FindingKind(_WARNING, "the GGUF names no EOS token"),
        "GP357": FindingKind(
            _INFO, "llama.cpp knows the end of a turn by its text, the file does not name it"
        ),
        # --- chat template
        "GP450": FindingKind(_ERROR, "the chat template cannot be read"),
        "GP451": FindingKind(_WARNING, "the GGUF has no chat template"),
        "GP452": FindingKind(_UNCHECKED, "Ollama may take the chat template for another model's"),
        # --- Modelfile
        "GP550": FindingKind(_ERROR, "the Modelfile is no text"),
        "GP551": FindingKind(_ERROR, "FROM or ADAPTER names a file that is not there"),
        "GP552": FindingKind(_WARNING, "FROM or ADAPTER leaves the Modelfile's folder"),
        "GP553": FindingKind(_ERROR, "the TEMPLATE is no Go template"),
        "GP554": FindingKind(_WARNING, "Ollama 0.30 and later ignores the TEMPLATE"),
        "GP555": FindingKind(
            _WARNING, "the TEMPLATE gives another prompt than the chat template in the GGUF"
        ),
        "GP556": FindingKind(_WARNING, "a stop string of the chat template is missing"),
        "GP557": FindingKind(_WARNING, "a parameter that Ollama drops"),
        "GP558": FindingKind(_WARNING, "num_ctx is not set"),
        "GP559": FindingKind(_WARNING, "num_ctx is more than the model was trained for"),
        "GP560": FindingKind(_WARNING, "a parameter outside its range"),
        "GP561": FindingKind(_WARNING, "the TEMPLATE writes BOS, and the engine adds it too"),
        "GP562": FindingKind(
            _WARNING, "neither a TEMPLATE nor a chat template: the roles of a chat are lost"
        ),
        # --- server
        "GP570": FindingKind(_ERROR, "no Ollama server answers"),
        "GP571": FindingKind(_ERROR, "the server has no such model"),
        "GP572": FindingKind(_ERROR, "the server failed or refused"),
        "GP573": FindingKind(_WARNING, "capabilities of the chat template that the server does not list"),
        "GP574": FindingKind(_WARNING, "a server before 0.30 has no TEMPLATE for this model"),
        "GP575": FindingKind(_UNCHECKED, "the server runs a template that may be one it detected"),
    }
)


make_finding = partial(finding_of, FINDING_KINDS)
