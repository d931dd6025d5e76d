"""Adds to a file's verification what needs the source model: tokenizer, logits, and the server's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ggufpack.chat_template.prompt import Prompt
from ggufpack.engine.llama import engine_name
from ggufpack.engine.protocol import Message
from ggufpack.proofs import TokenizerMiss, TokenizerParity, Verification
from ggufpack.spec import EventHandler, Progress, Stage
from ggufpack.verification.conversations import CONVERSATIONS
from ggufpack.verification.fidelity.measure import FidelityCheck, PackageModel
from ggufpack.verification.fidelity.texts import builtin_texts
from ggufpack.verification.hard_texts import HardText
from ggufpack.verification.logprobs import NextTokens, check_logprobs
from ggufpack.verification.tokenizer_parity import check_tokenizer

if TYPE_CHECKING:
    from ggufpack.engine.ollama import OllamaEngine

_PLAIN_PROMPT = "The sky is blue."


def add_fidelity(
    check: FidelityCheck,
    gguf: Path,
    verification: Verification,
    *,
    prompt: Prompt,
    server: OllamaEngine | None,
    on_event: EventHandler,
) -> Verification:
    """The verification with tokenizer parity, fidelity, and the server's log probabilities.

    Args:
        check: of the checkpoint, entered.
        gguf: the file.
        verification: what is known of it.
        prompt: of the checkpoint.
        server: the same file registered; ``None`` without a server.
        on_event: told about the progress.

    Raises:
        VerificationError: the source or the package cannot be run.
        RegistryError: the server failed.
    """
    with check.package(gguf) as package:
        on_event(Progress(Stage.VERIFICATION, 0, None, "texts", "the tokenizers"))
        tokenizer = _tokenizers(check, package, prompt)
        fidelity = check.measure(gguf, package, engine_name())
        logprobs = None
        # a base model has no conversation that both sides would render
        if server is not None and prompt.template is not None:
            on_event(Progress(Stage.VERIFICATION, 0, None, "conversations", "the server's probabilities"))
            expected = _next_tokens(check, package, prompt)
            logprobs = check_logprobs(server, expected, think=prompt.plan.think)
        held = {"package": package.confined.to_json(), "source": check.confined.to_json()}
    return replace(
        verification,
        level="fidelity",
        tokenizer=tokenizer,
        fidelity=fidelity,
        logprobs=logprobs,
        confinement={**verification.confinement, **held},
    )


def _tokenizers(check: FidelityCheck, package: PackageModel, prompt: Prompt) -> TokenizerParity:
    @cache
    def piece(token: int) -> str:
        return package.pieces([token])[0].decode("utf-8", "backslashreplace")

    # the user's own texts may be few
    given = dict.fromkeys([*check.texts, *builtin_texts(prompt)])
    # plain texts as engines get them: in a prompt of the chat template, where there is one
    texts = [HardText(text.name, text.text if text.is_chat else _asked(prompt, text.text)) for text in given]
    ordinary = check_tokenizer(check.tokenize, package.tokenize, piece, texts)
    hard = check_tokenizer(check.tokenize, package.tokenize, piece, special_texts=prompt.special_texts)
    misses = [*ordinary.misses, *(replace(miss, ordinary=False) for miss in hard.misses)]
    # and once as an engine begins a prompt, with what the file says about BOS and EOS
    text = prompt.expected(CONVERSATIONS[0].messages) if prompt.template is not None else _PLAIN_PROMPT
    if text is not None:
        (expected,) = check.tokenize([text], special=prompt.template is None)
        # engines take a template's BOS away where they add one
        shown = text.removeprefix(prompt.bos) if package.adds_bos else text
        (actual,) = package.tokenize([shown], special=True)
        if expected != actual:
            one, other = (tuple(map(piece, ids)) for ids in (expected, actual))
            misses.append(TokenizerMiss("a prompt with its BOS", text, one, other))
    return TokenizerParity(ordinary.texts + hard.texts + (text is not None), tuple(misses))


def _asked(prompt: Prompt, text: str) -> str:
    """The prompt of this question; the text itself without a template, and where it is refused."""
    return prompt.expected([{"role": "user", "content": text}]) or text


def _next_tokens(
    check: FidelityCheck, package: PackageModel, prompt: Prompt
) -> Callable[[Sequence[Message]], NextTokens | None]:
    def expected(messages: Sequence[Message]) -> NextTokens | None:
        text = prompt.expected(messages)
        if text is None:
            return None
        tokens = check.tokenize([text])
        return package.next_token(tokens)[0] if len(tokens[0]) <= check.window else None

    return expected
