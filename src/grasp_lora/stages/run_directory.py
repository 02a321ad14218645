"""The run directory: stages that are written whole or not at all, and skipped when they are done.

A stage works in `NAME.partial` beside its folder; that is synced and renamed, and only then gets its
`done.json`: what went in, what came out, what it cost.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grasp_lora.cost import Cost, measure
from grasp_lora.errors import GraspError
from grasp_lora.run.environment import environment

__all__ = ["RunDirectory", "digest", "write_json"]

logger = logging.getLogger(__name__)


class RunDirectory:
    """Runs stages under `root`.

    Args:
        root: The run's folder; created when the first stage starts.
        config: The resolved config, written as `config.yaml`, with `env.json` (versions, hardware), whenever
            a stage starts: a command that only finds that something does not fit leaves both as they are.
        force: Replace finished stages whose inputs differ. What they hold is moved aside, not deleted.
        only: The stages that may be made; the others must be done, with the same inputs. None: all may.
    """

    def __init__(
        self,
        root: Path,
        *,
        config: str | None = None,
        force: bool = False,
        only: Collection[str] | None = None,
    ) -> None:
        self.root, self.config, self.force, self.only = root, config, force, only

    def path(self, name: str) -> Path:
        """The folder of a stage."""
        return self.root / name

    def stage(
        self, name: str, inputs: Mapping[str, Any], work: Callable[[Path], None], *, derived: bool = False
    ) -> Path:
        """Run `work(folder)` unless the stage is done with the same inputs; return its folder.

        Args:
            name: The stage's folder below the run's, such as "final/seed42".
            inputs: What the result depends on, as flat JSON values.
            derived: It only shows what other stages found, so it is made again without `force`.

        Raises:
            GraspError: The stage is done with other inputs, and the message names what changed; or it is not
                done and may not be made.
        """
        folder, allowed = self.path(name), self.only is None or name in self.only
        wanted = json.loads(json.dumps(dict(inputs)))
        done = _read_done(folder)
        if done is not None:
            changed = _changes(done["inputs"], wanted)
            if not changed:
                logger.info("%s: done, skipped", name)
                return folder
            if not (allowed and (self.force or derived)):
                again = (
                    "--force to make it again (the old one is moved aside)."
                    if allowed
                    else "make that stage again first, with --force."
                )
                raise GraspError(
                    f"{folder} was made with other settings:\n  " + "\n  ".join(changed) + "\n"
                    f"Give the run another name, or {again}"
                )
        elif not allowed:
            self._finished(name)
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)  # ours: left by a killed run
        partial.mkdir(parents=True)
        self._describe()
        logger.info("%s: started", name)
        with measure() as cost:
            work(partial)
        outputs = {str(p.relative_to(partial)): digest(p) for p in sorted(partial.rglob("*")) if p.is_file()}
        _sync(partial)
        _move_aside(folder)
        partial.rename(folder)
        write_json(folder / "done.json", {"inputs": wanted, **asdict(cost), "outputs": outputs})
        return folder

    def output(self, name: str, file: str) -> str:
        """The hash of a finished stage's file: the input of whoever reads it.

        Raises:
            GraspError: The stage is not done; the message says so.
        """
        return str(self._finished(name)["outputs"][file])

    def made(self, name: str) -> str:
        """The hash of all that is known of a finished stage, its cost included: another one when made again.

        Raises:
            GraspError: The stage is not done; the message says so.
        """
        self._finished(name)
        return digest(self.path(name) / "done.json")

    def cost(self, name: str) -> dict[str, Any]:
        """What a finished stage took, by the names of `grasp_lora.cost.Cost`; zeros where unknown."""
        done = _read_done(self.path(name)) or {}
        return {key: done.get(key, 0) for key in asdict(Cost())}

    def _finished(self, name: str) -> dict[str, Any]:
        done = _read_done(self.path(name))
        if done is None:
            raise GraspError(f"{self.path(name)} is missing: run that stage first, or `grasp run`")
        return done

    def _describe(self) -> None:
        if self.config is not None:
            (self.root / "config.yaml").write_text(self.config, encoding="utf-8")
            write_json(self.root / "env.json", environment())


def _read_done(folder: Path) -> dict[str, Any] | None:
    try:
        done: dict[str, Any] = json.loads((folder / "done.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise GraspError(
            f"{folder / 'done.json'} is damaged: {error}; remove it to make the stage again"
        ) from error
    return done


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    missing = object()
    keys = sorted(k for k in {*old, *new} if old.get(k, missing) != new.get(k, missing))
    return [f"{key}: was {old.get(key, 'absent')}, now {new.get(key, 'absent')}" for key in keys]


def _move_aside(folder: Path) -> None:
    if folder.exists():
        number = 1
        while (aside := folder.with_name(f"{folder.name}.replaced-{number}")).exists():
            number += 1
        folder.rename(aside)
        logger.warning("what was in %s is now in %s", folder, aside.name)


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is either whole or absent."""
    sibling = path.with_name(path.name + ".partial")
    with sibling.open("w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    sibling.replace(path)


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
