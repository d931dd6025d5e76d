"""``ggufpack publish``: a package as a repository on the Hugging Face Hub."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from ggufpack.cli.common import ReportingCommand, json_option, quiet_option
from ggufpack.cli.terminal import echo


@click.command(cls=ReportingCommand)
@click.argument("folder", metavar="PACKAGE", type=click.Path(path_type=Path))
@click.option("--to", "target", required=True, metavar="hf:USER/REPO", help="The repository.")
@click.option("--public", is_flag=True, help="A new repository is public.  [default: private]")
@click.option("--dry-run", is_flag=True, help="Write the repository to --output; nothing is sent.")
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="DIR", help="Folder of --dry-run; a new one."
)
@click.option("--message", metavar="TEXT", help="Of the commit.")
@click.option("--license", "license_id", metavar="ID", help="For the card: the Hub's id of a licence.")
@click.option("--base-model", "base_models", multiple=True, metavar="USER/REPO", help="For the card.")
@click.option("--replace", is_flag=True, help="Delete GGUFs there that are not in PACKAGE.")
@click.option(
    "--allow", multiple=True, metavar="ID", help="GP163: it failed verification; GP164: it had none."
)
@json_option
@quiet_option
def publish(
    folder: Path,
    target: str,
    public: bool,
    dry_run: bool,
    output: Path | None,
    message: str | None,
    license_id: str | None,
    base_models: tuple[str, ...],
    replace: bool,
    allow: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Upload PACKAGE to the Hub: its GGUFs, a model card, and the prompt for `ollama run hf.co/USER/REPO`.

    PACKAGE is a package folder, as `ggufpack build` makes it. The token is the one of `hf auth login`, or
    HF_TOKEN. An upload that was interrupted goes on when the command is given again.
    """
    from ggufpack.cli.progress import line_view
    from ggufpack.errors import UsageError
    from ggufpack.publishing.card import run_commands
    from ggufpack.publishing.contents import make_contents, write_folder
    from ggufpack.publishing.hub import parse_target, upload
    from ggufpack.publishing.package import check_package

    repo = parse_target(target)
    if dry_run != (output is not None):
        raise UsageError("--dry-run and --output DIR belong together.", action="Give both, or neither.")
    view = line_view(quiet=quiet)
    package = check_package(folder, [word.upper() for word in allow], view)
    files = make_contents(package, repo, license_id=license_id, base_models=base_models)
    found: dict[str, object] = {
        "repo": repo,
        "files": [file.name for file in files],
        "template": any(file.name == "template" for file in files),
        "commands": run_commands(package.data, repo),
    }
    if output is not None:
        write_folder(files, output)
        place = str(output)
        found |= {"dry_run": True, "folder": place}
    else:
        if quiet or not sys.stderr.isatty():
            _disable_bars()
        name = package.record.result.name
        done = upload(repo, files, message or f"Upload {name}", public=public, replace=replace, on_event=view)
        place = done.url
        found |= {
            "dry_run": False,
            "url": done.url,
            "commit": done.commit,
            "private": done.private,
            "deleted": list(done.deleted),
        }
    if as_json:
        echo(json.dumps(found))
        return
    echo(place)
    for command in run_commands(package.data, repo):
        echo(f"  {command}")
    if not found["template"]:
        echo(
            "The repository has no template file: the Hub chooses one for `ollama run hf.co/…`, which was not"
            " checked. The card says how to run the package as checked.",
            err=True,
        )


def _disable_bars() -> None:
    """No bars of huggingface_hub's: nobody sees them move."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
