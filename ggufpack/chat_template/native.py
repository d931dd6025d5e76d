"""What Ollama's native mode (0.30 and later: the GGUF's own Jinja, run by llama-server) does not carry over.

Read in Ollama 0.33, ``llm/llama_server.go``: it is the request to llama-server that leaves things out.
"""

from __future__ import annotations

from typing import Any

from ggufpack.chat_template.go_strategy import Refusal
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.traits import Traits
from ggufpack.errors import ChatTemplateError

_DATES: tuple[dict[str, Any], ...] = ({}, {"date_string": "Kdate1K"})
# The only switch that Ollama passes on to a Jinja (llm/llama_server.go, llamaServerChatTemplateKwargs).
NATIVE_SWITCH = "enable_thinking"
_NO_HISTORY = (
    "Ollama does not hand reasoning in history to a Jinja (llm/llama_server.go, llamaServerChatMessage)"
)


def native_capabilities(traits: Traits) -> tuple[str, ...]:
    """What Ollama's native mode carries of what the template has."""
    found = {
        "chat": traits.chat != "never",
        "system": traits.system not in ("raises", "dropped"),
        "tools": traits.tools,
        "thinking": NATIVE_SWITCH in traits.switches,
        "prefill": traits.prefill,
    }
    return tuple(name for name, able in found.items() if able)


def native_refused(template: ChatTemplate, traits: Traits) -> tuple[Refusal, ...]:
    """What it does not carry, by Ollama 0.33's own code."""
    found = [Refusal("thinking:history", _NO_HISTORY)] if traits.thinking else []
    if traits.switches and NATIVE_SWITCH not in traits.switches:
        reason = f"Ollama sets {NATIVE_SWITCH} only; this template's switch is {traits.switches[0]}"
        found += [Refusal(shape, reason) for shape in ("thinking:true", "thinking:false")]
    elif traits.switches and traits.unset is not True:
        reason = "llama-server and Ollama turn thinking on when the caller says nothing"
        found.append(Refusal("thinking:unset", reason))
    if _reads_date_string(template, traits):
        found.append(Refusal("date", "llama.cpp sets date_string to today (seen on Ollama 0.33)"))
    return tuple(found)


def _reads_date_string(template: ChatTemplate, traits: Traits) -> bool:
    """Whether the template prints a variable of llama.cpp's own, which training did not set."""
    chat = [{"role": "user", "content": "Kuser1K"}]
    try:
        plain, dated = (
            template.render(chat, add_generation_prompt=True, **variables) for variables in _DATES
        )
    except ChatTemplateError:
        return False
    return traits.chat != "never" and plain != dated
