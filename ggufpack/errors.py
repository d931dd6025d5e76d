"""Everything that ggufpack raises on purpose.

GgufpackError                         exit 1
├── UsageError                        exit 2   an option or an argument
│   ├── InvalidModelNameError
│   ├── ManifestError                          a batch's manifest: file, line and key
│   └── JournalError                           a batch's journal is damaged, or of a newer version
├── CheckpointError                   exit 3   the folder that was given
│   ├── CheckpointLayoutError                  not one checkpoint: none, several, an adapter, pickle only
│   ├── CheckpointFileError                    a JSON or tokenizer file cannot be read
│   ├── TensorFileError                        a safetensors file or its index is damaged
│   └── AdapterError                           an adapter that cannot be merged, or not into this base
├── ConversionError                   exit 4   converter, quantisation, writing the GGUF
│   ├── VendorError                            the vendored converter is missing, changed or cannot be fetched
│   ├── UnsupportedArchitectureError
│   ├── UnsupportedWeightsError                bitsandbytes and other formats that must be merged first
│   ├── TokenizerConversionError               unknown pre-tokenizer, vocabulary larger than the config
│   ├── TensorValueError                       NaN, infinity, or a value that F16 cannot hold
│   ├── ImportanceMatrixError                  an imatrix that is damaged, or another model's
│   ├── DiskSpaceError
│   └── WorkerError                            the worker process died
├── PromptError                       exit 5   chat template or Modelfile
│   ├── ChatTemplateError
│   └── ModelfileError
├── RegistryError                     exit 6   the Ollama server, or its store
│   ├── ServerUnreachableError
│   ├── ServerVersionError
│   ├── ModelExistsError
│   ├── ServerDiskFullError
│   ├── ServerResponseError
│   │   ├── EndpointRefusedError               an OpenAI endpoint does not do what a field asks for
│   │   └── ExchangeBrokenError                no answer came, or half of one: nothing was said
│   ├── ModelNotFoundError                     neither the server nor the registry behind it has the model
│   ├── RemoteRegistryError                    the registry that the server pushes to or pulls from
│   │   ├── RemoteManifestError                what it serves for a model is damaged, or made to do harm
│   │   ├── SignInError                        it does not know the server's key, or the key may not do this
│   │   └── TransferBrokenError                cut, or a passing fault: running it again goes on
│   ├── HubError                               the Hugging Face Hub
│   ├── TrackerError                           SwanLab, Weights & Biases
│   └── StoreError                             an offline store, damaged or on a disk that refuses
│       └── ArchiveError                       the archive of one is damaged, or cut short
│           └── RefusedArchiveError            it holds what an archive of a store cannot hold
└── VerificationError                 exit 7   the package exists and is not what was trained

KeyboardInterrupt is exit 130. The exit code is an attribute of the class; nothing else maps it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from ggufpack.spec import BuildResult

INTERRUPTED_EXIT_CODE = 130


class GgufpackError(Exception):
    """Base of all errors that ggufpack raises on purpose.

    Args:
        problem: one sentence: which file, which key, what is wrong. No full stop is added.
        action: what the user should do, as an imperative sentence.
        path: the file or folder the problem is in.
        key: the key inside that file (a JSON key, a tensor name, a Modelfile instruction).
        finding: id of the matching finding (``GP101``), when there is one.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        problem: str,
        *,
        action: str | None = None,
        path: Path | None = None,
        key: str | None = None,
        finding: str | None = None,
    ) -> None:
        self.problem = problem
        self.action = action
        self.path = path
        self.key = key
        self.finding = finding
        #: the end of another program's log, for errors that came from one
        self.log: str | None = None
        super().__init__(problem if action is None else f"{problem} {action}")

    def to_json(self) -> dict[str, object]:
        """The error as the ``error`` object of ``--json`` output."""
        return {
            "type": type(self).__name__,
            "exit_code": self.exit_code,
            "problem": self.problem,
            "action": self.action,
            "path": None if self.path is None else str(self.path),
            "key": self.key,
            "finding": self.finding,
            "log": self.log,
        }


class UsageError(GgufpackError):
    """An option or argument that cannot be meant."""

    exit_code = 2


class InvalidModelNameError(UsageError):
    """A name that Ollama would refuse."""


class ManifestError(UsageError):
    """A batch's manifest cannot be meant; the sentence begins with FILE:LINE."""


class JournalError(UsageError):
    """A batch's journal cannot be used."""


class CheckpointError(GgufpackError):
    """The checkpoint folder cannot be packaged."""

    exit_code = 3


class CheckpointLayoutError(CheckpointError):
    """The folder is not one complete safetensors checkpoint."""


class CheckpointFileError(CheckpointError):
    """A configuration or tokenizer file cannot be read or contradicts itself."""


class TensorFileError(CheckpointError):
    """A safetensors file, or the index over several, is damaged or incomplete."""


class AdapterError(CheckpointError):
    """An adapter cannot be merged exactly, or does not fit its base model."""


class ConversionError(GgufpackError):
    """Conversion to GGUF failed."""

    exit_code = 4


class VendorError(ConversionError):
    """The vendored converter is missing, not the locked one, or cannot be fetched."""


class UnsupportedArchitectureError(ConversionError):
    """llama.cpp has no converter for this architecture."""


class UnsupportedWeightsError(ConversionError):
    """The weights are stored in a form that must be merged or dequantised first."""


class TokenizerConversionError(ConversionError):
    """llama.cpp's converter does not know this tokenizer."""


class TensorValueError(ConversionError):
    """A tensor holds NaN, infinity, or a value outside the range of the chosen type."""


class ImportanceMatrixError(ConversionError):
    """An importance matrix is damaged, or was made for another model."""


class DiskSpaceError(ConversionError):
    """Not enough room for the files that would be written."""


class WorkerError(ConversionError):
    """The conversion worker died or broke its protocol."""


class PromptError(GgufpackError):
    """The prompt cannot be reproduced."""

    exit_code = 5


class ChatTemplateError(PromptError):
    """The chat template is missing, broken, or cannot be carried over to Ollama."""


class ModelfileError(PromptError):
    """Text that is not a Modelfile, or data that a Modelfile cannot express."""


class RegistryError(GgufpackError):
    """The Ollama server refused or failed."""

    exit_code = 6


class ServerUnreachableError(RegistryError):
    """No Ollama server answers at this address."""


class ServerVersionError(RegistryError):
    """The server's version cannot run this package as trained."""


class ModelExistsError(RegistryError):
    """The server has a model of this name already."""


class ServerDiskFullError(RegistryError):
    """The server has no room for the model."""


class ServerResponseError(RegistryError):
    """The server answered with an error or with something unexpected."""


class EndpointRefusedError(ServerResponseError):
    """The server understood a request and does not do what it asks for."""


class ExchangeBrokenError(ServerResponseError):
    """The server gave no whole answer, so it said nothing about what was asked."""


class ModelNotFoundError(RegistryError):
    """There is no model of this name where it was looked for."""


class RemoteRegistryError(RegistryError):
    """The registry that the Ollama server pushes to or pulls from refused or failed."""


class RemoteManifestError(RemoteRegistryError):
    """The manifest that a registry serves for a model is wrong, so that no server should pull it."""


class SignInError(RemoteRegistryError):
    """The registry does not know the server's key, or does not let it do this."""


class TransferBrokenError(RemoteRegistryError):
    """A push or a pull broke off; what has arrived stays, and running it again goes on."""


class HubError(RegistryError):
    """The Hugging Face Hub refused or failed, or there is no token for it."""


class TrackerError(RegistryError):
    """An experiment tracker refused or failed."""


class StoreError(RegistryError):
    """An offline store cannot be read or written, or is not what it should be."""


class ArchiveError(StoreError):
    """The archive of a store cannot be imported wholly; a whole copy of it goes on from there."""


class RefusedArchiveError(ArchiveError):
    """A file that is no archive of a store, or one that was made to do harm: nothing of it stays."""


class VerificationError(GgufpackError):
    """The package was made, but it does not behave as trained.

    ``result`` is the ``BuildResult`` when a build raised it.
    """

    exit_code = 7
    result: BuildResult | None = None
