"""The run directory: stages that are written whole or not at all, and skipped when they are done.

A stage works in `NAME.partial` beside its folder; that is synced and renamed, and only then gets its
`done.json`: what it was given, what came out, what it cost.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grasp_lora.cost import measure
from grasp_lora.errors import GraspError
from grasp_lora.workspace.environment import environment
from grasp_lora.workspace.files import write_json
from grasp_lora.workspace.lock import hold
from grasp_lora.workspace.records import CONFIG_FILE, ENVIRONMENT_FILE, LOGS, Done, LearnedRatio, RunPlan
from grasp_lora.workspace.stage import Stage, fingerprint, flat, resolve

if TYPE_CHECKING:
    from grasp_lora.workspace.resources import Resources

__all__ = ["PARTIAL", "REPLACED", "RunDirectory", "digest"]

logger = logging.getLogger(__name__)

FORMAT = 2
PARTIAL = ".partial"
REPLACED = ".replaced-"  # and a number


class RunDirectory:
    """Makes stages under `root`.

    Args:
        root: The run's folder; created when the first stage starts.
        resources: What the work of stages may use.
        config: The resolved config, written beside versions and hardware whenever a stage starts: a command
            that only finds that something does not fit leaves both as they are.
        force: Replace finished stages whose inputs differ. What they hold is moved aside, not deleted.
        only: The stages that may be made; the others must be done, with the same inputs. None: all may.

    Attributes:
        plan: What the whole run will make, once that is known: written beside the config, for who watches.
    """

    def __init__(
        self,
        root: Path,
        resources: "Resources",
        *,
        config: str | None = None,
        force: bool = False,
        only: Collection[str] | None = None,
    ) -> None:
        self.root, self.resources = root, resources
        self.config, self.force, self.only = config, force, only
        self.plan: RunPlan | None = None

    def path(self, name: str) -> Path:
        """The folder of a stage."""
        return self.root / name

    def make(self, stage: Stage, twins: dict[str, Path] | None = None) -> Path:
        """Do the stage's work unless it is done with the same inputs; return its folder.

        Args:
            twins: Folders of finished stages by what they do and were given, in whatever run: one that would
                be the same is copied. The stage is added.

        Raises:
            GraspError: It is done with other inputs, and the message names what changed; or it is not done
                and may not be made, or another process is making it.
        """
        inputs, folder = self._inputs(stage), self.path(stage.name)
        twin = hashlib.sha256(json.dumps([stage.work.name, inputs]).encode()).hexdigest()
        twins = {} if twins is None else twins
        if not self._is_done(stage, inputs):
            with self._start(folder) as partial:
                new = twin not in twins
                done = self._work(stage, partial, inputs) if new else _copy(stage, twins[twin], partial)
                _sync(partial)
                _move_aside(folder)
                partial.rename(folder)
                done.write(folder)
        twins.setdefault(twin, folder)
        return folder

    def done(self, name: str) -> Done:
        """What is known of a finished stage.

        Raises:
            GraspError: It is not done; the message says so.
        """
        if not self.is_done(name):
            raise GraspError(f"{self.path(name)} is missing: run that stage first, or `grasp run`")
        return Done.read(self.path(name))

    def is_done(self, name: str) -> bool:
        """Whether the stage is finished, with whatever inputs."""
        return (self.path(name) / Done.FILE).exists()

    def same_inputs(self, stage: Stage) -> bool:
        """Whether a finished stage, and all that it needs, was made with the same inputs."""
        return self.done(stage.name).inputs == self._inputs(stage)

    def _inputs(self, stage: Stage) -> dict[str, Any]:
        found = {key: fingerprint(value, self) for key, value in stage.given.items()}
        inputs: dict[str, Any] = json.loads(json.dumps(flat(found)))
        return inputs

    def chosen(self, name: str) -> float:
        """What a finished stage chose among its points."""
        return LearnedRatio.read(self.path(name)).found

    def results(self, name: str) -> str:
        """The hash of what a finished stage found: the input of whoever reads it. Its logs do not count."""
        outputs = self.done(name).outputs.items()
        found = [f"{file} {sha256}" for file, sha256 in outputs if Path(file).parts[0] not in LOGS]
        return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()

    def made(self, name: str) -> str:
        """The hash of all that is known of a finished stage, its cost included: another one when made
        again.
        """
        self.done(name)
        return digest(self.path(name) / Done.FILE)

    def _is_done(self, stage: Stage, inputs: Mapping[str, Any]) -> bool:
        allowed, folder = self.only is None or stage.name in self.only, self.path(stage.name)
        if not self.is_done(stage.name):
            if not allowed:
                self.done(stage.name)
            return False
        if not (wrong := _wrong(folder, inputs)):
            logger.info("%s: done, skipped", stage.name)
            return True
        if allowed and (self.force or stage.derived):
            return False
        again = (
            "--force to make it again (the old one is moved aside)."
            if allowed
            else "make that stage again first, with --force."
        )
        raise GraspError(f"{folder} {wrong}Give the run another name, or {again}")

    def _work(self, stage: Stage, partial: Path, inputs: Mapping[str, Any]) -> Done:
        from grasp_lora.workspace.card import write_card  # whose inputs know what a run directory is

        logger.info("%s: started", stage.name)
        self.resources.commits.clear()
        with measure() as cost:
            stage.work.run(self.resources, partial, **resolve(stage.given, self))
        write_card(partial, stage, self)
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        outputs = {str(path.relative_to(partial)): digest(path) for path in files}
        done = Done(**asdict(cost), work=stage.work.name, format=FORMAT, inputs=inputs, outputs=outputs)
        done.commits = dict(self.resources.commits)
        return done

    @contextmanager
    def _start(self, folder: Path) -> Iterator[Path]:
        """An empty folder beside it to work in, which nobody else has."""
        partial = folder.with_name(folder.name + PARTIAL)
        with ExitStack() as held:
            try:
                if not _take(partial, held):
                    raise GraspError(
                        f"another process is making {folder}: wait until it has ended, or end it"
                    )
                self._describe()
            except OSError as error:
                raise GraspError(f"cannot write {partial}: {error.strerror}") from None
            yield partial

    def _describe(self) -> None:
        if self.config is not None:
            (self.root / CONFIG_FILE).write_text(self.config, encoding="utf-8")
            write_json(self.root / ENVIRONMENT_FILE, environment())
        if self.plan is not None:
            self.plan.write(self.root)


def _take(partial: Path, held: ExitStack) -> bool:
    """Make the folder, empty, and hold it as long as `held` does; False where another process has it.

    What a killed run left there is removed only while it is held: so nobody removes what another has begun.
    """
    try:
        with hold(partial) as ours:
            if ours is False:
                return False
            shutil.rmtree(partial)
    except FileNotFoundError:
        pass
    try:
        partial.mkdir(parents=True)
        return held.enter_context(hold(partial)) is not False
    except (FileExistsError, FileNotFoundError):
        return False


def _copy(stage: Stage, twin: Path, partial: Path) -> Done:
    logger.info("%s: as %s, copied", stage.name, twin)
    shutil.copytree(twin, partial, dirs_exist_ok=True, ignore=lambda folder, _: [Done.FILE])
    return Done.read(twin)


def _wrong(folder: Path, inputs: Mapping[str, Any]) -> str:
    """Why a finished stage is not what these inputs would make; empty where it is."""
    try:
        done = Done.read(folder)
    except GraspError:
        return f"has a damaged {Done.FILE}. "
    if done.format != FORMAT:
        return "was made by an earlier version, which kept other notes of what it was given. "
    if changed := _changes(done.inputs, inputs):
        return "was made with other settings:\n  " + "\n  ".join(changed) + "\n"
    for file, sha256 in done.outputs.items():
        if Path(file).parts[0] not in LOGS and not _is(folder / file, sha256):
            return f"is damaged: {file} is missing or was changed. "
    return ""


def _is(path: Path, sha256: str) -> bool:
    return path.is_file() and digest(path) == sha256


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    missing = object()
    keys = sorted(k for k in {*old, *new} if old.get(k, missing) != new.get(k, missing))
    return [_change(key, old.get(key, "absent"), new.get(key, "absent")) for key in keys]


def _change(key: str, old: Any, new: Any) -> str:
    if all(isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) for value in (old, new)):
        return f"{key}: was another; its contents changed"
    return f"{key}: was {old}, now {new}"


def _move_aside(folder: Path) -> None:
    if folder.exists():
        number = 1
        while (aside := folder.with_name(f"{folder.name}{REPLACED}{number}")).exists():
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


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
