"""``ggufpack``: the group of all commands."""

from __future__ import annotations

import click

from ggufpack import __version__
from ggufpack.cli.batch import batch
from ggufpack.cli.build import build
from ggufpack.cli.cache import cache
from ggufpack.cli.clients import clients
from ggufpack.cli.common import ReportingGroup
from ggufpack.cli.demo import demo
from ggufpack.cli.doctor import doctor
from ggufpack.cli.plan import plan
from ggufpack.cli.publish import publish
from ggufpack.cli.pull import pull
from ggufpack.cli.push import push
from ggufpack.cli.report import report
from ggufpack.cli.sbom import sbom
from ggufpack.cli.store import store
from ggufpack.cli.template import template
from ggufpack.cli.track import track
from ggufpack.cli.vendor import vendor
from ggufpack.cli.verify import verify


@click.group(
    cls=ReportingGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 unexpected, 2 usage, 3 checkpoint, 4 conversion, 5 chat template or"
    " Modelfile, 6 server or store, 7 verification failed, 130 interrupted.",
)
@click.version_option(__version__, prog_name="ggufpack")
def main() -> None:
    """Package a fine-tuned Hugging Face checkpoint for Ollama, exactly as trained, and prove it."""


for command in (
    *(build, batch, plan, template, verify, push, pull, publish, track),
    *(report, sbom, doctor, clients, demo, store, cache, vendor),
):
    main.add_command(command)
