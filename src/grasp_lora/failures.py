"""What a user can do about an error of a library: the one place that puts it into words."""

import errno
import os
import re
from collections.abc import Iterator

__all__ = ["advice"]

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
_LESS = (
    "Lower training.batch_size (with more gradient_accumulation), max_length or, where it was evaluating, "
    "token_budget; or set training.gradient_checkpointing: true, or quantization where the backbone itself "
    "is what does not fit"
)


def advice(error: BaseException, *, asked_hub: bool = False) -> str | None:
    """What is wrong and what to change, of what led to an error; None: it is nothing that a user can mend.

    Memory that runs out, a disk that is full or cannot be written, and a model hub that has no such
    repository or revision, shows it to nobody unknown, or is not there.

    Args:
        asked_hub: Whether something was asked for at a model hub: then a broken connection was to that.
    """
    found = next(filter(None, map(_of_memory_or_disk, _led_to(error))), None)
    return found or _of_the_hub(error, asked_hub)


def _led_to(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and whatever it was raised from or while handling, each once."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _of_memory_or_disk(error: BaseException) -> str | None:
    import torch

    said = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        asked = re.search(r"Tried to allocate ([\d.]+ \w+)", said)
        wanted = f" ({asked[1]} more were asked for)" if asked else ""
        return f"the GPU's memory is not enough{wanted}. {_LESS}"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in said):
        asked = re.search(r"allocate (\d+) bytes", said)
        wanted = f" ({int(asked[1]) / 1e9:.1f} GB more were asked for)" if asked else ""
        return f"this machine's memory is not enough{wanted}. {_LESS}"
    # safetensors and torch have exceptions of their own, which quote the system's words
    if (isinstance(error, OSError) and error.errno in _DISK) or any(os.strerror(n) in said for n in _DISK):
        return f"{said.splitlines()[0]}: mend that, and run the same command again"
    return None


def _of_the_hub(error: BaseException, asked: bool) -> str | None:
    from huggingface_hub import errors

    # The base of whatever its HTTP library raises, which is another one in each of its versions.
    transport = errors.HTTPError  # type: ignore[attr-defined, unused-ignore]
    unreached: tuple[type[BaseException], ...] = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
    unreached += (transport, ConnectionError) if asked else ()
    for one in _led_to(error):
        if isinstance(one, errors.GatedRepoError):
            return (
                "the model hub gives it only to those who accepted its terms: accept them on its page there, "
                "then log in with `hf auth login`"
            )
        if isinstance(one, errors.RevisionNotFoundError):
            return "the model hub has it, but no such revision: give a branch, tag or commit that it has"
        if isinstance(one, errors.RepositoryNotFoundError):
            return (
                "it is no folder here and no repository that the model hub shows you: check its name, or log "
                "in with `hf auth login` if it is private"
            )
        if isinstance(one, unreached) and not isinstance(one, errors.HfHubHTTPError):
            return (
                "it is not on this machine, and the model hub cannot be reached: check name and network, and "
                "whether HF_HUB_OFFLINE is set"
            )
    return None
