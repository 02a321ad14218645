"""Adapters on a model hub, by name where a folder may stand."""

import re
from functools import cache
from pathlib import Path

from grasp_lora.errors import GraspError
from grasp_lora.failures import advice

__all__ = [
    "ADAPTER_FILES",
    "CARD_FILE",
    "CONFIG_FILE",
    "WEIGHTS_FILE",
    "find_adapter",
    "is_hub_name",
    "upload_folder",
]

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE)
CARD_FILE = "README.md"

_HUB_NAME = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w./-]+))?")


def find_adapter(adapter: str | Path) -> Path:
    """The folder of an adapter: the folder itself, or where a hub's repository was downloaded to.

    Args:
        adapter: A folder, or `OWNER/NAME`, or `OWNER/NAME@REVISION` with a branch, tag or commit. A folder of
            that name wins. Gated repositories need the hub's own login (`hf auth login`, or HF_TOKEN).

    Raises:
        GraspError: It is neither, or cannot be downloaded; the message names the cause.
    """
    path, match = Path(adapter).expanduser(), _HUB_NAME.fullmatch(str(adapter))
    if path.is_dir():
        return path
    if match is None or not is_hub_name(adapter):
        raise GraspError(
            f"{adapter} is no folder: give a saved PEFT adapter's, or OWNER/NAME[@REVISION] on the model hub"
        )
    return _downloaded(str(adapter), match["repository"], match["revision"])


def is_hub_name(adapter: str | Path) -> bool:
    """Whether it looks like OWNER/NAME[@REVISION], and nothing here is called so."""
    return not Path(adapter).expanduser().exists() and _HUB_NAME.fullmatch(str(adapter)) is not None


def upload_folder(folder: Path, repository: str, *, public: bool = False) -> str:
    """Upload a folder's files as one commit to a model repository, which is made where there is none.

    Args:
        repository: OWNER/NAME.
        public: Whether a new one can be seen by all.

    Returns:
        The repository's address.

    Raises:
        GraspError: The hub refuses, or cannot be reached; or there is such a repository, all can see it, and
            that was not asked for.
    """
    from huggingface_hub import HfApi, errors

    # The base of whatever its HTTP library raises, which is another one in each of its versions.
    transport = errors.HTTPError  # type: ignore[attr-defined, unused-ignore]

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise GraspError(f"{repository!r} is no repository's name: give OWNER/NAME")
    api = HfApi()
    try:
        try:
            if not api.model_info(repository).private and not public:
                raise GraspError(
                    f"{repository} is there, and all can see it: give another name, or --public if that is "
                    "meant"
                )
        except errors.RepositoryNotFoundError:
            api.create_repo(repository, private=not public)
        api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Upload a LoRA adapter with its card"
        )
    except (errors.HFValidationError, transport, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if not isinstance(error, errors.HfHubHTTPError | errors.HFValidationError):  # nobody answered
            raise GraspError(
                f"{repository} is not uploaded, as the model hub cannot be reached: check name and network "
                f"({reason})"
            ) from None
        raise GraspError(
            f"the model hub does not take {repository}: {reason}\n"
            "Log in with `hf auth login`, with a token that may write there"
        ) from None
    return f"{api.endpoint}/{repository}"


@cache
def _downloaded(adapter: str, repository: str, revision: str | None) -> Path:
    """Asked once in a process."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        downloaded = snapshot_download(
            repository,
            revision=revision,
            allow_patterns=["*.json", WEIGHTS_FILE],
            ignore_patterns=["tokenizer*", "vocab.json", "*/*"],
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        why = advice(error, asked_hub=True) or next(
            filter(None, str(error).strip().splitlines()), type(error).__name__
        )
        raise GraspError(f"{adapter} cannot be downloaded from the model hub: {why}") from None
    if missing := [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (Path(downloaded) / name).exists()]:
        raise GraspError(f"{adapter} on the model hub holds no adapter: {missing[0]} is missing")
    return Path(downloaded)
