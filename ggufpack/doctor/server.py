"""A model on an Ollama server: what is stored, which template is in use, and what Ollama makes of it.

Source of the rules: Ollama 0.33.0, server/images.go and server/routes.go (``GetModelInfo``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ggufpack.chat_template.capabilities import chat_template_capabilities
from ggufpack.chat_template.go.errors import GoTemplateError
from ggufpack.chat_template.go.inspect import capabilities as go_capabilities
from ggufpack.chat_template.go.parse import parse as parse_go
from ggufpack.chat_template.readings import FIRST_NATIVE_VERSION
from ggufpack.doctor.examination import Log
from ggufpack.doctor.findings import make_finding
from ggufpack.doctor.gguf import (
    WEIGHTS,
    GgufFacts,
    check_gguf,
    check_jinja,
    jinja_facts,
    read_vocabulary,
)
from ggufpack.doctor.modelfile import check_against_gguf
from ggufpack.errors import ModelfileError, RegistryError, UsageError
from ggufpack.modelfile.model import Modelfile
from ggufpack.modelfile.parse import parse
from ggufpack.registry import OllamaServer
from ggufpack.registry.findings import template_ignored, version_unknown
from ggufpack.registry.names import validate
from ggufpack.registry.shown import ShownModel, local_blob

SERVER, MODEL, KEYS, JINJA, IN_USE, CAPABILITIES = (
    "server",
    "model",
    "model's tokenizer",
    "model's chat template",
    "template in use",
    "capabilities",
)
_AFTER = (KEYS, JINJA, IN_USE, CAPABILITIES, "TEMPLATE", "stops", "parameters")
_LISTED = 8


@dataclass(frozen=True)
class _Stored:
    shown: ShownModel
    keys: Mapping[str, Any]
    modelfile: Modelfile | None


def check_model(log: Log, name: str, host: str | None) -> None:
    """All checks of a registered model. Nothing is loaded or run."""
    server = _connect(log, host)
    if server is None:
        log.skip_all((MODEL, *_AFTER), "no server answers")
        return
    try:
        stored = _stored(log, server, name)
        if stored is None:
            log.skip_all(_AFTER, "the server does not show the model")
        else:
            _check_stored(log, server, stored)
    finally:
        server.close()
    log.skip("the prompt that the server renders", "it loads the model: run ggufpack verify MODEL CHECKPOINT")


def server_version(log: Log, host: str) -> tuple[int, int, int] | None:
    """Of the server that was named; ``None`` when it does not answer or does not know."""
    server = _connect(log, host)
    if server is None:
        return None
    try:
        return server.version
    finally:
        server.close()


def model_exists(host: str, name: str) -> bool:
    """Whether the server has a model.

    Raises:
        RegistryError: it cannot be asked.
    """
    server = OllamaServer(host)
    try:
        return server.exists(name)
    finally:
        server.close()


def _connect(log: Log, host: str | None) -> OllamaServer | None:
    with log.check(SERVER):
        server = OllamaServer(host)
        try:
            server.check()
        except RegistryError:
            server.close()
            raise
        log.facts["host"] = server.host
        log.facts["server_version"] = server.version_text
        if server.version is None:
            log.add([version_unknown(server.version_text)])
        return server
    return None


def _stored(log: Log, server: OllamaServer, name: str) -> _Stored | None:
    with log.check(MODEL):
        if not server.exists(name):
            names = server.names()
            listed = ", ".join(names[:_LISTED]) + (" …" if len(names) > _LISTED else "")
            log.add(
                [
                    make_finding(
                        "GP571",
                        f"{server.host} has no model {name}, and there is no file or folder of that name.",
                        key=name,
                        action=f"Give the path of a file, or one of its models: {listed}."
                        if names
                        else "Give the path of a file or folder; this server has no models.",
                    )
                ]
            )
            return None
        shown = server.show(name)
        keys = server.model_info(name)
        modelfile = None
        try:
            modelfile = parse(shown.modelfile)
        except ModelfileError as error:
            log.skip("stored Modelfile", f"the server's text of it cannot be read back ({error.problem})")
        log.facts |= {
            "details": dict(shown.details),
            "capabilities": list(shown.capabilities),
            "parameters": {key: list(values) for key, values in shown.parameters.items()},
            "has_template": shown.has_template_layer,
            "sha256": shown.sha256,
        }
        return _Stored(shown, keys, modelfile)
    return None


def _check_stored(log: Log, server: OllamaServer, stored: _Stored) -> None:
    shown = stored.shown
    architecture = stored.keys.get("general.architecture")
    log.facts["architecture"] = architecture
    go = stored.modelfile.template if stored.modelfile is not None and shown.has_template_layer else None
    is_encoder = "embedding" in shown.capabilities
    blob = local_blob(stored.shown)
    if blob is not None:
        log.facts["file"] = str(blob)
        facts = check_gguf(log, blob, template=go)
        text = None if facts is None else facts.chat_template
    else:
        text = _jinja(shown, stored.keys, go)
        facts = _facts_shown(log, stored, go, text, is_encoder=is_encoder)
        log.skip(WEIGHTS, "the server is not on this machine: run doctor on the GGUF file")
    with log.check(IN_USE):
        _check_in_use(log, server, shown, go, text, is_encoder=is_encoder)
    if shown.capabilities:
        with log.check(CAPABILITIES):
            _check_capabilities(log, shown, go, text)
    else:
        log.skip(CAPABILITIES, f"Ollama {server.version_text} does not list them")
    if stored.modelfile is not None:
        kept = Modelfile(
            stored.modelfile.from_,
            template=go,
            parameters=tuple(
                (key, _text(value)) for key, values in shown.parameters.items() for value in values
            ),
        )
        check_against_gguf(log, kept, facts, None, on_server=True)


def _facts_shown(
    log: Log, stored: _Stored, go: str | None, text: str | None, *, is_encoder: bool
) -> GgufFacts | None:
    """What the server shows of the GGUF: its keys, and the chat template where that is in use."""
    vocabulary = None
    with log.check(KEYS):
        vocabulary, raised = read_vocabulary(stored.keys, None)
        log.add(raised)
    jinja = None
    if vocabulary is None:
        return None
    if text is None:
        log.skip(JINJA, "the server does not show the chat template in the GGUF")
    else:
        with log.check(JINJA):
            jinja = check_jinja(log, text, vocabulary, path=None, template=go, is_encoder=is_encoder)
        log.facts |= jinja_facts(jinja, text)
    context = stored.keys.get(f"{stored.keys.get('general.architecture')}.context_length")
    known = context if isinstance(context, int) else None
    return GgufFacts(vocabulary, jinja, text, known, is_encoder, is_whole=text is not None)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _jinja(shown: ShownModel, keys: Mapping[str, Any], go: str | None) -> str | None:
    """The chat template in the GGUF, where the server shows it: among the keys, or as the one in use."""
    text = keys.get("tokenizer.chat_template")
    if isinstance(text, str) and text:
        return text
    return (
        shown.template
        if shown.template != go and ("{%" in shown.template or "{#" in shown.template)
        else None
    )


def _check_in_use(
    log: Log, server: OllamaServer, shown: ShownModel, go: str | None, jinja: str | None, *, is_encoder: bool
) -> None:
    version = server.version
    native = version is None or version >= FIRST_NATIVE_VERSION
    if is_encoder:
        log.facts["template_in_use"] = "none"
        return
    if go is None:
        log.facts["template_in_use"] = "chat template" if native and jinja else "none"
        if not native:
            log.add(
                [
                    make_finding(
                        "GP574",
                        f"The model has no TEMPLATE, and Ollama {server.version_text} runs no chat"
                        " template of a GGUF:"
                        " in a chat the roles are lost.",
                        key="TEMPLATE",
                        action="Build with ggufpack --template auto, or update Ollama to 0.30 or later.",
                    )
                ]
            )
        return
    if native and shown.template != go and jinja == shown.template:
        log.facts["template_in_use"] = "chat template"
        log.add([template_ignored()])
        return
    log.facts["template_in_use"] = "TEMPLATE"
    if jinja is None:
        log.add(
            [
                make_finding(
                    "GP575",
                    "The server runs a Go TEMPLATE. Whether it was given or Ollama put it there because"
                    " the chat"
                    " template resembles one that it knows, and whether it gives the trained prompt,"
                    " cannot be told"
                    " from here.",
                    key="TEMPLATE",
                    action="Run ggufpack verify MODEL CHECKPOINT, which compares the prompts.",
                )
            ]
        )


def _check_capabilities(log: Log, shown: ShownModel, go: str | None, jinja: str | None) -> None:
    wanted: set[str] = set()
    if jinja is not None:
        wanted |= set(chat_template_capabilities(jinja))
    elif go is not None:
        try:
            wanted |= set(go_capabilities(parse_go(go)))
        except GoTemplateError:
            return  # the check of the TEMPLATE tells it
    missing = sorted(wanted - set(shown.capabilities))
    if missing:
        log.add(
            [
                make_finding(
                    "GP573",
                    f"The chat template has {', '.join(missing)}, and the server does not list it among"
                    " the model's"
                    f" capabilities ({', '.join(shown.capabilities)}): it refuses such requests.",
                    key="capabilities",
                    action="Leave TEMPLATE out on Ollama 0.30 or later, or build with ggufpack, whose"
                    " TEMPLATE says"
                    " so.",
                )
            ]
        )


def check_name(name: str) -> None:
    """Refuse what is neither on disk nor a model's name.

    Raises:
        UsageError: says both.
    """
    like_a_path = name.startswith((".", "/", "~")) or name.endswith((".gguf", ".safetensors", "Modelfile"))
    if not like_a_path:
        try:
            validate(name)
        except UsageError as error:
            raise UsageError(
                f"{name} does not exist, and is no model's name either.", action="Check the path.", key=name
            ) from error
        return
    raise UsageError(f"{name} does not exist.", action="Check the path.", key=name)
