"""A comment that keeps Ollama from taking a chat template for another model's.

On create, Ollama compares the GGUF's chat template with about 35 known ones and adds the Go TEMPLATE
of the nearest when the Levenshtein distance is below 100 (0.33.0: ``server/model.go``
``detectChatTemplate``, ``template/template.go`` ``Named``). A fine-tune's lightly edited template is
then replaced without a word, and no API field turns this off.
"""

from __future__ import annotations

# None of the known templates holds a tilde, and each of these must be edited away: that alone is a
# distance of 120, whatever the rest. No word here is one that Ollama or llama.cpp looks for.
_GUARD = (
    "{# Written by ggufpack. This comment renders nothing. It makes the text unlike every template that\n"
    "   Ollama knows, so that Ollama runs the text itself and not a template of similar wording.\n"
    f"   {'~' * 120} #}}"
)


def add_guard(chat_template: str) -> str:
    """``chat_template`` with the comment in front; what it renders is unchanged.

    In front, because the end is not safe: Jinja drops one line break there. The line break behind
    the comment is eaten with it (``trim_blocks``, in Jinja2 and in llama.cpp alike), so the first
    line of the template still begins a line, which ``lstrip_blocks`` looks at.
    """
    return chat_template if is_guarded(chat_template) else f"{_GUARD}\n{chat_template}"


def is_guarded(chat_template: str) -> bool:
    """Whether the comment is there already."""
    return chat_template.startswith(_GUARD)
