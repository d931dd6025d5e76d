"""A checkpoint's own chat template, rendered as Hugging Face transformers renders it.

What is matched: transformers 5.23, ``utils/chat_template_utils.py``, ``render_jinja_template`` and
``_compile_jinja_template``. A test renders the real templates with both and compares.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import CodeType, TracebackType
from typing import Any, cast

import jinja2
import jinja2.meta
import jinja2.nodes

from ggufpack.chat_template.budget import charge
from ggufpack.chat_template.environment import RaisedByTemplate, make_environment
from ggufpack.chat_template.findings import (
    OUTPUT_TOO_LARGE,
    REFUSED,
    RENDER_ERROR,
    SYNTAX_ERROR,
    TOO_SLOW,
    make_finding,
)
from ggufpack.chat_template.sandbox import (
    RENDER_SECONDS,
    OutputLimitReachedError,
    TimeLimitReachedError,
    check_time,
    limited,
)
from ggufpack.errors import ChatTemplateError

MAX_SOURCE_CHARACTERS = 300_000  # the largest of 80 real ones has 17,000
MAX_RENDERED_CHARACTERS = 4 * 1024 * 1024
MAX_SAID = 500  # characters of what a template raises
# The one of several named templates that transformers takes when tools are given.
TOOL_USE = "tool_use"

# The names that reasoning goes by; templates read the first, gpt-oss the second.
_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")

# Jinja hands this name to the traceback, which is how the line of a run-time error is found.
_UNNAMED = "<chat template>"
_CONTINUE_MARK = "CONTINUE_FINAL_MESSAGE_TAG "

Message = Mapping[str, Any]


class ChatTemplateRefusal(ChatTemplateError):  # noqa: N818  a refusal is an answer, not a fault
    """The template called ``raise_exception``: it has no prompt for this conversation."""


def plain_data(value: Any) -> Any:
    """A copy of ``value`` in JSON's types only; any other object becomes ``"<TypeName>"``.

    The sandbox cannot know which methods of a caller's objects are dangerous, so a template never
    sees them (transformers: ``_plain_template_data``).
    """
    if value is None or type(value) in (str, int, float, bool):
        return value
    for base in (str, int, float):
        if isinstance(value, base):
            return base.__str__(value) if base is str else base(value)
    if isinstance(value, Mapping):
        return {plain_data(key): plain_data(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain_data(item) for item in value]
    if isinstance(value, tuple):
        return tuple(plain_data(item) for item in value)
    return f"<{type(value).__name__}>"


def _with_reasoning_aliases(message: dict[str, Any]) -> dict[str, Any]:
    """``message`` with its reasoning under the names that templates read."""
    given = [message[name] for name in _REASONING_FIELDS if message.get(name) is not None]
    if not given:
        return message
    return {"thinking": given[0], **message, "reasoning_content": given[0]}


def _with_parts(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    return (
        {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else message
    )


def _shortened(said: object) -> str:
    """What a template says, as a part of a sentence."""
    text = str(said)
    return text if len(text) <= MAX_SAID else f"{text[:MAX_SAID]}…"


class ChatTemplate:
    """A compiled chat template.

    Rendering is pure: it changes neither the template nor the messages, and the same arguments
    give the same text unless the template asks for the date. Safe in threads.

    Args:
        text: Jinja source.
        special_tokens: variables that the tokenizer gives to the template: ``bos_token``,
            ``eos_token`` and so on; ``None`` values are left undefined, as transformers does.
        origin: the file the text came from, named in errors.
        now: the clock behind ``strftime_now``.
        named: further templates of the family by name. Of these transformers takes ``tool_use`` by
            itself, when tools are given (``get_chat_template``); ``rag`` and others only by name.

    Raises:
        ChatTemplateError: GP420, the text is not valid Jinja; says the file and the line.
    """

    def __init__(
        self,
        text: str,
        *,
        special_tokens: Mapping[str, Any] | None = None,
        origin: Path | None = None,
        now: Callable[[], datetime] = datetime.now,
        named: Mapping[str, str] | None = None,
    ) -> None:
        self.text = text
        self.named = dict(named or {})
        self.special_tokens: dict[str, Any] = {
            name: value for name, value in (special_tokens or {}).items() if value is not None
        }
        self.origin = origin
        self._in_parts = False
        self._now = now
        self._filename = _UNNAMED if origin is None else str(origin)
        tool_use = self.named.get(TOOL_USE, text)
        if max(len(text), len(tool_use)) > MAX_SOURCE_CHARACTERS:
            limit = f"it has more than {MAX_SOURCE_CHARACTERS:,} characters"
            raise self._error(SYNTAX_ERROR, limit, None)
        with self._reading():
            code = self._compile(text)
            self._codes = code, code if tool_use == text else self._compile(tool_use)
        self._load()

    def __repr__(self) -> str:
        return f"ChatTemplate({self._filename!r}, {len(self.text)} characters)"

    def with_text(self, text: str) -> ChatTemplate:
        """The same template with another text, for the same tokens, file and clock."""
        same = ChatTemplate(text, special_tokens=self.special_tokens, origin=self.origin, now=self._now)
        same._in_parts = self._in_parts
        return same

    def with_parts(self) -> ChatTemplate:
        """The same template, given texts as ``[{"type": "text", "text": …}]``, as image models want them."""
        same = copy.copy(self)
        same._in_parts = True
        return same

    def with_clock(self, now: Callable[[], datetime]) -> ChatTemplate:
        """The same template by another clock."""
        same = copy.copy(self)
        same._now = now
        same._load()
        return same

    @property
    def undeclared(self) -> frozenset[str]:
        """The variables that the text reads and does not set itself.

        Raises:
            ChatTemplateError: GP420, it is nested too deeply.
        """
        with self._reading():  # Jinja finds them by compiling once more, constants included
            return frozenset(
                jinja2.meta.find_undeclared_variables(make_environment(self._now).parse(self.text))
            )

    @property
    def trees(self) -> tuple[jinja2.nodes.Template, ...]:
        """Of ``texts``, as Jinja reads them.

        Raises:
            ChatTemplateError: GP420, one is nested too deeply.
        """
        with self._reading():
            return tuple(make_environment(self._now).parse_plain(text) for text in self.texts)

    @property
    def texts(self) -> tuple[str, ...]:
        """The sources that a render may use: the default, and that for tools where it is another."""
        return tuple(dict.fromkeys((self.text, self.named.get(TOOL_USE, self.text))))

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> str:
        """The prompt for ``messages``.

        Args:
            messages: dicts with ``role``, ``content`` and what the template knows besides.
            add_generation_prompt: whether to open the assistant's next turn.
            tools: JSON schemas of tools.
            continue_final_message: leave the last message open (a prefill): the text ends with
                its content. Not together with ``add_generation_prompt``.
            variables: further template variables (``enable_thinking``, …); they override
                special tokens of the same name.

        Raises:
            ChatTemplateRefusal: GP422, the template raises on this conversation.
            ChatTemplateError: GP421 any other failure, with the line; GP423 over 4 Mi characters;
                GP435 over five seconds of processor time.
        """
        charge()
        chat = [_with_reasoning_aliases(cast(dict[str, Any], plain_data(message))) for message in messages]
        if not continue_final_message:
            rendered = self._render(chat, add_generation_prompt, tools, variables)
            charge(len(rendered))
            return rendered

        if add_generation_prompt or not chat or not isinstance(chat[-1].get("content"), str):
            raise ValueError("a final message with text and no generation prompt is what can be continued")
        if "content" not in (self.text if tools is None else self.named.get(TOOL_USE, self.text)):
            raise self._error(RENDER_ERROR, "it does not read the content of messages", None)
        content = chat[-1]["content"]
        chat[-1]["content"] = content + _CONTINUE_MARK
        rendered = self._render(chat, add_generation_prompt, tools, variables)
        charge(len(rendered))
        return self._cut_at_mark(rendered, content)

    def _cut_at_mark(self, rendered: str, content: str) -> str:
        mark = _CONTINUE_MARK.strip()
        if mark not in rendered or content.strip() not in rendered:
            raise self._error(RENDER_ERROR, "the final message is not in the prompt", None)
        end = rendered.rindex(mark)
        if rendered.startswith(_CONTINUE_MARK, end):
            return rendered[:end]
        return rendered[:end].rstrip()  # the template trims contents, so it would trim this one

    def _render(
        self,
        chat: list[dict[str, Any]],
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
    ) -> str:
        if self._in_parts:
            chat = [_with_parts(message) for message in chat]
        given = {
            "documents": None,
            **plain_data({**self.special_tokens, **variables}),
            "messages": chat,
            "tools": None if tools is None else plain_data(list(tools)),
            "add_generation_prompt": add_generation_prompt,
        }
        template = self._compiled if tools is None else self._with_tools
        try:
            with limited(RENDER_SECONDS, MAX_RENDERED_CHARACTERS):
                return self._join(template.generate(given))
        except ChatTemplateError:
            raise
        except OutputLimitReachedError as error:
            raise self._error(OUTPUT_TOO_LARGE, "", self._line(error.__traceback__)) from error
        except TimeLimitReachedError as error:
            raise self._error(TOO_SLOW, "", self._line(error.__traceback__)) from error
        except RaisedByTemplate as error:
            raise self._error(
                REFUSED, _shortened(error.message or ""), self._line(error.__traceback__)
            ) from error
        except Exception as error:  # a template is a program: it can raise anything
            problem = _shortened(f"{type(error).__name__}: {error}")
            raise self._error(RENDER_ERROR, problem, self._line(error.__traceback__)) from error

    def _join(self, pieces: Iterator[str]) -> str:
        rendered: list[str] = []
        size = 0
        for piece in pieces:
            check_time()
            size += len(piece)
            if size > MAX_RENDERED_CHARACTERS:
                raise self._error(OUTPUT_TOO_LARGE, "", None)
            rendered.append(piece)
        text = "".join(rendered)
        text.encode("utf-8")  # half a surrogate pair could be written nowhere
        return text

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """What goes wrong inside is the source's fault."""
        try:
            with limited(RENDER_SECONDS, MAX_RENDERED_CHARACTERS):  # filters of constants are computed
                yield
        except jinja2.TemplateSyntaxError as error:
            raise self._error(SYNTAX_ERROR, error.message or "syntax error", error.lineno) from error
        except (RecursionError, SyntaxError, MemoryError) as error:
            # SyntaxError: Python's own bounds, 20 loops or 100 conditions in one another
            raise self._error(SYNTAX_ERROR, "nested too deeply", None) from error
        except Exception as error:  # constants are computed here: it can raise anything
            problem = _shortened(f"{type(error).__name__}: {error}")
            raise self._error(SYNTAX_ERROR, problem, None) from error

    def _compile(self, text: str) -> CodeType:
        return make_environment(self._now).compile(text, filename=self._filename)

    def _load(self) -> None:
        """The compiled code by this clock; it is compiled once only."""
        environment = make_environment(self._now)
        self._compiled, self._with_tools = (
            jinja2.Template.from_code(environment, code, environment.make_globals(None))
            for code in self._codes
        )

    def _line(self, traceback: TracebackType | None) -> int | None:
        """The template's line that is innermost in ``traceback``."""
        line = None
        while traceback is not None:
            # Jinja rewrites these frames, so that their lines are the template's
            if traceback.tb_frame.f_code.co_filename == self._filename:
                line = traceback.tb_lineno
            traceback = traceback.tb_next
        return line

    def _error(self, finding: str, problem: str, line: int | None) -> ChatTemplateError:
        place = self._filename if line is None else f"{self._filename}, line {line}"
        described = make_finding(
            finding,
            path=self.origin,
            place=place,
            problem=problem,
            limit=MAX_RENDERED_CHARACTERS,
            seconds=RENDER_SECONDS,
        )
        kind = ChatTemplateRefusal if finding == REFUSED else ChatTemplateError
        return kind(
            described.message, action=described.action, path=self.origin, key="chat_template", finding=finding
        )
