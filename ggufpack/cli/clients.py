"""``ggufpack clients``: configuration of chat programs for a registered model."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from ggufpack.cli.common import ReportingCommand, json_option
from ggufpack.cli.terminal import echo, echo_text

# the keys of clients.formats.CLIENTS, which loads the server's client
_NAMES = ("cherry-studio", "open-webui", "continue", "litellm", "openai")


@click.command(cls=ReportingCommand)
@click.argument("model")
@click.option("--client", type=click.Choice(_NAMES), help="Only this one.  [default: all]")
@click.option(
    "--host", metavar="URL", help="Ollama server, as the client reaches it.  [default: OLLAMA_HOST]"
)
@json_option
def clients(model: str, client: str | None, host: str | None, as_json: bool) -> None:
    """Print ready configuration for MODEL, a name on the Ollama server.

    For Cherry Studio, Open WebUI, Continue, LiteLLM and programs with OpenAI's client. With --client only the
    text to paste is on standard output.
    """
    from ggufpack.clients.formats import CLIENTS
    from ggufpack.clients.served import read_model
    from ggufpack.registry import OllamaServer

    server = OllamaServer(host)
    try:
        found = read_model(server, model)
    finally:
        server.close()
    made = {name: make(found) for name, make in CLIENTS.items() if client in (None, name)}
    if as_json:
        configs = {name: asdict(config) for name, config in made.items()}
        echo(json.dumps({"model": asdict(found), "clients": configs}))
        return
    for config in made.values():
        echo(f"# {config.client}: {config.where}", err=client is not None)
        echo_text(config.text, nl=client is None)
        for note in config.notes:
            echo(f"# {note}", err=client is not None)
        echo("", err=client is not None)
