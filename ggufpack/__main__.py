"""``python -m ggufpack``."""

from ggufpack.cli.main import main

main(prog_name="ggufpack")
