"""The run directory: stages that are written whole or not at all, and skipped when they are done.

A stage works in `NAME.partial` beside its folder; that is synced and renamed, and only then gets its
`done.json`: what it was given, what came out, what it cost. What a killed process left goes on from its
checkpoint where it is the same stage.
"""

import hashlib
import json
import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grasp_lora.cost import measure
from grasp_lora.errors import GraspError
from grasp_lora.lm.logs import CHECKPOINTS_FOLDER
from grasp_lora.paths import digest, sync
from grasp_lora.ratios import PruneRatio
from grasp_lora.workspace.changes import FORMAT, wrong_with
from grasp_lora.workspace.claims import gather
from grasp_lora.workspace.described import describe
from grasp_lora.workspace.files import empty
from grasp_lora.workspace.lock import hold
from grasp_lora.workspace.records import (
    LOGS,
    SURVIVOR_FOLDER,
    Begun,
    Done,
    LearnedRatio,
    Maker,
    RunPlan,
)
from grasp_lora.workspace.stage import Stage, fingerprint, flat, resolve
from grasp_lora.workspace.unfinished import (
    PARTIAL,
    begun_in,
    forget_unfinished,
    is_result,
    move_aside,
    take,
    writing,
)

if TYPE_CHECKING:
    from grasp_lora.workspace.resources import Resources

__all__ = ["RunDirectory"]

logger = logging.getLogger(__name__)

Elsewhere = Callable[["RunDirectory", Stage, Path, Mapping[str, Any]], Done]


class RunDirectory:
    """Makes stages under `root`.

    Args:
        root: The run's folder; created when the first stage starts.
        resources: What the work of stages may use.
        config: The resolved config, written beside versions and hardware whenever a stage starts: a command
            that only finds that something does not fit leaves both as they are. See `restore`.
        force: Replace finished stages whose inputs differ. What they hold is moved aside, not deleted.
        only: The stages that may be made; the others must be done, with the same inputs. None: all may.

    Attributes:
        plan: What the whole run will make, once that is known: written beside the config, for who watches.
        elsewhere: Does `work` in this process's stead, as in another process.
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
        self.elsewhere: Elsewhere | None = None
        self._held = False
        self._describing = threading.Lock()  # several stages may start at a time

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within, no other process makes stages of the run.

        Raises:
            GraspError: Another one does; the message says which.
        """
        if self._held:
            yield
            return
        with ExitStack() as stack:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                if stack.enter_context(hold(self.root.resolve())) is False:
                    raise GraspError(
                        f"{self.root} is being made by {_maker(self.root)}: wait until it has ended"
                    )
            except OSError as error:
                raise _cannot_write(self.root, error) from None
            with suppress(OSError):  # where nothing can be written, nothing will be made
                since = time.strftime("%Y-%m-%d %H:%M:%S")
                Maker(os.getpid(), socket.gethostname(), since).write(self.root)
            self._held = True
            try:
                yield
            finally:
                self._held = False
                with suppress(OSError):
                    (self.root / Maker.FILE).unlink()

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
        inputs, folder = self.inputs(stage), self.path(stage.name)
        twin, twins = _key(stage, inputs), {} if twins is None else twins
        self.resources.shown.begin(stage.name)
        if not self._is_done(stage, inputs):
            with self.held():
                if not self._is_done(stage, inputs):  # whoever held it until now may have made it
                    self._make(stage, inputs, twins.get(twin))
        forget_unfinished(folder)
        twins.setdefault(twin, folder)
        return folder

    def restore(self) -> None:
        """Write what the folder says of the run again where that was lost: once all its stages are done.

        Raises:
            GraspError: It cannot be written.
        """
        try:
            describe(self.root, self.config, self.plan, lost=True)
        except OSError as error:
            raise _cannot_write(self.root, error) from None

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

    def inputs(self, stage: Stage) -> dict[str, Any]:
        """What it is given, flat, as `done.json` has it; stages that it needs must be done."""
        found = {key: fingerprint(value, self) for key, value in stage.given.items()}
        inputs: dict[str, Any] = json.loads(json.dumps(flat(found)))
        return inputs

    def key(self, stage: Stage) -> str:
        """Equal for stages that do the same with the same inputs; what it needs must be done."""
        return _key(stage, self.inputs(stage))

    def chosen(self, name: str) -> PruneRatio:
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
        if not (wrong := wrong_with(folder, inputs)):
            logger.info("%s: done, skipped", self.resources.shown.title)
            return True
        if allowed and (self.force or stage.derived):
            return False
        again = (
            "--force to make it again (the old one is moved aside)."
            if allowed
            else "make that stage again first, with --force."
        )
        raise GraspError(f"{folder} {wrong.why}Give the run another name, or {again}")

    def _make(self, stage: Stage, inputs: Mapping[str, Any], twin: Path | None) -> None:
        folder = self.path(stage.name)
        with self._start(stage, inputs) as partial, writing(stage.name):
            if twin:
                done = self._copy(twin, partial)
            elif self.elsewhere is not None:
                done = self.elsewhere(self, stage, partial, inputs)
            else:
                done = self.work(stage, partial, inputs)
            sync(partial)
            move_aside(folder)
            partial.rename(folder)
            done.write(folder)

    def work(self, stage: Stage, partial: Path, inputs: Mapping[str, Any]) -> Done:
        """Do the stage's work, in this process and in that folder; what is known of it then."""
        from grasp_lora.workspace.card import write_card  # whose inputs know what a run directory is

        shown = self.resources.shown
        shown.say("started")
        self.resources.commits.clear()
        self.resources.run_name = f"{self.root.name}/{stage.name}"
        with measure() as cost, shown.watched(cost=cost):
            stage.work.run(self.resources, partial, **resolve(stage.given, self))
        write_card(partial, stage, self)
        files = [path.relative_to(partial) for path in sorted(partial.rglob("*")) if path.is_file()]
        outputs = {str(path): digest(partial / path) for path in files if is_result(path)}
        shown.end(cost.seconds)
        done = Done(**asdict(cost), work=stage.work.name, format=FORMAT, inputs=inputs, outputs=outputs)
        done.commits = dict(self.resources.commits)
        return done

    def _copy(self, twin: Path, partial: Path) -> Done:
        logger.info("%s: as %s, copied", self.resources.shown.title, twin)
        empty(partial, keep=[Begun.FILE])  # of an attempt before it had a twin
        left_out = [Done.FILE, Begun.FILE, CHECKPOINTS_FOLDER, SURVIVOR_FOLDER]
        shutil.copytree(twin, partial, dirs_exist_ok=True, ignore=lambda folder, _: left_out)
        return Done.read(twin)

    @contextmanager
    def _start(self, stage: Stage, inputs: Mapping[str, Any]) -> Iterator[Path]:
        """A folder beside it to work in, which nobody else has: empty, or with what the same stage left."""
        folder, begun = self.path(stage.name), Begun(stage.work.name, FORMAT, inputs)
        partial = folder.with_name(folder.name + PARTIAL)
        with ExitStack() as held:
            try:
                if begun_in(folder) == begun and not partial.exists():  # it was ended between name and record
                    folder.rename(partial)
                if not take(partial, begun, held):
                    raise GraspError(
                        f"another process is making {folder}: wait until it has ended, or end it"
                    )
                gather(partial)
                if not (stage.work.resumes and begun_in(partial) == begun):
                    empty(partial, keep=[Begun.FILE])  # which says to the end that the rest is ours
                begun.write(partial)
                with self._describing:
                    describe(self.root, self.config, self.plan)
            except OSError as error:
                raise _cannot_write(partial, error) from None
            yield partial


def _key(stage: Stage, inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([stage.work.name, inputs]).encode()).hexdigest()


def _cannot_write(folder: Path, error: OSError) -> GraspError:
    """What is in the way is named, which may be above the folder."""
    at, why = Path(error.filename or folder), error.strerror
    if isinstance(error, FileExistsError | NotADirectoryError):
        ways = [path for path in (at, *at.parents) if os.path.lexists(path) and not path.is_dir()]
        at, why = (ways or [at])[-1], "a file, or a link to nothing, has such a name"
    return GraspError(f"cannot write {at}: {why}")


def _maker(root: Path) -> str:
    try:
        return str(Maker.read(root))
    except GraspError:
        return "another process"
