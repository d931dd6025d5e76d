"""From what the user named to the items of a batch: folders looked through, names made, clashes refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggufpack.batch.discover import Found, LeftOut, discover
from ggufpack.batch.items import Item
from ggufpack.batch.manifest import SUFFIXES, Wanted, expand, read_manifest
from ggufpack.batch.names import make_name
from ggufpack.batch.urls import absolute, check_url, shown, url_of
from ggufpack.checkpoint.layout import CONFIG
from ggufpack.errors import GgufpackError, ManifestError, UsageError
from ggufpack.layering import types_of
from ggufpack.registry.names import parse, suggested
from ggufpack.spec import BuildSpec
from ggufpack.target import DEFAULT_OUTPUT, target_of

RUN_PATTERN = "{run}-{step}"


@dataclass(frozen=True)
class Planned:
    """An item, with what it was made of.

    Attributes:
        item: its key is the name of the package; its paths are absolute.
        run, step: of a training output; ``None`` where it is no part of one.
        place: where the user named it.
    """

    item: Item
    run: str
    step: int | None
    place: str

    @property
    def folder(self) -> Path:
        """The package folder."""
        return target_of(self.item.spec).folder


@dataclass(frozen=True)
class BatchPlan:
    """The items, and the folders that were left out with the reason."""

    items: tuple[Planned, ...]
    left_out: tuple[LeftOut, ...]


def plan_batch(arguments: Sequence[str], defaults: BuildSpec, *, may_be_empty: bool = False) -> BatchPlan:
    """Everything that the arguments name.

    Args:
        arguments: manifests, folders and globs.
        defaults: options for all; ``checkpoint`` does not count, ``name`` is a pattern.
        may_be_empty: a folder without a checkpoint is no error: one may come.

    Raises:
        UsageError: an argument that names nothing; two items with one name or folder.
        ManifestError: as ``read_manifest``.
    """
    planned: list[Planned] = []
    left_out: list[LeftOut] = []
    _check_urls(defaults)
    for wanted in _wanted(arguments):
        found, incomplete = _look(wanted, may_be_empty=may_be_empty)
        left_out += incomplete
        for one in found:
            spec = replace(defaults, checkpoint=one.folder, **wanted.values)
            if one.adapter and _base(spec, one) is None:
                left_out.append(LeftOut(one.folder, _without_base(one)))
            else:
                planned.append(_plan(wanted, one, spec))
    unique = _once(planned)
    refuse_clashes(unique)
    return BatchPlan(tuple(unique), tuple(left_out))


def refuse_clashes(planned: Sequence[Planned]) -> None:
    """Raises UsageError when two items write one package folder, or one name on one server."""
    seen: dict[str, Planned] = {}
    for one in planned:
        spec, target = one.item.spec, target_of(one.item.spec)
        claims = {f"package folder {shown(target.folder)}": str(target.folder)}
        if spec.register:
            host = spec.host or ""
            claims |= {f"Ollama name {name}": f"{host} {parse(name).key}" for name in target.all_names()}
        for words, claim in claims.items():
            other = seen.setdefault(claim, one)
            if other is not one:
                raise (ManifestError if ":" in one.place else UsageError)(
                    f"{one.place}: {shown(spec.checkpoint)} and {shown(other.item.spec.checkpoint)}"
                    f" ({other.place}) would have the same {words}.",
                    action="Give them a name of their own, or a pattern: name: '{run}-{step}'.",
                    key="name",
                )


# --- what was named -------------------------------------------------------------


def _wanted(arguments: Sequence[str]) -> list[Wanted]:
    wanted: list[Wanted] = []
    for argument in arguments:
        path = check_url(Path(argument))
        if path.suffix in SUFFIXES and not path.is_dir():
            wanted += read_manifest(path)
            continue
        folders = expand(path)
        if not folders:
            raise UsageError(
                f"{argument} does not exist.",
                action="Give a manifest (.yaml, .toml), a folder, or a glob that matches folders.",
                path=path,
            )
        wanted += [Wanted(folder, {}, argument) for folder in folders]
    return wanted


def _check_urls(spec: BuildSpec) -> None:
    for path in (spec.output, spec.base, *(one.folder for one in spec.adapters)):
        if path is not None:
            check_url(path)


def _look(wanted: Wanted, *, may_be_empty: bool) -> tuple[Sequence[Found], Sequence[LeftOut]]:
    if url_of(wanted.folder) is None and not wanted.folder.is_dir():
        raise UsageError(f"{wanted.place}: {wanted.folder} is not a folder.", path=wanted.folder)
    looked = discover(wanted.folder)
    if not looked.found and not looked.left_out and not may_be_empty:
        raise UsageError(
            f"{wanted.place}: there is no checkpoint in {shown(wanted.folder)}.",
            action="Give the folder of a checkpoint, or a training output with checkpoint-N folders.",
            path=wanted.folder,
        )
    return looked.found, looked.left_out


# --- one item -------------------------------------------------------------------


def _plan(wanted: Wanted, found: Found, spec: BuildSpec) -> Planned:
    try:
        name = _name(spec, found)
        made = replace(
            spec,
            name=name,
            checkpoint=found.folder,
            output=absolute(spec.output or DEFAULT_OUTPUT),
            imatrix=None if spec.imatrix is None else spec.imatrix.absolute(),
            calibration=None if spec.calibration is None else spec.calibration.absolute(),
            cache=None if spec.cache is None else spec.cache.absolute(),
            template=str(Path(spec.template).absolute()) if Path(spec.template).is_file() else spec.template,
            base=_base(spec, found),
            adapters=tuple(replace(one, folder=absolute(one.folder)) for one in spec.adapters),
        )
        target_of(made)
    except GgufpackError as error:
        raise type(error)(
            f"{wanted.place}: {error.problem}", action=error.action, path=error.path, key=error.key
        ) from error
    return Planned(Item(name, made), found.run, found.step, wanted.place)


def _name(spec: BuildSpec, found: Found) -> str:
    fields = dict(found.fields)
    fields["type"] = types_of(spec)[0].lower()
    if spec.adapters:
        fields["adapter"] = spec.adapters[0].folder.name
    if spec.name is not None:
        return make_name(spec.name, fields)
    return suggested(found.folder.name) if found.step is None else make_name(RUN_PATTERN, fields)


def _base(spec: BuildSpec, found: Found) -> Path | None:
    """The base model's folder: the one that was given, or the one here that the adapter names."""
    if spec.base is not None:
        return absolute(spec.base)
    if not found.adapter or found.base is None:
        return None
    return Path(found.base).absolute() if (Path(found.base) / CONFIG).is_file() else None


def _without_base(found: Found) -> str:
    which = f" ({found.base}, which is no folder here)" if found.base else ""
    return f"It is an adapter, and its base model is not known{which}: give --base or the key base."


def _once(planned: Sequence[Planned]) -> list[Planned]:
    """A checkpoint that was named twice in the same way counts once."""
    kept: dict[str, Planned] = {}
    for one in planned:
        kept.setdefault(repr(one.item.spec), one)
    return list(kept.values())
