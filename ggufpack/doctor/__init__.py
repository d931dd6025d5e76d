"""Examine a checkpoint, a GGUF, a Modelfile, a package or a registered model: all findings, not the first.

Nothing is changed, run or loaded into an engine. What was not looked at is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ggufpack.confinement import possible
from ggufpack.doctor.examination import Examination, Kind, Log, NotChecked, Status
from ggufpack.doctor.findings import FINDING_KINDS, make_finding
from ggufpack.errors import UsageError
from ggufpack.package_folder import RECORD_NAME
from ggufpack.spec import AdapterSpec, BuildSpec, EventHandler, ignore_event

__all__ = ["FINDING_KINDS", "Examination", "Kind", "NotChecked", "Status", "examine"]

_MAGIC = b"GGUF"
_MODELFILE_SUFFIXES = frozenset({"", ".modelfile", ".txt"})
# names that say what a file is not
_PARTS = frozenset({".safetensors", ".json", ".bin", ".jinja", ".model"})


def examine(
    target: str | Path,
    *,
    base: Path | None = None,
    adapters: Sequence[AdapterSpec] = (),
    host: str | None = None,
    deep: bool = False,
    on_event: EventHandler = ignore_event,
) -> Examination:
    """Everything that can be said about ``target``.

    Args:
        target: a checkpoint folder, a package folder, a GGUF file, a Modelfile, or, when there is no
            such path, the name of a model on an Ollama server.
        base, adapters: see ``build``; for a checkpoint or an adapter's folder only.
        host: the server: for a model ``None`` follows ``OLLAMA_HOST``; for the others it is asked for
            its version and for a model that FROM names only when it is given here.
        deep: read all weights, compute digests, and dry-run the converter.
        on_event: gets a ``Note`` for each check, progress, and the findings as they come.

    Raises:
        UsageError: there is no such path, and it cannot be a model's name; or ``base`` or ``adapters``
            for something that has none.
    """
    log = Log(deep=deep, on_event=on_event)
    path = Path(target)
    kind = _kind(path)
    if kind != "checkpoint" and (base is not None or adapters):
        raise UsageError(
            f"{target} is a {kind}, which is looked at as it is: no base model, no adapters.",
            action="Leave out --base and --adapter.",
        )
    if kind == "model":
        from ggufpack.doctor.server import check_model, check_name

        check_name(str(target))
        check_model(log, str(target), host)
    elif kind == "package":
        from ggufpack.doctor.package import check_package

        check_package(log, path)
    elif kind == "gguf":
        from ggufpack.doctor.gguf import check_gguf

        check_gguf(log, path)
    elif kind == "modelfile":
        _modelfile(log, path, host)
    else:
        _checkpoint(log, path, base, adapters, host)
    if kind in ("checkpoint", "package"):
        log.facts["confinement_here"] = possible().to_json()
    return log.finish(kind, str(target))


def _modelfile(log: Log, path: Path, host: str | None) -> None:
    from ggufpack.doctor.modelfile import check_modelfile

    if host is None:
        check_modelfile(log, path)
        return
    from ggufpack.doctor.server import model_exists

    check_modelfile(log, path, lambda name: model_exists(host, name))


def _checkpoint(
    log: Log, path: Path, base: Path | None, adapters: Sequence[AdapterSpec], host: str | None
) -> None:
    from ggufpack.doctor.adapted import check_adapted, is_adapted
    from ggufpack.doctor.checkpoint import check_checkpoint

    def version() -> tuple[int, int, int] | None:
        if host is None:
            return None
        from ggufpack.doctor.server import server_version

        return server_version(log, host)

    if path.is_file():
        from ggufpack.checkpoint.wording import some

        log.add(
            [
                make_finding(
                    "GP154",
                    f"{path} is one file of a checkpoint, or of something else.",
                    path=path,
                    action="Give the folder that it lies in, a GGUF file, or a Modelfile"
                    f" (named Modelfile, or {some(sorted(_MODELFILE_SUFFIXES - {''}))}).",
                )
            ]
        )
        log.skip("everything", "doctor looks at folders, GGUF files and Modelfiles")
        return
    if is_adapted(path, base, adapters):
        check_adapted(log, BuildSpec(path, base=base, adapters=tuple(adapters)), version)
    else:
        check_checkpoint(log, path, version)


def _kind(path: Path) -> Kind:
    """What ``path`` is, by what is there."""
    if path.is_dir():
        return "package" if (path / RECORD_NAME).is_file() else "checkpoint"
    if not path.exists():
        return "model"
    if path.suffix.lower() == ".gguf" or _begins_like_gguf(path):
        return "gguf"
    if path.name.startswith("Modelfile") or path.suffix.lower() in _MODELFILE_SUFFIXES:
        return "modelfile"
    return "checkpoint" if path.suffix.lower() in _PARTS else "modelfile"


def _begins_like_gguf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC
