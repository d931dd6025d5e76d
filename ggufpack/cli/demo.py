"""``ggufpack demo``: a small real checkpoint, built."""

from __future__ import annotations

from pathlib import Path

import click

from ggufpack.cli.build import run_build
from ggufpack.cli.common import ReportingCommand, json_option, quiet_option


@click.command(cls=ReportingCommand)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default="ggufpack-demo")
@click.option("--host", metavar="URL", help="Ollama server.  [default: OLLAMA_HOST]")
@click.option("-q", "--quantization", default="Q4_K_M,Q8_0", show_default=True, metavar="TYPE[,TYPE…]")
@json_option
@quiet_option
def demo(folder: Path, host: str | None, quantization: str, as_json: bool, quiet: bool) -> None:
    """Make the demo's checkpoint (SmolLM2-135M-Instruct, bf16) in FOLDER, and build it as `smollm2-demo`."""
    from ggufpack.cli.progress import progress_view
    from ggufpack.demo import make_demo_checkpoint
    from ggufpack.engine.choose import has_embedded_engine
    from ggufpack.quantize.types import parse_file_types
    from ggufpack.spec import BuildSpec

    quantizations = parse_file_types(quantization)
    with progress_view(quiet=quiet) as view:
        checkpoint = make_demo_checkpoint(folder / "checkpoint", view)
    spec = BuildSpec(
        checkpoint=checkpoint,
        name="smollm2-demo",
        quantizations=quantizations,
        output=folder / "packages",
        host=host,
        verify="fidelity" if has_embedded_engine() else "smoke",
        overwrite=True,  # the demo's own model and folder
    )
    run_build(spec, as_json=as_json, quiet=quiet)
