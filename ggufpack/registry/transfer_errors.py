"""What the server says when a push or a pull fails, as an error with a sentence and what to do.

The server passes on the registry's answer or Go's own error text; there are no codes. The texts are
those of Ollama 0.33.0 (server/images.go, upload.go, download.go, auth.go) and of Go's net packages.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ggufpack.errors import (
    ModelNotFoundError,
    RegistryError,
    RemoteRegistryError,
    SignInError,
    TransferBrokenError,
)
from ggufpack.registry.errors import DISK_FULL, refusal
from ggufpack.registry.names import DEFAULT_HOST, ModelName

Direction = Literal["push", "pull"]

_MANIFEST = "pull model manifest: "
_KEY_FILE = (
    "~/.ollama/id_ed25519.pub of the user that runs it (of the Linux service: /usr/share/ollama/.ollama)"
)
_AGAIN = "Run the same again: it goes on with what is missing there."


@dataclass(frozen=True)
class Transfer:
    """What was tried.

    Attributes:
        direction: push or pull.
        name: in the registry.
        host: address of the Ollama server.
    """

    direction: Direction
    name: ModelName
    host: str

    @property
    def doing(self) -> str:
        """A short phrase for sentences."""
        return f"{self.direction} {self.name}"


def transfer_error(message: str, transfer: Transfer) -> RegistryError:
    """The error for what the server said.

    Args:
        message: its words, from an error status or from inside the stream.
        transfer: what was tried.
    """
    for pattern, make in _RULES:
        if pattern.search(message):
            return make(message, transfer)
    return refusal(message, host=transfer.host, doing=transfer.doing)


def is_passing(message: str) -> bool:
    """Whether to try at once again: a fault that may pass, and that the server itself tried only once."""
    return _BROKEN.search(message) is not None and "max retries exceeded" not in message


# --- the sentences --------------------------------------------------------------


def _plain_http(_message: str, transfer: Transfer) -> RegistryError:
    return RemoteRegistryError(
        f"The registry {transfer.name.host} speaks http, and https was tried ({transfer.doing})",
        action="Pass --insecure, if the network between the Ollama server and it is to be trusted.",
    )


def _https_only(_message: str, transfer: Transfer) -> RegistryError:
    return RemoteRegistryError(
        f"The registry {transfer.name.host} speaks https, and http was tried ({transfer.doing})",
        action="Leave out --insecure.",
    )


def _certificate(message: str, transfer: Transfer) -> RegistryError:
    return RemoteRegistryError(
        f"The Ollama server at {transfer.host} does not accept the certificate of {transfer.name.host}"
        f" ({_end(message)})",
        action="Add the certificate's authority to those of the machine that the Ollama server runs on.",
    )


def _no_location(_message: str, transfer: Transfer) -> RegistryError:
    return RemoteRegistryError(
        f"The registry {transfer.name.host} does not say where the blobs of {transfer.name} are: Ollama"
        " downloads only from an address in a Location header",
        action="Use a registry made for Ollama; a plain Docker registry takes a push and serves no pull.",
    )


def _other_login(_message: str, transfer: Transfer) -> RegistryError:
    return SignInError(
        f"The registry {transfer.name.host} wants a kind of sign-in that Ollama does not have"
        f" ({transfer.doing})",
        action="Ollama signs in with its own key at a token address of the same host, and with nothing else:"
        " a user name and a password need a proxy in front of the registry.",
    )


def _no_key(_message: str, transfer: Transfer) -> RegistryError:
    return SignInError(
        f"The Ollama server at {transfer.host} has no key to sign in with ({transfer.doing})",
        action="Run `ollama signin` there, or start the server once as a user that can write ~/.ollama.",
    )


def _unknown_key(message: str, transfer: Transfer) -> RegistryError:
    return SignInError(
        f"The registry {transfer.name.host} does not know the key of the Ollama server at {transfer.host}"
        f" ({transfer.doing}: {_end(message)})",
        action=_sign_in(transfer),
    )


def _not_yours(_message: str, transfer: Transfer) -> RegistryError:
    verb = "push to" if transfer.direction == "push" else "pull from"
    return SignInError(
        f"The Ollama server at {transfer.host} may not {verb} the namespace"
        f' "{transfer.name.namespace}" of {transfer.name.host} ({transfer.doing})',
        action=f"Name a namespace of your own (--to NAMESPACE/MODEL). If it is yours: {_sign_in(transfer)}"
        if transfer.direction == "push"
        else f"Ask its owner for access; then: {_sign_in(transfer)}",
    )


def _other_bytes(_message: str, transfer: Transfer) -> RegistryError:
    return RemoteRegistryError(
        f"The registry {transfer.name.host} sent other bytes than their digest says, and the Ollama server"
        f" refused {transfer.name}",
        action="Pull again; if it stays so, the model in the registry is damaged and has to be pushed again.",
    )


def _not_there(message: str, transfer: Transfer) -> RegistryError:
    registry, name = transfer.name.host, transfer.name
    if message.startswith(_MANIFEST):
        return ModelNotFoundError(
            f"The registry {registry} has no model {name}, or none that the Ollama server may see",
            action="Check namespace, name and tag.",
        )
    if transfer.direction == "pull":
        return RemoteRegistryError(
            f"The registry {registry} lists {name} and lacks a blob of it",
            action="The model has to be pushed again, by whoever has it.",
        )
    return RemoteRegistryError(
        f"The registry {registry} takes no push to {name}: it knows no such address",
        action="Check host, namespace and model; a namespace may have to be made there first.",
    )


def _registry_full(message: str, transfer: Transfer) -> RegistryError:
    if transfer.direction == "pull":
        return refusal(message, host=transfer.host, doing=transfer.doing)
    return RemoteRegistryError(
        f"The disk of the registry {transfer.name.host} is full ({transfer.doing}: {_end(message)})",
        action="Free space there, then run the same again: it goes on with what is missing.",
    )


def _unreachable(message: str, transfer: Transfer) -> RegistryError:
    return RemoteRegistryError(
        f"The Ollama server at {transfer.host} cannot reach the registry {transfer.name.host}"
        f" ({transfer.doing}: {_end(message)})",
        action="Check the registry's address, and the network of the machine that the Ollama server runs on.",
    )


def _broken(message: str, transfer: Transfer) -> RegistryError:
    return TransferBrokenError(
        f"The transfer with the registry {transfer.name.host} broke off ({transfer.doing}: {_end(message)})",
        action=_AGAIN,
    )


def _sign_in(transfer: Transfer) -> str:
    where = (
        "run `ollama signin` on the server's machine, or add it at https://ollama.com/settings/keys."
        if transfer.name.host.lower() == DEFAULT_HOST
        else "add it to the keys of that registry."
    )
    return f"The server's public key is {_KEY_FILE}: {where}"


def _end(message: str) -> str:
    """The end of a long message: Go puts the cause last."""
    text = " ".join(message.split())
    return text if len(text) <= 300 else f"…{text[-300:]}"


# a status that the server quotes: "500: body", or "http status 500 Internal Server Error: body"
def _status(codes: str) -> str:
    return rf"(?:^|: |http status )(?:{codes})(?:[: ]|$)"


_BROKEN = re.compile(
    rf"{_status('5[0-9][0-9]|408|429')}|EOF\b|connection reset|broken pipe|max retries exceeded"
    r"|deadline exceeded|timeout|stream error|server closed",
    re.IGNORECASE,
)

# the first that fits; a status inside of a retried error comes after its cause
_RULES: tuple[tuple[re.Pattern[str], Callable[[str, Transfer], RegistryError]], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE) if isinstance(pattern, str) else pattern, make)
    for pattern, make in (
        (r"HTTP response to HTTPS client|insecure protocol http|not look like a TLS handshake", _plain_http),
        (r"HTTP request (?:was sent )?to (?:an )?HTTPS", _https_only),
        (r"x509|tls: |certificate", _certificate),
        (r"no Location header", _no_location),
        (r"realm host", _other_login),
        (r"id_ed25519|no key found", _no_key),
        (_status("401"), _unknown_key),
        (rf"access denied|{_status('403')}", _not_yours),
        (r"digest mismatch", _other_bytes),
        (rf"file does not exist|{_status('404')}", _not_there),
        ("|".join(map(re.escape, DISK_FULL)), _registry_full),
        (r"dial tcp|no such host|connection refused|no route to host|unreachable|proxyconnect", _unreachable),
        (_BROKEN, _broken),
    )
)
