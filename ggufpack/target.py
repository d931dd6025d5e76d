"""Names of everything that a build makes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggufpack.errors import UsageError
from ggufpack.layering import refuse_options, types_of
from ggufpack.proofs import VERIFY_LEVELS
from ggufpack.registry.names import latest, suggested, tagged, validate
from ggufpack.spec import BuildSpec, GgufFile, Package

DEFAULT_OUTPUT = Path("ggufpack-out")


@dataclass(frozen=True)
class Target:
    """Names of everything that a build makes. ``name`` may have a namespace (``team/model``)."""

    name: str
    folder: Path
    quantizations: tuple[str, ...]

    def file_name(self, quantization: str) -> str:
        """Of the GGUF."""
        return f"{self.folder.name}-{quantization}.gguf"

    def files(self, folder: Path | None = None) -> dict[str, Path]:
        """The GGUF of each type, in the package folder or in another one."""
        return {name: (folder or self.folder) / self.file_name(name) for name in self.quantizations}

    def modelfile_name(self, quantization: str) -> str:
        """Of the Modelfile."""
        return "Modelfile" if len(self.quantizations) == 1 else f"Modelfile.{quantization}"

    def names(self, quantization: str) -> tuple[str, ...]:
        """In Ollama: ``NAME:type``, and ``NAME:latest`` for the first type."""
        first = quantization == self.quantizations[0]
        return (tagged(self.name, quantization), *([latest(self.name)] if first else []))

    def all_names(self) -> tuple[str, ...]:
        """Those of all files."""
        return tuple(name for quantization in self.quantizations for name in self.names(quantization))

    def projector(self, folder: Path) -> Path:
        """The vision tower's file, before its type is in the name (``convert.process.typed_name``)."""
        return folder / f"{self.folder.name}-mmproj.gguf"

    def package(self, files: Sequence[GgufFile], projector: GgufFile | None) -> Package:
        """Under the final paths."""
        return Package(
            name=self.name,
            folder=self.folder,
            files=tuple(replace(file, path=self.folder / file.path.name) for file in files),
            modelfiles={name: self.folder / self.modelfile_name(name) for name in self.quantizations},
            projector=projector and replace(projector, path=self.folder / projector.path.name),
        )


def target_of(spec: BuildSpec) -> Target:
    """Where a spec's package goes, and under which names.

    Raises:
        UsageError: a level or a name that cannot be.
    """
    if spec.verify not in VERIFY_LEVELS:
        raise UsageError(
            f"verify: {spec.verify!r} is no level.", action=f"Use one of {', '.join(VERIFY_LEVELS)}."
        )
    name = spec.name or suggested(spec.checkpoint.resolve().name)
    validate(name)
    folder = (spec.output or DEFAULT_OUTPUT) / name.rsplit("/", 1)[-1]
    target = Target(name, folder, types_of(spec))
    names = target.all_names()  # a name with a tag of its own is refused here, before any work
    if spec.from_model is not None:
        refuse_options(spec, names)
    return target
