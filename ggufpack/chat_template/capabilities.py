"""Which capabilities Ollama 0.30 and later reads out of a chat template, and which template it runs.

Source: Ollama 0.33.0, ``server/images.go``; each function names the one it follows. The rules look
for substrings, so a comment in a template counts as much as its code.
"""

from __future__ import annotations

from collections.abc import Collection

TOOLS = "tools"
THINKING = "thinking"


def has_tool_support(chat_template: str) -> bool:
    """Whether Ollama takes the Jinja for one with tools (``chatTemplateHasToolSupport``)."""
    return "tools" in chat_template or "tool_call" in chat_template


def has_tool_round_trip(chat_template: str) -> bool:
    """Whether it prints calls and their results as well (``chatTemplateHasToolRoundTrip``)."""
    calls = "tool_calls" in chat_template or "assistant_tool_call" in chat_template
    results = (
        "tool_response",
        "tool_results",
        "role'] == 'tool'",
        'role\'] == "tool"',
        "role\"] == 'tool'",
        'role"] == "tool"',
        "message.role == 'tool'",
        'message.role == "tool"',
        "ipython",
    )
    return has_tool_support(chat_template) and calls and any(text in chat_template for text in results)


def has_thinking_support(chat_template: str) -> bool:
    """Whether Ollama takes the Jinja for a thinking one (``chatTemplateHasThinkingSupport``)."""
    if "<think>" in chat_template and "</think>" in chat_template:
        return True
    splits = "content.split('</think>')" in chat_template or 'content.split("</think>")' in chat_template
    return splits and "reasoning_content" not in chat_template and "<SPECIAL_12>" not in chat_template


def chat_template_capabilities(chat_template: str) -> tuple[str, ...]:
    """``"tools"`` and ``"thinking"`` as Ollama reads them (``chatTemplateCapabilities``)."""
    tools = (TOOLS,) if has_tool_support(chat_template) else ()
    thinking = (THINKING,) if has_thinking_support(chat_template) else ()
    return tools + thinking


def prefers_chat_template(
    chat_template: str, go_capabilities: Collection[str], go_tool_round_trip: bool
) -> bool:
    """Whether Ollama ignores the Go TEMPLATE and runs the Jinja (``shouldPreferChatTemplate``).

    Args:
        chat_template: the Jinja in the GGUF.
        go_capabilities: what Ollama infers from the TEMPLATE (``goTemplateCapabilities``).
        go_tool_round_trip: whether the TEMPLATE prints calls and results
            (``goTemplateHasToolRoundTrip``).
    """
    jinja = set(chat_template_capabilities(chat_template))
    go = set(go_capabilities)
    if len(jinja) > len(go):
        return not go_tool_round_trip or has_tool_round_trip(chat_template)
    if jinja != go or TOOLS not in jinja:
        return False
    return has_tool_round_trip(chat_template) and not go_tool_round_trip
