"""What Ollama's native mode (0.30 and later: the GGUF's own Jinja, run by llama-server) does not carry over.

Read in Ollama 0.33, ``llm/llama_server.go``: it is the request to llama-server that leaves things out.
"""

from __future__ import annotations

from typing import Any

from ggufpack.chat_template.conversation import Conversation, Message
from ggufpack.chat_template.go_strategy import Refusal
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.traits import Traits
from ggufpack.errors import ChatTemplateError

_DATES: tuple[dict[str, Any], ...] = ({}, {"date_string": "Kdate1K"})
# The only switch that Ollama passes on to a Jinja (llm/llama_server.go, llamaServerChatTemplateKwargs).
NATIVE_SWITCH = "enable_thinking"
_LFM2_MARK = "<|tool_list_start|>"  # llama.cpp has a parser of its own for these, with reasoning
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
    if traits.prefill and (reason := _prefill_reason(template, traits)):
        found.append(Refusal("prefill", reason))
    if _reads_date_string(template, traits):
        found.append(Refusal("date", "llama.cpp sets date_string to today (seen on Ollama 0.33)"))
    return tuple(found)


def _prefill_reason(template: ChatTemplate, traits: Traits) -> str:
    """Why llama-server does not continue an answer as trained; empty when it does.

    It renders without the answer, opens the assistant's turn, and puts the text behind that, with empty
    reasoning in front where its parser knows reasoning for this template (llama.cpp:
    common/chat-auto-parser-generator.cpp; seen on Ollama 0.33 with GLM, MiniMax, Gemma 4 and LFM2).
    """
    if traits.thinking or traits.switches or "think" in template.text or _LFM2_MARK in template.text:
        return "llama-server puts empty reasoning in front of an answer that is continued"
    asked = Conversation("asked", (Message("user", "Kuser1K"),))
    begun = Conversation("begun", (*asked.messages, Message("assistant", "Kanswer1K")))
    try:
        same = traits.prompt(template, begun) == traits.prompt(template, asked) + "Kanswer1K"
    except ChatTemplateError:
        same = traits.chat == "with-tools"  # nothing to compare
    return (
        "" if same else "llama-server continues an answer behind the generation prompt, the Jinja elsewhere"
    )


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
