"""Register a GGUF under its names, or leave the server as it was.

A model is created under a temporary name, looked at, and only then copied to its final names. So a
failed build leaves no half-registered name, and a failed overwrite leaves the good model in place.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufpack.errors import GgufpackError, ModelExistsError, ServerResponseError, ServerVersionError
from ggufpack.packages import exclusive_name
from ggufpack.registry import findings as found
from ggufpack.registry.answers import count
from ggufpack.registry.base import RegisteredBase
from ggufpack.registry.names import parse
from ggufpack.registry.server import Json, OllamaServer
from ggufpack.registry.shown import ShownModel
from ggufpack.spec import (
    EventHandler,
    Finding,
    FindingRaised,
    GgufFile,
    Note,
    Progress,
    Severity,
    Stage,
    ignore_event,
)

TEMPORARY_PREFIX = "ggufpack-tmp-"
# before 0.30 the GGUF's Jinja is never run (facts: server/images.go, llm/llama_server.go)
_FIRST_NATIVE = (0, 30, 0)


@dataclass(frozen=True)
class StagedModel:
    """A model that the server holds under a temporary name, for as long as ``stage_model``'s block lasts."""

    server: OllamaServer
    name: str
    findings: tuple[Finding, ...]
    on_event: EventHandler
    token: str | None = None

    def publish(
        self, names: Sequence[str], *, overwrite: bool = False, own: Collection[str] = ()
    ) -> tuple[str, ...]:
        """Give the model its final names: all of them, or none.

        Args:
            names: with their tags; two that the server takes for one count once.
            overwrite: replace models of these names.
            own: as ``refuse_existing``.

        Returns:
            The names, as registered.

        Raises:
            InvalidModelNameError: a name is invalid.
            ModelExistsError: a name is taken and ``overwrite`` is off.
            RegistryError: the server failed; replaced models are back under their names.
        """
        targets = _distinct(names)
        with _alone(self.server):
            if not overwrite:
                refuse_existing(self.server, targets, own)
            # left in reverse: what was replaced is put back before the backups go
            with ExitStack() as backups, ExitStack() as undo:
                for target in targets:
                    if self.server.exists(target):
                        # a copy over a name leaves the old model's blobs behind; deleting a name removes them
                        kept = temporary_name(self.token)
                        backups.callback(remove, self.server, kept, self.on_event)
                        self.server.copy(target, kept)
                        undo.callback(self.server.copy, kept, target)
                    else:
                        undo.callback(remove, self.server, target, self.on_event)
                    self.server.copy(self.name, target)
                undo.pop_all()
        return targets


@contextmanager
def stage_model(
    server: OllamaServer,
    gguf: Path,
    sha256: str,
    request: Json,
    *,
    projector: GgufFile | None = None,
    native: bool = False,
    base: RegisteredBase | None = None,
    token: str | None = None,
    on_event: EventHandler = ignore_event,
) -> Iterator[StagedModel]:
    """Upload a GGUF and register it under a temporary name, which goes when the block ends.

    Args:
        server: where to.
        gguf: the file.
        sha256: its digest in hex.
        request: template, system, parameters, license, … (``OllamaServer.create``).
        projector: the vision tower's file, which the server finds out by its header.
        native: the chat template is left to the Jinja inside the GGUF.
        base: the GGUF is an adapter of this model.
        token: temporary names begin with ``temporary_prefix(token)``.
        on_event: gets byte progress and findings.

    Raises:
        ServerVersionError: ``native``, and the server cannot.
        ServerDiskFullError: the server has no room.
        ServerResponseError: the server refused the file, or stored something else than it was given.
    """
    notes = _check_version(server, native)
    files = {gguf: sha256, **({} if projector is None else {projector.path: projector.sha256})}

    def status(update: Json) -> None:
        text = str(update.get("status", ""))
        if total := count(update.get("total")):
            done = min(count(update.get("completed")), total)  # rounded in float32 by the server
            on_event(Progress(Stage.REGISTRY, done, total, "bytes", text))
        elif "sha256:" not in text:  # one line for each layer says nothing to people
            on_event(Progress(Stage.REGISTRY, 0, None, "bytes", text))

    for path, digest in files.items():
        _upload(server, path, digest, on_event)
    name = temporary_name(token)
    try:
        sent = {path.name: digest for path, digest in files.items()}
        with _alone(server):
            for path, digest in files.items():
                # it was there, and was another build's, whose model has gone with its blobs since
                if not server.has_blob(digest):
                    _upload(server, path, digest, on_event)
            server.create(name, sent, request, status, base=None if base is None else base.name)
        shown = server.show(name)
        if base is None:
            notes += _compare(shown, request, sha256, native)
        else:
            notes += _compare_layered(shown, request, sha256, base)
        if projector is not None and "vision" not in shown.capabilities:
            notes.append(found.images_not_taken(shown.capabilities))
        for finding in notes:
            on_event(FindingRaised(finding))
            if finding.severity is Severity.ERROR:
                raise ServerResponseError(
                    finding.message, action=finding.action, key=finding.key, finding=finding.id
                )
        yield StagedModel(server, name, tuple(notes), on_event, token)
    finally:
        with _alone(server):
            remove(server, name, on_event)


def _alone(server: OllamaServer) -> AbstractContextManager[None]:
    """No other build of this user creates, names or removes a model on this server meanwhile.

    A server that deletes a model removes each blob that no manifest names in that moment, also one that
    a ``create`` is about to name (0.33.0, server/routes.go: DeleteHandler); and it has no copy that
    refuses a taken name.
    """
    return exclusive_name(f"ollama {server.host}")


def _upload(server: OllamaServer, path: Path, sha256: str, on_event: EventHandler) -> None:
    size = path.stat().st_size

    def uploaded(done: int) -> None:
        on_event(Progress(Stage.REGISTRY, done, size, "bytes", f"upload {path.name}"))

    if not server.upload_blob(path, sha256, uploaded):
        on_event(Note(f"The server has {path.name} already"))


def register(
    server: OllamaServer,
    names: Sequence[str],
    gguf: Path,
    sha256: str,
    request: Json,
    *,
    overwrite: bool = False,
    native: bool = False,
    on_event: EventHandler = ignore_event,
) -> tuple[str, ...]:
    """``stage_model`` and ``publish`` in one; a taken name is refused before anything is uploaded.

    Raises:
        ModelExistsError: a name is taken and ``overwrite`` is off.
        RegistryError: as ``stage_model`` and ``StagedModel.publish``.
    """
    if not overwrite:
        refuse_existing(server, names)
    with stage_model(server, gguf, sha256, request, native=native, on_event=on_event) as staged:
        return staged.publish(names, overwrite=overwrite)


def refuse_existing(server: OllamaServer, names: Sequence[str], own: Collection[str] = ()) -> None:
    """Ask before any work is done.

    Args:
        server: where.
        names: with their tags.
        own: sha256 of files; models of these files are no reason to refuse.

    Raises:
        InvalidModelNameError: a name is invalid.
        ModelExistsError: a name is taken.
    """
    for name in _distinct(names):
        if server.exists(name) and (not own or server.show(name).own_sha256 not in own):
            raise ModelExistsError(
                f'The Ollama server at {server.host} has a model "{name}" already',
                action="Give another --name, or --overwrite to replace it.",
            )


def leftovers(server: OllamaServer, token: str | None = None) -> tuple[str, ...]:
    """Temporary names on the server: of builds (with this ``token``) that run now, or that were killed."""
    return tuple(name for name in server.names() if name.startswith(temporary_prefix(token)))


# --- what the server stored ---------------------------------------------------


def _check_version(server: OllamaServer, native: bool) -> list[Finding]:
    version = server.version
    if version is None:
        return [found.version_unknown(server.version_text)]
    if native and version < _FIRST_NATIVE:
        finding = found.native_unsupported(server.version_text)
        raise ServerVersionError(finding.message, action=finding.action, finding=finding.id)
    return []


def _compare(shown: ShownModel, request: Json, sha256: str, native: bool) -> list[Finding]:
    """Findings for every difference between what was sent and what the server says it stored."""
    differences: list[Finding] = []
    if request.get("template"):
        differences += _template_difference(shown, request["template"])
    # a detected TEMPLATE does no harm where the server prefers the Jinja to it
    elif shown.has_template_layer and shown.template in shown.modelfile:
        differences.append(found.template_not_stored(native=native))
    if shown.system != (request.get("system") or ""):
        differences.append(found.system_not_stored())
    if difference := _parameter_difference(request.get("parameters") or {}, shown.parameters):
        differences.append(found.parameters_not_stored(difference))
    if shown.sha256 is None:
        differences.append(found.weights_not_shown())
    elif shown.sha256 != sha256:
        differences.append(found.weights_rewritten(sha256, shown.sha256))
    return differences


def _compare_layered(shown: ShownModel, request: Json, sha256: str, base: RegisteredBase) -> list[Finding]:
    """As ``_compare``, for an adapter: what was not sent stays the base's."""
    differences: list[Finding] = []
    if request.get("template"):
        differences += _template_difference(shown, request["template"])
    if shown.system != (request.get("system") or base.shown.system):
        differences.append(found.system_not_stored())
    sent = {**base.shown.parameters, "stop": (), **(request.get("parameters") or {})}
    if difference := _parameter_difference(sent, shown.parameters):
        differences.append(found.parameters_not_stored(difference))
    if shown.adapters != (sha256,) or shown.sha256 != base.shown.sha256:
        differences.append(found.adapter_not_stored())
    elif shown.sha256 is None:  # as little as the base showed
        differences.append(found.weights_not_shown())
    return differences


def _template_difference(shown: ShownModel, template: str) -> list[Finding]:
    if not shown.stores_template(template):
        return [found.template_not_stored(native=False)]
    return [] if shown.template == template else [found.template_ignored()]


def _parameter_difference(sent: Mapping[str, Any], stored: Mapping[str, tuple[Any, ...]]) -> str:
    """The first parameter that differs, as ``NAME: sent …, stored …``; empty when none does."""
    expected = {
        key: tuple(value) if isinstance(value, (list, tuple)) else (value,) for key, value in sent.items()
    }
    for key in sorted({*expected, *stored}):
        before, after = expected.get(key, ()), stored.get(key, ())
        if before != after:
            return f"{key}: sent {list(before)}, stored {list(after)}"
    return ""


# --- names --------------------------------------------------------------------


def temporary_prefix(token: str | None = None) -> str:
    """How temporary names begin, of all builds or of those with this token."""
    return TEMPORARY_PREFIX if token is None else f"{TEMPORARY_PREFIX}{token}-"


def temporary_name(token: str | None = None) -> str:
    """A new one, that no model has."""
    return f"{temporary_prefix(token)}{secrets.token_hex(6)}:latest"


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    first: dict[str, str] = {}
    for parsed in map(parse, names):
        first.setdefault(parsed.key, str(parsed))
    return tuple(first.values())


def remove(server: OllamaServer, name: str, on_event: EventHandler) -> None:
    """Delete a name that may not be there. A failure is told, not raised: it must not hide an error."""
    try:
        if server.exists(name):
            server.delete(name)
    except GgufpackError as error:
        on_event(Note(f"{name} stays on the server: {error.problem}. Remove it: ollama rm {name}"))
