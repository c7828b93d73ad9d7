"""Files of the Hugging Face hub: downloaded once, checked, and found again without a network.

huggingface_hub downloads, shows progress and resumes; it gives up after a minute without data. The
content of a file is compared with the checksum that the hub states for it, each time it is used.
"""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors

from ..cache import file_sha256
from ..errors import ModelError, first_line

WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def hub_file(repository: str, names: Sequence[str], *, remedy: str) -> Path:
    """The first of some files that a repository has, from the local cache or downloaded.

    Args:
        repository: `ORG/NAME`, or `ORG/NAME@REVISION`.
        remedy: what else the user can do, for messages.

    Raises:
        ModelError: if there is none, if it cannot be reached, or if its content is damaged.
    """
    repo, _, revision = repository.partition("@")
    where = {"repo_id": repo, "revision": revision or None}
    for name in names:
        found = huggingface_hub.try_to_load_from_cache(filename=name, **where)
        if isinstance(found, str):
            return _checked(Path(found), repository)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs every retry
    for name in names:
        try:
            return _checked(
                Path(huggingface_hub.hf_hub_download(filename=name, **where)), repository
            )
        except errors.RemoteEntryNotFoundError:
            continue
        except Exception as error:
            raise ModelError(f"{_reason(error, repo, name)} {remedy}") from error
    raise ModelError(f"{repo} on the hub has none of {', '.join(names)}. {remedy}")


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
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        cause = error.__cause__ or error.__context__
        detail = f" ({first_line(cause)})" if isinstance(cause, Exception) else ""
        return (
            f"{name} of {repo} is not in the local cache, and the hub could not be reached{detail}."
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return f"The hub answered {status} for {name} of {repo}. Try again later."
    return (
        f"{name} of {repo} could not be downloaded ({first_line(error)}). Try again: what is "
        "there is kept, and the download continues."
    )


def _checked(path: Path, repository: str) -> Path:
    """The path, if the content of the file has the checksum that the hub stated.

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
    return path
