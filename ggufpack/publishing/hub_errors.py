"""What huggingface_hub raises, as one sentence: the only place that knows its errors.

Its own texts are paragraphs with addresses in them, some of which are signed; they are not repeated.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ggufpack.errors import GgufpackError, HubError

_LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN, with a token that may write."
_AGAIN = "Run the same command again: what is there already is not sent again."


@contextlib.contextmanager
def hub_errors(repo: str) -> Iterator[None]:
    """Raise what fails inside as ``HubError``.

    Raises:
        HubError: the Hub refused, failed or cannot be reached.
    """
    from huggingface_hub.errors import HfHubHTTPError

    # its first base is the HTTP library's error, and that library differs between its versions
    foreign: tuple[type[Exception], ...] = (*HfHubHTTPError.__mro__[1:2], OSError, RuntimeError, ValueError)
    try:
        yield
    except GgufpackError:
        raise
    except foreign as error:
        problem, action = _sentence(error, repo)
        raise HubError(problem, action=action) from error


def _sentence(error: BaseException, repo: str) -> tuple[str, str]:
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
            return _refusal(status, repo, getattr(cause, "server_message", None))
    last = _causes(error)[-1]
    said = " ".join(str(last).split())[:200] or type(last).__name__
    return (
        f"The Hub cannot be reached, or broke off ({said}).",
        f"Check the network and HF_ENDPOINT. {_AGAIN}",
    )


def _refusal(status: int, repo: str, message: str | None) -> tuple[str, str]:
    said = f" ({' '.join(message.split())[:200]})" if message else ""
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
