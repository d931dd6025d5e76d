"""push() and pull(): a model to a registry and from it, through an Ollama server, and what arrived."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ggufpack.errors import (
    InvalidModelNameError,
    ModelExistsError,
    ModelNotFoundError,
    RemoteManifestError,
    RemoteRegistryError,
    UsageError,
    VerificationError,
)
from ggufpack.progress import StageLog
from ggufpack.pushable import check_status, expected_digests, package_at, registered_as
from ggufpack.registry import OllamaServer
from ggufpack.registry import findings as found
from ggufpack.registry.manifest import RemoteManifest, fetch_manifest
from ggufpack.registry.names import DEFAULT_HOST, DEFAULT_NAMESPACE, ModelName, parse
from ggufpack.registry.register import remove, temporary_name
from ggufpack.registry.transfer import transfer
from ggufpack.spec import EventHandler, Finding, Stage, ignore_event


@dataclass(frozen=True)
class TransferResult:
    """What was pushed or pulled.

    Attributes:
        direction: push or pull.
        remote: the name in the registry.
        local: the name on the Ollama server.
        host: address of that server.
        gguf: SHA-256 of the model's GGUF, in hex; ``None`` where the server does not say.
        manifest: SHA-256 of the manifest that the registry serves, which names every blob; ``None``
            where it was not read: a finding says why.
        layers: bytes of every blob by its digest; of a pull whose ``manifest`` was not read, of those
            blobs that the server reported.
        findings: what was not checked.
        seconds: of the transfer.
    """

    direction: Literal["push", "pull"]
    remote: str
    local: str
    host: str
    gguf: str | None
    manifest: str | None
    layers: Mapping[str, int]
    findings: tuple[Finding, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The object that ``ggufpack push --json`` and ``pull --json`` print."""
        return {
            "direction": self.direction,
            "remote": self.remote,
            "local": self.local,
            "host": self.host,
            "gguf": self.gguf,
            "manifest": self.manifest,
            "layers": dict(self.layers),
            "findings": [finding.to_json() for finding in self.findings],
            "seconds": round(self.seconds, 3),
        }


def push(
    model: str | os.PathLike[str],
    *,
    to: str | None = None,
    host: str | None = None,
    insecure: bool = False,
    on_event: EventHandler = ignore_event,
) -> TransferResult:
    """Push a model of an Ollama server to a registry, then compare what the registry serves.

    The server pushes a model under its own name only, so for ``to`` it gets a second name for as long
    as the push lasts.

    Args:
        model: a name on the server, or a package folder whose model is registered there.
        to: ``[REGISTRY/]NAMESPACE/MODEL[:TAG]``; ``None``: the model's own name.
        host: the Ollama server; ``None`` follows ``OLLAMA_HOST``.
        insecure: the registry speaks http.
        on_event: gets ``spec.Event``s.

    Raises:
        InvalidModelNameError: a name that is none, or that belongs to nobody.
        VerificationError: the package failed its verification, or the server's model is another one.
        ModelNotFoundError: the server has no such model.
        ModelExistsError: ``to`` is the name of another model on the server.
        RemoteRegistryError: the registry refused, broke off, or serves something else.
        RegistryError: the server failed.
    """
    log = StageLog(on_event)
    package = package_at(model)
    if package is not None and to is None:
        raise UsageError(f"{model} is a package: where to?", action="Pass --to [REGISTRY/]NAMESPACE/MODEL.")
    target = _remote_name(to or os.fspath(model))
    source, sha256 = os.fspath(model), None
    if package is not None:
        log.keep(check_status(package, Path(model)))
        source, sha256 = registered_as(package, Path(model), target.tag)
    source_name = parse(source)
    with contextlib.closing(OllamaServer(host)) as server:
        server.check()
        if not server.exists(source):
            raise ModelNotFoundError(
                f"The Ollama server at {server.host} has no model {source_name}",
                action="`ollama list` says which it has; `ggufpack build` registers one.",
            )
        gguf = server.show(source).sha256
        if sha256 is not None and gguf != sha256:
            raise VerificationError(
                f"{source_name} on the server is not the model of {model}: its GGUF is sha256 {gguf}",
                action="Build the package again with --overwrite, which registers it.",
            )
        with log.stage(Stage.REGISTRY, f"Pushing {target}"), _also_named(server, source_name, target, log):
            layers = transfer(server, "push", target, insecure=insecure, on_event=on_event)
        manifest = _served(target, insecure, log)
        if manifest is not None:
            _compare_pushed(target, layers, manifest, log)
        return _result("push", target, source_name, server, gguf, manifest, layers, log)


def pull(
    name: str,
    *,
    save_as: str | None = None,
    expect: str | os.PathLike[str] | None = None,
    host: str | None = None,
    insecure: bool = False,
    on_event: EventHandler = ignore_event,
) -> TransferResult:
    """Pull a model from a registry into an Ollama server, and compare it with what was expected.

    A model that the server has under this name is replaced if all went well, and is there as before
    otherwise.

    Args:
        name: ``[REGISTRY/][NAMESPACE/]MODEL[:TAG]``.
        save_as: its name on the server, instead of ``name``.
        expect: SHA-256 of the GGUF or of the manifest (as ``push`` gives them), or the package folder
            that the model was built as.
        host: the Ollama server; ``None`` follows ``OLLAMA_HOST``.
        insecure: the registry speaks http.
        on_event: gets ``spec.Event``s.

    Raises:
        InvalidModelNameError: a name that is none.
        UsageError: ``expect`` is neither a digest nor a package.
        VerificationError: it is another model than was expected; it is not on the server.
        ModelExistsError: ``save_as`` is taken.
        ModelNotFoundError: the registry has no such model.
        RegistryError: the registry or the server failed.
    """
    log = StageLog(on_event)
    remote = _plain(name)
    local = remote if save_as is None else parse(save_as)
    expected = expected_digests(expect)
    with contextlib.closing(OllamaServer(host)) as server:
        server.check()
        if local.key != remote.key and server.exists(str(local)):
            raise ModelExistsError(
                f'The Ollama server at {server.host} has a model "{local}" already',
                action="Give another --as, or remove it first: ollama rm.",
            )
        with log.stage(Stage.REGISTRY, f"Pulling {remote}"), _pulled_name(server, remote, log) as keep:
            manifest = _served(remote, insecure, log)
            if manifest is not None:  # before anything is moved
                _refuse_unexpected(remote, manifest.gguf, manifest, expected)
            moved = transfer(server, "pull", remote, insecure=insecure, on_event=on_event)
            gguf = server.show(str(remote)).sha256
            if manifest is not None:
                _compare_pulled(server, remote, gguf, moved, manifest, log)
            _refuse_unexpected(remote, gguf, manifest, expected)
            if local.key == remote.key:
                keep()
            else:
                server.copy(str(remote), str(local))
        layers = moved if manifest is None else manifest.layers
        return _result("pull", remote, local, server, gguf, manifest, layers, log)


# --- names on the server ---------------------------------------------------------


@contextlib.contextmanager
def _also_named(server: OllamaServer, source: ModelName, target: ModelName, log: StageLog) -> Iterator[None]:
    """The source under the target's name too, which goes at the end if it was not there before."""
    if server.exists(str(target)):
        if server.manifest_digest(str(target)) != server.manifest_digest(str(source)):
            raise ModelExistsError(
                f'The Ollama server at {server.host} has another model "{target}"',
                action=f"Push that one (ggufpack push {target}), or remove it first: ollama rm {target}",
            )
        yield
        return
    try:
        server.copy(str(source), str(target))
        yield
    finally:
        remove(server, str(target), log.on_event)


@contextlib.contextmanager
def _pulled_name(server: OllamaServer, name: ModelName, log: StageLog) -> Iterator[Callable[[], object]]:
    """Gives a function that keeps what is pulled; unless it was called, the name is as it was before."""
    with contextlib.ExitStack() as backups, contextlib.ExitStack() as undo:
        if server.exists(str(name)):
            kept = temporary_name()
            backups.callback(remove, server, kept, log.on_event)
            server.copy(str(name), kept)
            undo.callback(server.copy, kept, str(name))
        # first of the two: a copy over a name would leave the pulled blobs behind
        undo.callback(remove, server, str(name), log.on_event)
        yield undo.pop_all


# --- names in the registry ---------------------------------------------------------


def _remote_name(text: str) -> ModelName:
    """A name that can be pushed to."""
    name = _plain(text)
    if name.host.lower() == DEFAULT_HOST and name.namespace.lower() == DEFAULT_NAMESPACE:
        raise InvalidModelNameError(
            f'"{text}" has no namespace of yours, and nobody can push without one',
            action=f"Pass --to NAMESPACE/{name.model}:{name.tag}, or --to REGISTRY/NAMESPACE/{name.model}.",
        )
    return name


def _plain(text: str) -> ModelName:
    """A name without ``http://``: the server drops it, and then tries https."""
    if "://" in text:
        raise InvalidModelNameError(
            f'"{text}" has a scheme in it',
            action=f'Give "{text.partition("://")[2]}", with --insecure for http.',
        )
    return parse(text)


# --- proof ------------------------------------------------------------------------


def _served(name: ModelName, insecure: bool, log: StageLog) -> RemoteManifest | None:
    """What the registry serves now, or a finding that it was not read.

    Raises:
        RemoteManifestError: what it serves is wrong.
    """
    try:
        return fetch_manifest(name, insecure=insecure)
    except RemoteManifestError:
        raise
    except RemoteRegistryError as error:
        log.keep([found.registry_not_read(str(name), error.problem)])
        return None


def _compare_pushed(
    name: ModelName, moved: Mapping[str, int], manifest: RemoteManifest, log: StageLog
) -> None:
    """The registry's manifest names the blobs that the server pushed, and no other."""
    if not moved:
        log.keep([found.registry_not_read(str(name), "the server does not report the blobs that it pushed")])
    elif dict(moved) != dict(manifest.layers):
        raise RemoteRegistryError(
            f"The registry serves other blobs as {name} than were pushed",
            action="Somebody else may have pushed to it meanwhile; otherwise push again.",
        )


def _compare_pulled(
    server: OllamaServer,
    name: ModelName,
    gguf: str | None,
    moved: Mapping[str, int],
    manifest: RemoteManifest,
    log: StageLog,
) -> None:
    """The manifest that the server keeps is the registry's, byte for byte: it names every blob.

    The server compares digests, and believes the sizes.
    """
    if gguf is not None and f"sha256:{gguf}" not in manifest.layers:
        raise RemoteRegistryError(
            f"The registry serves another GGUF as {name} than the one that was pulled", action="Pull again."
        )
    for digest, size in moved.items():
        if size and manifest.layers.get(digest, size) != size:
            raise RemoteManifestError(
                f"The registry's manifest of {name} gives {digest:.19}… {manifest.layers[digest]:,} bytes,"
                f" and it has {size:,}",
                action="The model has to be pushed again, by whoever has it.",
            )
    if server.manifest_digest(str(name)) != manifest.digest:
        log.keep([found.registry_not_read(str(name), "the server keeps the manifest in another form")])


def _refuse_unexpected(
    name: ModelName, gguf: str | None, manifest: RemoteManifest | None, expected: frozenset[str]
) -> None:
    if expected and not {gguf, None if manifest is None else manifest.digest} & expected:
        raise VerificationError(
            f"{name} is another model than expected: its GGUF is sha256 {gguf}, not"
            f" {' or '.join(sorted(expected))}",
            action="Nothing of it is on the server. Check the name and the tag, and who pushed it.",
        )


def _result(
    direction: Literal["push", "pull"],
    remote: ModelName,
    local: ModelName,
    server: OllamaServer,
    gguf: str | None,
    manifest: RemoteManifest | None,
    layers: Mapping[str, int],
    log: StageLog,
) -> TransferResult:
    return TransferResult(
        direction=direction,
        remote=str(remote),
        local=str(local),
        host=server.host,
        gguf=gguf,
        manifest=None if manifest is None else manifest.digest,
        layers=layers,
        findings=tuple(log.findings),
        seconds=log.seconds[Stage.REGISTRY],
    )
