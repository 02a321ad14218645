"""Debian packages without root: through apt with private lists, or from an archive on the web."""

import hashlib
import http.client
import logging
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from grasp_lora.errors import GraspError
from grasp_lora.version import __version__

__all__ = ["ARCHIVE", "Pinned", "download", "fetch"]

logger = logging.getLogger(__name__)

ARCHIVE = "https://snapshot.debian.org/archive/debian/20231007T024024Z"
"""Debian as it was on that day, for good. $GRASP_DEBIAN_ARCHIVE names another mirror."""
TIMEOUT = 900
"""Seconds for one command; apt has shorter timeouts of its own for each download."""
SILENCE = 60
"""Seconds after which an archive that sends nothing is given up."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """One file of Debian's archive, and no other."""

    path: str
    """From the archive's base address."""
    size: int
    """In bytes."""
    sha256: str


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


def fetch(file: Pinned, folder: Path) -> Path:
    """Download a file of Debian's archive into `folder`, from $GRASP_DEBIAN_ARCHIVE or else `ARCHIVE`.

    Proxies are those that the environment names.
    """
    base = os.environ.get("GRASP_DEBIAN_ARCHIVE") or ARCHIVE
    address = f"{base.rstrip('/')}/{file.path}"
    logger.info("downloading %s (%d MB)", address, round(file.size / 1e6))
    target = folder / Path(file.path).name
    digest, received = hashlib.sha256(), 0
    try:
        request = urllib.request.Request(address, headers={"User-Agent": f"grasp-lora/{__version__}"})
        with urllib.request.urlopen(request, timeout=SILENCE) as answer, target.open("wb") as out:
            # One byte too many is enough to know that it is another file.
            while block := answer.read(min(1 << 20, file.size + 1 - received)):
                out.write(block)
                digest.update(block)
                received += len(block)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise GraspError(f"{address}: {str(error) or type(error).__name__}") from None
    if digest.hexdigest() != file.sha256:
        raise GraspError(
            f"{address} is another file than it must be, or a part of it: the SHA-256 of its "
            f"{'more than ' if received > file.size else ''}{min(received, file.size):,} bytes is "
            f"{digest.hexdigest()}, not the {file.sha256} of {file.size:,} bytes"
        )
    return target


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
