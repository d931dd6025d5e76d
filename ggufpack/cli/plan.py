"""``ggufpack plan``: what a build would do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from ggufpack.cli.common import ReportingCommand, json_option, quiet_option
from ggufpack.cli.options import build_options, make_spec
from ggufpack.cli.terminal import echo

if TYPE_CHECKING:
    from ggufpack.spec import BuildPlan


@click.command(cls=ReportingCommand)
@build_options
@json_option
@quiet_option
def plan(as_json: bool, quiet: bool, **values: Any) -> None:
    """Say what `build` would write: types, sizes, disk, memory, findings. Writes nothing."""
    from ggufpack.cli.progress import progress_view
    from ggufpack.pipeline import plan as make_plan

    spec = make_spec(**values)
    with progress_view(quiet=quiet) as view:
        found = make_plan(spec, view)
    if as_json:
        echo(json.dumps(found.to_json()))
    else:
        _print(found)


def _print(found: BuildPlan) -> None:
    echo(f"{found.checkpoint}: {found.architecture}, {found.parameters / 1e6:.1f} M parameters")
    echo(f"{found.folder} would hold")
    for file in (*found.files, *([] if found.projector is None else [found.projector])):
        types = ", ".join(f"{count} {name}" for name, count in file.tensor_types.items())
        echo(f"  {file.name}  {file.size / 1e6:.1f} MB  ({types})")
    echo(f"  Modelfile ({found.template_strategy}), ggufpack.json")
    names = ", ".join(found.names)
    echo(f"Ollama: {f'{found.host}: {names}' if found.host else 'no server, nothing to register'}")
    echo(f"disk: {found.disk_needed / 1e6:.1f} MB of {found.disk_free / 1e9:.1f} GB free")
    echo(f"memory: about {found.memory_needed / 1e9:.1f} GB")
