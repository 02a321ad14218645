"""Data sets on the model hub, as Parquet files: no data set script is ever run."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from grasp_lora.data.sources.patterns import SPLITS
from grasp_lora.errors import GraspError
from grasp_lora.tasks.files import need_pyarrow
from grasp_lora.tasks.task import Split

__all__ = ["NoConversion", "download", "download_archive", "tables"]

logger = logging.getLogger(__name__)


class NoConversion(Exception):
    """The repository has no revision of this name: the hub did not convert it to Parquet."""


def download(repository: str, revision: str, configs: Sequence[str]) -> Path:
    """Parquet files of some configs: `CONFIG/SPLIT/*.parquet` in a folder named after the commit.

    What is in the hub's cache already is not downloaded again, and works offline.

    Raises:
        NoConversion: There is no such revision.
        GraspError: The hub cannot be reached, or refuses, or what it has could not be read here.
    """
    need_pyarrow(f"the hub's data set {repository}")
    from huggingface_hub import errors, snapshot_download
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of its HTTP library

    logger.info("reading %s (%s) from the hub", repository, revision)
    try:
        folder = snapshot_download(
            repository,
            repo_type="dataset",
            revision=revision,
            allow_patterns=[f"{config}/*.parquet" for config in configs],
        )
    except errors.RevisionNotFoundError:
        raise NoConversion(f"{repository} has no revision {revision}") from None
    except (OSError, errors.EntryNotFoundError, HTTPError) as error:
        raise _unreachable(repository, error) from None
    return Path(folder)


def download_archive(repository: str, path: str) -> Path:
    """One file of the repository's main revision."""
    from huggingface_hub import errors, hf_hub_download
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    logger.info("reading %s of %s from the hub", path, repository)
    try:
        return Path(hf_hub_download(repository, path, repo_type="dataset"))
    except (OSError, errors.EntryNotFoundError, HTTPError) as error:
        raise _unreachable(repository, error) from None


def tables(folder: Path, configs: Mapping[str, str]) -> Iterator[tuple[str, Split, Path]]:
    """(language, split, Parquet file) of what `download` left, the split by our names.

    Args:
        folder: As from `download`.
        configs: Language code -> the hub's config.
    """
    for code, config in configs.items():
        parts = sorted((folder / config).glob("*/*.parquet"))
        for path in parts:
            name = path.parent.name
            if name.startswith("partial-"):
                raise GraspError(
                    f"{path} is only the beginning of the data: the hub converts 5 GB of a split. "
                    "Use the original files, with --from"
                )
            if name in SPLITS:
                yield code, SPLITS[name], path


def _unreachable(repository: str, error: Exception) -> GraspError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return GraspError(f"the hub's data set {repository} could not be read: {lines[0]}")
