"""What the stages hand to each other: frozen dataclasses, no behaviour that reads or writes files.

Import-light on purpose: ``import ggufpack`` loads this module, and nothing here imports numpy,
torch, transformers or the ollama client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ggufpack.proofs import Verification, VerifyLevel

DEFAULT_QUANTIZATION = "Q4_K_M"


# --- findings ---------------------------------------------------------------


class Severity(str, Enum):
    """How much a finding matters. ``UNCHECKED`` is its own state: it never means "fine"."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"
    UNCHECKED = "unchecked"


@dataclass(frozen=True)
class Finding:
    """Something that could make the packaged model differ from the trained one.

    Ids are stable: GP1xx checkpoint, GP2xx tensors, GP3xx tokenizer, GP4xx chat template,
    GP5xx Modelfile and server, GP6xx verification.
    """

    id: str
    severity: Severity
    message: str
    path: Path | None = None
    key: str | None = None
    action: str | None = None

    def to_json(self) -> dict[str, object]:
        """The finding as it stands in the record and in ``--json`` output."""
        return {
            "id": self.id,
            "severity": self.severity.value,
            "message": self.message,
            "path": None if self.path is None else str(self.path),
            "key": self.key,
            "action": self.action,
        }


# --- events -----------------------------------------------------------------


class Stage(str, Enum):
    """The stages of a build, in order."""

    CHECKPOINT = "checkpoint"
    VENDOR = "vendor"
    TEMPLATE = "template"
    CONVERSION = "conversion"
    MODELFILE = "modelfile"
    REGISTRY = "registry"
    VERIFICATION = "verification"
    REPORT = "report"


@dataclass(frozen=True)
class StageStarted:
    """A stage begins; ``title`` is a short phrase for people."""

    stage: Stage
    title: str


@dataclass(frozen=True)
class StageFinished:
    """A stage ended well after ``seconds`` of wall time."""

    stage: Stage
    seconds: float


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` units; ``total`` is ``None`` while it is unknown."""

    stage: Stage
    done: int
    total: int | None
    unit: str
    item: str = ""


@dataclass(frozen=True)
class Note:
    """A sentence for the person who watches."""

    message: str


@dataclass(frozen=True)
class FindingRaised:
    """A finding, as soon as it is known."""

    finding: Finding


Event: TypeAlias = StageStarted | StageFinished | Progress | Note | FindingRaised
EventHandler: TypeAlias = Callable[[Event], None]


def ignore_event(_event: Event) -> None:
    """The handler of those who do not watch."""


# --- the request ------------------------------------------------------------


@dataclass(frozen=True)
class AdapterSpec:
    """A PEFT adapter folder, and the weight that its change of the base model gets."""

    folder: Path
    weight: float = 1.0


@dataclass(frozen=True)
class BuildSpec:
    """Everything that a build depends on. The CLI and the library make the same one.

    Attributes:
        checkpoint: the folder that the user named.
        name: Ollama model name without a tag; ``None`` takes the folder's name.
        quantizations: canonical file types (``"Q4_K_M"``), the first is ``NAME:latest``.
        output: folder that gets the package folder; ``None`` is ``ggufpack-out``.
        template: ``"auto"``, ``"native"``, the name of a template in ``templates/chat``, or a
            path to a Jinja file.
        system: SYSTEM text for the Modelfile.
        parameters: Modelfile parameters that replace derived ones.
        host: Ollama server; ``None`` follows ``OLLAMA_HOST`` as the client does.
        register: whether to register the model.
        require_server: fail when no server answers, even if none was named.
        store: an offline store that gets the model too: a folder as OLLAMA_MODELS names one.
        allow: finding ids (``"GP209"``) that would stop the build and are accepted.
        threads: quantisation threads; ``None`` is the number of usable CPUs.
        imatrix: importance matrix file for the quantiser.
        calibration: file or folder of texts that fidelity is measured on; ``None`` for built-in ones.
        device: where the trained model runs for fidelity.
        base: base model of the adapters, where ``checkpoint`` is itself the first adapter.
        adapters: merged into ``checkpoint`` (or ``base``) while it is converted, in this order.
        from_model: a model on the server that the adapter is registered on as a layer of its own; ``None``
            merges it.
        reuse: take encoded tensors from the cache, and put them there.
        cache: folder of the tensor cache; ``None`` is the user's.
        vision: whether the vision tower of a checkpoint that has one is packaged.
        token: in the record, and in the build's temporary names on disk and on the server: by it a batch
            knows its packages, and what a killed build of its own left. ``None``: random names.
        aliases: folders of this machine, and what the record calls them: the URLs they were fetched from.
    """

    checkpoint: Path
    name: str | None = None
    quantizations: tuple[str, ...] = (DEFAULT_QUANTIZATION,)
    output: Path | None = None
    template: str = "auto"
    system: str | None = None
    parameters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    host: str | None = None
    register: bool = True
    require_server: bool = False
    store: Path | None = None
    verify: VerifyLevel = "smoke"
    overwrite: bool = False
    trust_remote_code: bool = False
    allow: frozenset[str] = frozenset()
    threads: int | None = None
    imatrix: Path | None = None
    calibration: Path | None = None
    device: str = "auto"
    base: Path | None = None
    adapters: tuple[AdapterSpec, ...] = ()
    from_model: str | None = None
    reuse: bool = False
    cache: Path | None = None
    vision: bool = True
    token: str | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)


# --- what comes out ---------------------------------------------------------


@dataclass(frozen=True)
class GgufFile:
    """One written GGUF. ``tensor_types`` counts tensors by their type (``{"Q4_K": 120, …}``)."""

    quantization: str
    path: Path
    size: int
    sha256: str
    tensor_types: Mapping[str, int]


@dataclass(frozen=True)
class Reused:
    """What a conversion took from the tensor cache.

    Attributes:
        tensors: all of whose blocks came from the cache.
        of: quantised tensors that the cache is asked for.
        bytes: taken from the cache.
        stored: bytes put there.
        damaged: blocks that were removed from it, and encoded again.
    """

    tensors: int
    of: int
    bytes: int
    stored: int
    damaged: int


@dataclass(frozen=True)
class Package:
    """The package folder ``DIR/NAME/``. ``modelfiles`` has the keys of ``files``' quantizations.

    ``projector`` is the vision tower, one for all ``files``; ``None`` for a model without images.
    """

    name: str
    folder: Path
    files: tuple[GgufFile, ...]
    modelfiles: Mapping[str, Path]
    projector: GgufFile | None = None


@dataclass(frozen=True)
class PlannedFile:
    """A GGUF that a build would write. ``tensor_types`` counts tensors by their type."""

    quantization: str
    name: str
    size: int
    tensor_types: Mapping[str, int]


@dataclass(frozen=True)
class BuildPlan:
    """What a build would do; nothing was written.

    Attributes:
        folder: the package folder.
        names: names in Ollama.
        host: the server that answers there, with its version; ``None`` when none does.
        template_strategy: how the chat template gets into Ollama.
        modelfile: its text, FROM the first file.
        disk_needed, disk_free: bytes in the output folder.
        memory_needed: bytes of the conversion worker, estimated.
        findings: those of severity error would stop the build.
        projector: the vision tower; ``None`` for a model without images.
    """

    folder: Path
    checkpoint: Path
    architecture: str
    parameters: int
    files: tuple[PlannedFile, ...]
    names: tuple[str, ...]
    host: str | None
    template_strategy: str
    modelfile: str
    disk_needed: int
    disk_free: int
    memory_needed: int
    findings: tuple[Finding, ...]
    projector: PlannedFile | None = None

    def to_json(self) -> dict[str, Any]:
        """The object that ``ggufpack plan --json`` prints."""
        return {
            "folder": str(self.folder),
            "checkpoint": str(self.checkpoint),
            "architecture": self.architecture,
            "parameters": self.parameters,
            "files": [asdict(file) for file in self.files],
            "projector": None if self.projector is None else asdict(self.projector),
            "names": list(self.names),
            "host": self.host,
            "template": self.template_strategy,
            "modelfile": self.modelfile,
            "disk_needed": self.disk_needed,
            "disk_free": self.disk_free,
            "memory_needed": self.memory_needed,
            "findings": [finding.to_json() for finding in self.findings],
        }


BuildStatus = Literal["verified", "unverified", "failed"]


@dataclass(frozen=True)
class BuildResult:
    """What a build made.

    ``status`` is ``"verified"`` when every check ran and passed, ``"unverified"`` when none was
    asked for, ``"failed"`` when a check failed (the package exists and its record says so).
    ``reused`` is ``None`` where the tensor cache was not asked for. ``stored`` are the names in the
    offline store. ``confinement``: what held the process that read the checkpoint
    (``confinement.Confined``).
    """

    package: Package
    status: BuildStatus
    registered: tuple[str, ...]
    engine: str | None
    template_strategy: str
    verifications: tuple[Verification, ...]
    findings: tuple[Finding, ...]
    seconds: Mapping[Stage, float]
    peak_worker_rss: int | None
    record: Path
    reused: Reused | None = None
    stored: tuple[str, ...] = ()
    confinement: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The object that ``ggufpack build --json`` prints."""
        return {
            "status": self.status,
            "name": self.package.name,
            "folder": str(self.package.folder),
            "files": [_file_json(file) for file in self.package.files],
            "projector": None if self.package.projector is None else _file_json(self.package.projector),
            "modelfiles": {key: str(path) for key, path in self.package.modelfiles.items()},
            "registered": list(self.registered),
            "stored": list(self.stored),
            "engine": self.engine,
            "template": self.template_strategy,
            "verifications": [{**asdict(item), "passed": item.passed} for item in self.verifications],
            "findings": [finding.to_json() for finding in self.findings],
            "seconds": {stage.value: round(value, 3) for stage, value in self.seconds.items()},
            "peak_worker_rss": self.peak_worker_rss,
            "reused": None if self.reused is None else asdict(self.reused),
            "confinement": self.confinement,
            "record": str(self.record),
        }


def _file_json(file: GgufFile) -> dict[str, Any]:
    return {**asdict(file), "path": str(file.path), "tensor_types": dict(file.tensor_types)}
