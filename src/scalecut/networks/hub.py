"""Files of the Hugging Face hub: downloaded once, checked, and found again without a network.

huggingface_hub downloads, shows progress, and resumes a download that was interrupted or stalls; it
gives up after a minute without data. The content of a file is compared with the checksum that the
hub states for it, each time it is used.
"""

import hashlib
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors

from ..cache import file_sha256
from ..errors import ModelError, first_line

WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def hub_file(
    repository: str, names: Sequence[str], *, remedy: str, sibling: Path | None = None
) -> Path:
    """The first of some files that a repository has, from the local cache or downloaded.

    Args:
        repository: `ORG/NAME`, or `ORG/NAME@REVISION`.
        remedy: what else the user can do, for messages.
        sibling: the folder of another file of the repository, whose revision is taken.

    Raises:
        ModelError: if there is none, if it cannot be reached, or if its content is damaged.
    """
    repo, _, revision = repository.partition("@")
    if sibling is not None:
        revision = sibling.name  # the cache names folders by commit
    where = {"repo_id": repo, "revision": revision or None}
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs every retry
    try:
        path = _cached(names, where) or _downloaded(names, where)
    except Exception as error:  # of the hub, or of any layer below it
        raise ModelError(f"{_reason(error, repo, names[0])} {remedy}") from error
    if path is None:
        raise ModelError(f"{repo} on the hub has none of {', '.join(names)}. {remedy}")
    _check_content(path, repository)
    return path


def _cached(names: Sequence[str], where: dict[str, Any]) -> Path | None:
    """The first of the files that is in the local cache."""
    found = (huggingface_hub.try_to_load_from_cache(filename=name, **where) for name in names)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def _downloaded(names: Sequence[str], where: dict[str, Any]) -> Path | None:
    """The first of the files that the repository has."""
    for name in names:
        with suppress(errors.RemoteEntryNotFoundError):
            return Path(huggingface_hub.hf_hub_download(filename=name, **where))
    return None


def _reason(error: Exception, repo: str, name: str) -> str:
    page = f"https://huggingface.co/{repo}"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{repo} is gated: request access on {page}, then log in with `hf auth login` (or set "
            "HF_TOKEN), and try again."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"There is no {repo} on the hub, or it is private and you are not logged in."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} on the hub has no such revision."
    if isinstance(error, errors.HFValidationError):
        return f"{repo!r} is no name of a repository. Give ORG/NAME."
    cause = error.__cause__ or error.__context__
    for each in (error, cause):
        status = getattr(getattr(each, "response", None), "status_code", None)
        if status is not None:
            return f"The hub answered {status} for {name} of {repo}. Try again later."
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        said = f" ({first_line(cause)})" if isinstance(cause, Exception) else ""
        return f"{name} of {repo} is in no local cache, and the hub could not be reached{said}."
    return (
        f"{name} of {repo} could not be downloaded ({first_line(error)}). Try again; if the hub is "
        "slow, with more seconds in HF_HUB_DOWNLOAD_TIMEOUT."
    )


def _check_content(path: Path, repository: str) -> None:
    """Remove and refuse a file whose content does not have the checksum that the hub stated.

    The cache names contents by it: the sha256 of large files, git's sha1 of small ones.
    """
    content = path.resolve()
    stated = content.name if path.is_symlink() else ""
    found = stated
    if len(stated) == 64:
        found = file_sha256(content)
    elif len(stated) == 40:
        data = content.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    if found != stated:
        content.unlink()
        path.unlink()
        raise ModelError(
            f"{path.name} of {repository} is damaged: its content does not have the checksum that "
            "the hub states. It was removed; run the command again to download it again."
        )
