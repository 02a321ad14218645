"""Debian packages without root: downloaded through apt with private lists."""

import logging
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from grasp_lora.errors import GraspError

__all__ = ["download"]

logger = logging.getLogger(__name__)

TIMEOUT = 900
"""Seconds for one command; apt has shorter timeouts of its own for each download."""


def download(package: str, folder: Path) -> Path:
    """Download a package's .deb through apt, without root, into `folder`, which must be empty.

    The sources, keys and settings are the system's, but its package lists and caches are neither used nor
    changed: apt gets private ones in `folder`.
    """
    if shutil.which("apt-get") is None:
        raise GraspError("there is no apt-get here")
    environment = {**os.environ, "APT_CONFIG": str(_configure(folder)), "LC_ALL": "C.UTF-8"}
    downloads = folder / "downloads"
    downloads.mkdir()
    logger.info("reading apt's package lists (into a private folder)")
    # One unreachable source among several is no reason to stop: the download tells whether it was needed.
    failure = ""
    try:
        _run(["apt-get", "-q", "update"], folder, environment)
    except GraspError as error:
        failure = f"{error}\n"
    logger.info("downloading %s", package)
    try:
        _run(["apt-get", "-q", "download", package], downloads, environment)
    except GraspError as error:
        raise GraspError(f"{failure}{error}") from None
    return next(downloads.glob("*.deb"))


def _configure(folder: Path) -> Path:
    """An apt configuration with everything that apt writes under `folder`.

    apt reads $APT_CONFIG, then the system's apt.conf.d, then Dir::Etc::main. That last file becomes ours and
    includes the system's: what it clears (hooks that act on the system's files) stays cleared, and all else
    that an administrator or user set, such as a proxy, holds.
    """
    status = Path("/var/lib/dpkg/status")
    if not status.is_file():
        status = folder / "status"
        status.touch()
    (folder / "state" / "lists" / "partial").mkdir(parents=True)
    (folder / "cache" / "archives" / "partial").mkdir(parents=True)
    system = Path("/etc/apt/apt.conf")
    main = folder / "main.conf"
    main.write_text(
        (f'#include "{system}";\n' if system.is_file() else "")
        + "#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n"
        + "#clear APT::Update::Post-Invoke-Success;\n"
        + f'Dir::State "{folder / "state"}";\nDir::State::lists "{folder / "state" / "lists"}";\n'
        + f'Dir::State::status "{status}";\nDir::Cache "{folder / "cache"}";\n'
        + f'Dir::Cache::archives "{folder / "cache" / "archives"}";\n'
        # No change to the user _apt, who cannot write here.
        + 'APT::Sandbox::User "root";\n'
        + 'Acquire::Languages "none";\nAcquire::Retries "2";\nAPT::Update::Error-Mode "any";\n',
        encoding="utf-8",
    )
    first = folder / "first.conf"
    own = os.environ.get("APT_CONFIG")
    first.write_text(
        (f'#include "{own}";\n' if own else "") + f'Dir::Etc::main "{main}";\n', encoding="utf-8"
    )
    return first


def _run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
    """Run a command; its complaints become an error."""
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, timeout=TIMEOUT, capture_output=True, text=True, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GraspError(f"`{' '.join(command)}` failed: {error}") from None
    if done.returncode:
        complaints = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise GraspError(f"`{' '.join(command)}` failed with exit code {done.returncode}:\n{complaints}")
