"""The Hugging Face hub as push and pull see it: a client, names that are checked, and errors in one line."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import huggingface_hub
from huggingface_hub import HfApi, constants
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils import disable_progress_bars

from vggtq.errors import ConfigError, VggtqError, describe
from vggtq.models.checkpoints.source import CHATTY, REPO_ID
from vggtq.terminal.logs import quiet
from vggtq.version import __version__

HTTP_LIBRARIES = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "socket")
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


class HubError(VggtqError):
    """The hub refused, lacks something, or cannot be reached."""


def client() -> HfApi:
    """A client of the hub at HF_ENDPOINT, with the token of HF_TOKEN or of the last login. Shows bars to terminals only."""
    if not sys.stderr.isatty() and constants.HF_HUB_DISABLE_PROGRESS_BARS is None:
        disable_progress_bars()
    return HfApi(library_name="vggtq", library_version=__version__)


def check_repo(repo: str) -> None:
    """Raises ConfigError for a name that is not owner/name."""
    if not REPO_ID.fullmatch(repo):
        raise ConfigError(f"{repo} is not a repository of the hub; write owner/name")


def require_token() -> None:
    """Raises HubError without a token, before anything is read or sent."""
    if not huggingface_hub.get_token():
        raise HubError(f"you are not logged in to the Hugging Face hub; {LOGIN} (a token with write access)")


@contextmanager
def translated(repo: str, action: str) -> Iterator[None]:
    """Turns every failure of the hub's client into a HubError that says what to do. action: for the message."""
    _ = huggingface_hub.hf_hub_download  # imported on first use, which sets the levels of its loggers
    try:
        with quiet(*CHATTY):
            yield
    except VggtqError:
        raise
    except Exception as error:
        chain = list(_chain(error))
        refusal = next((e for e in chain if isinstance(e, hub_errors.HfHubHTTPError)), None)
        if refusal is not None:
            raise HubError(_refused(repo, action, refusal)) from error
        if any(map(_is_network, chain)):
            why = describe(chain[-1])
            raise HubError(
                f"cannot reach the Hugging Face hub at {constants.ENDPOINT} ({why}); check the network and HF_ENDPOINT"
            ) from error
        if (
            isinstance(error, OSError) and error.errno
        ):  # of this machine: a full disk, a folder without permission
            raise
        raise HubError(f"{repo}: cannot {action} ({describe(error)}); try again") from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what caused it, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__


def _is_network(error: BaseException) -> bool:
    offline = (hub_errors.LocalEntryNotFoundError, hub_errors.OfflineModeIsEnabled)
    if isinstance(error, (*offline, ConnectionError, TimeoutError)):
        return True
    # The client lets the errors of its HTTP library through, which differ from version to version.
    return type(error).__module__.partition(".")[0] in HTTP_LIBRARIES


def _refused(repo: str, action: str, error: hub_errors.HfHubHTTPError) -> str:
    status = error.response.status_code
    token = huggingface_hub.get_token()
    owner = repo.partition("/")[0]
    if isinstance(error, hub_errors.RevisionNotFoundError):
        return f"{repo}: no such revision; check the branch or commit"
    if isinstance(error, hub_errors.EntryNotFoundError):
        return f"{repo}: the repository has no model.safetensors; is it one that vggtq push filled?"
    if isinstance(error, hub_errors.GatedRepoError):
        return f"{repo}: access is gated; accept its terms on {constants.ENDPOINT}/{repo} and {LOGIN}"
    if status == 401 and token and not isinstance(error, hub_errors.RepositoryNotFoundError):
        return f"{repo}: the hub does not accept your token; it may have expired: {LOGIN}"
    if status in (401, 404):
        private = "" if token else f", or {LOGIN} if it is private"
        return f"{repo}: no such repository on {constants.ENDPOINT}; check the name{private}"
    if status == 403:
        return f"{repo}: your token may not {action}; use one with write access to {owner}, {LOGIN}"
    if status in (409, 412):
        return f"{repo}: somebody else changed the repository at the same time; try again"
    if status == 429:
        return f"{repo}: the hub asks to wait (too many requests); try again later"
    said = error.server_message.splitlines()[0] if error.server_message else describe(error)
    return f"{repo}: cannot {action}, the hub says {status} ({said}); try again later"
