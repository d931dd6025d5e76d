"""What a model answers when it calls a tool: a render of the call, without the prompt in front."""

from __future__ import annotations

from ggufpack.chat_template.conversation import Conversation, Message, ToolCall
from ggufpack.chat_template.heldout import TOOLS
from ggufpack.chat_template.learn.pieces import common_prefix
from ggufpack.chat_template.render import ChatTemplate
from ggufpack.chat_template.traits import Traits
from ggufpack.errors import ChatTemplateError

CALL = ToolCall("call00001", "get_weather", {"city": "Bern"})


def calling_answer(template: ChatTemplate, traits: Traits) -> str | None:
    """The answer that makes ``CALL``; ``None`` where the template does not print calls."""
    asked = Conversation("asked", (Message("user", "Weather?"),), TOOLS[:1])
    called = Conversation("called", (*asked.messages, Message("assistant", calls=(CALL,))), TOOLS[:1])
    try:
        prompt = traits.prompt(template, asked)
        # the whole turn: as a prefill it would end before its end
        whole = traits.turns(template, called)
    except ChatTemplateError:
        return None
    shared = common_prefix([prompt, whole])
    # <think> in the prompt and <tool_call> in the answer share a bracket
    for opening, closing in ("<>", "[]"):
        place = shared.rfind(opening)
        if place >= 0 and closing not in shared[place:]:
            shared = shared[:place]
    answer = whole[len(shared) :]
    return answer if CALL.name in answer else None
