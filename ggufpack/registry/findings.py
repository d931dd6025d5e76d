"""Findings about how a server stored a model (GP520-GP531)."""

from __future__ import annotations

from collections.abc import Sequence

from ggufpack.spec import Finding, Severity

# ids are stable; the text may change
TEMPLATE_NOT_STORED = "GP520"
TEMPLATE_IGNORED = "GP521"
PARAMETERS_NOT_STORED = "GP522"
SYSTEM_NOT_STORED = "GP523"
VERSION_UNKNOWN = "GP524"
NATIVE_UNSUPPORTED = "GP525"
WEIGHTS_REWRITTEN = "GP526"
REGISTRY_NOT_READ = "GP527"
ADAPTER_NOT_STORED = "GP529"
BASE_TEMPLATE = "GP528"
IMAGES_NOT_TAKEN = "GP530"
WEIGHTS_NOT_SHOWN = "GP531"


def template_not_stored(native: bool) -> Finding:
    """The server registered another TEMPLATE than the one sent."""
    if native:
        return Finding(
            TEMPLATE_NOT_STORED,
            Severity.ERROR,
            "The server added a TEMPLATE of its own, because the chat template in the GGUF resembles one it "
            "knows; the checkpoint's own chat template would not be used",
            key="TEMPLATE",
            action="Build with --template auto, which writes a TEMPLATE and proves it.",
        )
    return Finding(
        TEMPLATE_NOT_STORED,
        Severity.ERROR,
        "The server registered another TEMPLATE than the one it was given",
        key="TEMPLATE",
        action="Compare `ollama show --template` with the Modelfile, and report it.",
    )


def template_ignored() -> Finding:
    """The TEMPLATE is stored, and the GGUF's Jinja will be used (images.go: PreferChatTemplate)."""
    return Finding(
        TEMPLATE_IGNORED,
        Severity.WARNING,
        "The server stored the TEMPLATE but uses the chat template inside the GGUF, which has more "
        "capabilities; only the check of the prompts shows whether both give the same",
        key="TEMPLATE",
        action="Keep --verify prompts on, or start the server with OLLAMA_GO_TEMPLATE=1.",
    )


def parameters_not_stored(difference: str) -> Finding:
    """A parameter is missing, differs, or was added by the server."""
    return Finding(
        PARAMETERS_NOT_STORED,
        Severity.ERROR,
        f"The server registered other parameters than the ones it was given: {difference}",
        key="PARAMETER",
    )


def system_not_stored() -> Finding:
    """The SYSTEM text differs."""
    return Finding(
        SYSTEM_NOT_STORED,
        Severity.ERROR,
        "The server registered another SYSTEM text than the one it was given",
        key="SYSTEM",
    )


def version_unknown(text: str) -> Finding:
    """The server does not say which Ollama it is, so nothing is concluded from its version."""
    return Finding(
        VERSION_UNKNOWN,
        Severity.UNCHECKED,
        f'The server calls its version "{text}": which rules it follows is probed, not known',
    )


def native_unsupported(version: str) -> Finding:
    """Servers up to 0.29 never run the GGUF's Jinja."""
    return Finding(
        NATIVE_UNSUPPORTED,
        Severity.ERROR,
        f"Ollama {version} does not run the chat template inside a GGUF; 0.30 is the first that does",
        action="Update Ollama, or build with --template auto.",
    )


def weights_rewritten(sent: str, stored: str) -> Finding:
    """Ollama 0.30 and later pass a GGUF through llama-quantize COPY; the file may change."""
    return Finding(
        WEIGHTS_REWRITTEN,
        Severity.INFO,
        f"The server stored a rewritten copy of the GGUF (sent sha256:{sent[:12]}, stored "
        f"sha256:{stored[:12]}); the file that was sent takes space there until the server prunes it",
    )


def weights_not_shown() -> Finding:
    """``/api/show`` has no FROM line with a digest, so nothing says which file the server stored."""
    return Finding(
        WEIGHTS_NOT_SHOWN,
        Severity.UNCHECKED,
        "The server does not show the digest of the GGUF that it stored, so nothing says that it is the one"
        " it was given",
        key="FROM",
        action="Look at the FROM line of `ollama show --modelfile`.",
    )


def images_not_taken(capabilities: Sequence[str]) -> Finding:
    """A vision tower was sent, and the server lists no vision (images.go: projectorCapabilities)."""
    return Finding(
        IMAGES_NOT_TAKEN,
        Severity.ERROR,
        "The server stored the vision tower, but says that the model takes no images: its capabilities are "
        f"{', '.join(capabilities) or 'not given'}",
        key="FROM",
        action="Update Ollama, or build with --no-vision.",
    )


def registry_not_read(name: str, reason: str) -> Finding:
    """The manifest that the registry serves was not compared with what the server moved."""
    return Finding(
        REGISTRY_NOT_READ,
        Severity.UNCHECKED,
        f"What the registry serves as {name} was not read from here, so only the server's word is there "
        f"that it is the same model: {reason}",
        key="manifest",
    )


def adapter_not_stored() -> Finding:
    """The model on the server has another adapter than the one sent, or none."""
    return Finding(
        ADAPTER_NOT_STORED,
        Severity.ERROR,
        "The server registered the model without the adapter, or with another one",
        key="ADAPTER",
        action="Update Ollama, or merge the adapter: ggufpack build BASE --adapter DIR.",
    )


def base_template(name: str) -> Finding:
    """The registered base answers with another chat template than the adapter was trained with."""
    return Finding(
        BASE_TEMPLATE,
        Severity.INFO,
        f"{name} answers with another chat template than the one that the adapter was trained with; this"
        " package has the adapter's",
        key="TEMPLATE",
    )
