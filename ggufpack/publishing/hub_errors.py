"""What huggingface_hub raises, as one sentence: the only place that knows its errors.

Its own texts are paragraphs with addresses in them, some of which are signed; they are not repeated.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

from ggufpack.errors import GgufpackError, HubError
from ggufpack.publishing.hub_client import said_by_hub

_LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN, with a token that may write."
# what huggingface_hub stumbles over where an answer has another shape than it reads
_SHAPE = (LookupError, TypeError, AttributeError, json.JSONDecodeError, UnicodeError, RecursionError)
_NO_HUB = "Check HF_ENDPOINT, and what stands between it and this machine; or try again later."
_AGAIN = "Run the same command again: what is there already is not sent again."


@contextlib.contextmanager
def hub_errors(repo: str, token: str | None = None) -> Iterator[None]:
    """Raise what fails inside as ``HubError``. ``token`` is in no sentence: the Hub may send it back.

    Raises:
        HubError: the Hub refused, failed or cannot be reached.
    """
    from huggingface_hub.errors import HfHubHTTPError

    # its first base is the HTTP library's error, and that library differs between its versions
    http = HfHubHTTPError.__mro__[1:2]
    foreign: tuple[type[Exception], ...] = (*http, OSError, RuntimeError, ValueError, *_SHAPE)
    try:
        yield
    except GgufpackError:
        raise
    except foreign as error:
        problem, action = _sentence(error, repo, token)
        raise HubError(problem, action=action) from error


def _sentence(error: BaseException, repo: str, token: str | None) -> tuple[str, str]:
    from huggingface_hub import errors

    for cause in _causes(error):
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set, so nothing can be uploaded.", "Unset it, or pass --dry-run."
        if isinstance(cause, errors.HFValidationError):
            return f"{repo} is no name of a repository on the Hub.", "Write --to hf:USER/REPO."
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(status, int) and isinstance(error, RuntimeError):
            # from the storage of large files, whose signed addresses expire: not about the token
            return f"The Hub's storage refused a file of {repo} ({status}).", _AGAIN
        if isinstance(status, int):
            message = said_by_hub(str(getattr(cause, "server_message", None) or ""), token)
            return _refusal(status, repo, message)
    last = _causes(error)[-1]
    said = said_by_hub(str(last), token) or type(last).__name__
    if isinstance(error, _SHAPE):
        return f"The Hub answered {repo} with what is no answer ({type(error).__name__}: {said}).", _NO_HUB
    return (
        f"The Hub cannot be reached, or broke off ({said}).",
        f"Check the network and HF_ENDPOINT. {_AGAIN}",
    )


def _refusal(status: int, repo: str, message: str) -> tuple[str, str]:
    said = f" ({message})" if message else ""
    if status == 401:
        return f"The Hub does not accept the token for {repo} (401){said}.", _LOG_IN
    if status == 403:
        return f"The token may not write to {repo} (403){said}.", _LOG_IN
    if status == 404:
        return f"The Hub has no {repo}, or hides it from this token (404){said}.", _LOG_IN
    if status in (409, 412):
        return f"{repo} was changed by somebody else in the meantime ({status}){said}.", _AGAIN
    if status == 429:
        return f"The Hub wants fewer requests (429){said}.", f"Wait a few minutes. {_AGAIN}"
    if status >= 500:
        return f"The Hub failed ({status}){said}.", _AGAIN
    return f"The Hub refused the upload to {repo} ({status}){said}.", "Look at the repository's settings."


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what it was raised from, the outermost first."""
    found = [error]
    while (cause := found[-1].__cause__ or found[-1].__context__) is not None and cause not in found:
        found.append(cause)
    return found
