"""``ggufpack doctor``: findings on a checkpoint, a GGUF, a Modelfile, a package or a model."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ggufpack.cli.common import ReportingCommand, json_option
from ggufpack.cli.options import ADAPTER_OPTIONS, with_options
from ggufpack.cli.terminal import echo
from ggufpack.report.words import counted
from ggufpack.spec import Event, FindingRaised, Note

if TYPE_CHECKING:
    from ggufpack.doctor import Examination, NotChecked
    from ggufpack.spec import Finding

_KINDS = {
    "checkpoint": "checkpoint",
    "gguf": "GGUF file",
    "modelfile": "Modelfile",
    "package": "package",
    "model": "model",
}
_COLOURS = {"error": "red", "warning": "yellow", "unchecked": "magenta", "info": "cyan"}
_HEADS = {"error": "errors", "warning": "warnings", "info": "remarks", "unchecked": "not checked"}


@click.command(cls=ReportingCommand)
@click.argument("target", metavar="PATH|MODEL")
@with_options(ADAPTER_OPTIONS)
@click.option("--host", metavar="URL", help="Ollama server.  [default for a MODEL: OLLAMA_HOST]")
@click.option(
    "--deep",
    is_flag=True,
    help="Read all weights too (NaN, infinity, digests), and dry-run the converter on a checkpoint.",
)
@json_option
def doctor(
    target: str, base: Path | None, adapters: tuple[str, ...], host: str | None, deep: bool, as_json: bool
) -> None:
    """Say all that is wrong with a checkpoint, a GGUF, a Modelfile, a package or a registered MODEL.

    Exit 0 when no finding is an error; else 3 (checkpoint, GGUF), 5 (chat template, Modelfile) or 6 (server).
    """
    from ggufpack.checkpoint.adapter_sources import parse_adapter
    from ggufpack.cli.progress import progress_view
    from ggufpack.doctor import examine

    with progress_view(quiet=not deep) as view:

        def show(event: Event) -> None:
            # the findings are the result: they come on stdout, sorted
            if not isinstance(event, (FindingRaised, Note)):
                view(event)

        found = examine(
            target,
            base=base,
            adapters=tuple(map(parse_adapter, adapters)),
            host=host,
            deep=deep,
            on_event=show,
        )
    if as_json:
        echo(json.dumps(found.to_json()))
    else:
        _print(found)
    if found.exit_code:
        raise click.exceptions.Exit(found.exit_code)


def _print(found: Examination) -> None:
    echo(_verdict(found))
    for severity, head in _HEADS.items():
        listed = [finding for finding in found.findings if finding.severity.value == severity]
        skipped = found.not_checked if severity == "unchecked" else ()
        if listed or skipped:
            echo(f"\n{head}:")
        for finding in listed:
            _print_finding(finding)
        for why, checks in _by_reason(skipped).items():
            echo(f"  {', '.join(checks)}: {why}")
    _print_confinement(found)


def _print_confinement(found: Examination) -> None:
    """What holds the processes that read strangers' files: here, and when the package was built."""
    from ggufpack.confinement import Confined

    for fact, words in (
        ("confinement_here", "Processes that read a checkpoint on this system are held by"),
        ("confinement_recorded", "The process that read the checkpoint of this package was held by"),
    ):
        if fact in found.facts:
            echo(f"\n{words}: {Confined.from_json(found.facts[fact]).summary}.")


def _verdict(found: Examination) -> str:
    counts = [finding.severity.value for finding in found.findings]
    errors, warnings = counts.count("error"), counts.count("warning")
    said = {
        "fine": "fine as far as it was checked",
        "warnings": counted(warnings, "warning"),
        "errors": ", ".join(
            [counted(errors, "error"), *([counted(warnings, "warning")] if warnings else [])]
        ),
    }[found.status]
    open_ones = len(found.not_checked) + counts.count("unchecked")
    left = f", {open_ones} not" if open_ones else ""
    ran = counted(len(found.checked), "check")
    return f"{found.target} ({_KINDS[found.kind]}): {said}; {ran} done{left}"


def _by_reason(skipped: Iterable[NotChecked]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in skipped:
        found.setdefault(one.why, []).append(one.check)
    return found


def _print_finding(finding: Finding) -> None:
    place = finding.path
    where = f"{place}: " if place is not None and place.name not in finding.message else ""
    key = f" [{finding.key}]" if finding.key and finding.key not in finding.message else ""
    identifier = click.style(finding.id, fg=_COLOURS[finding.severity.value])
    echo(f"{where}{finding.message}{key}", lead=f"  {identifier} ")
    if finding.action:
        echo(f"        {finding.action}")
