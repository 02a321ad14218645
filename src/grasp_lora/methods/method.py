"""What a method is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from grasp_lora.config.tree import Config
from grasp_lora.methods.start import Start
from grasp_lora.ratios import PerAdapter
from grasp_lora.workspace.stage import Stage, behind

__all__ = ["Adapter", "Group", "Method", "Study"]

Adapter = Stage | Path | None
"""What makes an adapter, or where one is that the user gave; None is the bare backbone."""


@dataclass(frozen=True, slots=True)
class Method:
    """A way to get an adapter for the target language.

    Attributes:
        name: In configs and folders.
        title: Where people read.
        adapter: From the experiment and a seed to what makes the adapter.
        seeded: Whether it trains with each of the config's seeds; otherwise it is evaluated once.
        whole: Its cost is the stage that makes its adapter, though others share it.
        reference: What the other methods are compared with, where it is among them.
        dev: Whether dev rows score it: not where they were trained on.
        is_point: It is one ratio of several of the user's, to be looked at; the verdict does not choose among
            these, since that would be a search that nobody is charged for.
        control_of: The method that it asks a question about; nobody would deploy it.
        refit_of: The method that this is once more, on all labelled rows.
        corner: The ratios of the source's and the target's adapter at which training their sum leads to the
            same.
        in_all: `methods: all` has it.
        default: A config that names no methods has it.
    """

    name: str
    title: str
    adapter: Callable[[Start, int], Adapter]
    seeded: bool = True
    whole: bool = False
    reference: bool = False
    dev: bool = True
    is_point: bool = False
    control_of: str = ""
    refit_of: str = ""
    corner: PerAdapter | None = None
    in_all: bool = True
    default: bool = False

    def paid(self, made: Adapter) -> tuple[Stage, ...]:
        """The stages that are its own cost; what all methods share is not."""
        if self.whole:
            return (made,) if isinstance(made, Stage) else ()
        return tuple(stage for stage in behind(made) if stage.counted)


@dataclass(frozen=True, slots=True)
class Group:
    """Several methods under one name in a config, such as one for each of its sources.

    Attributes:
        name, in_all: As of a method, which it is listed with.
        methods: From the config to the methods.
    """

    name: str
    methods: Callable[[Config], Sequence[Method]]
    in_all: bool = True


@dataclass(frozen=True, slots=True)
class Study:
    """A question about the methods rather than one of them: it leaves a stage for the report to show.

    Attributes:
        name, in_all: As of a method, which it is listed with.
        stage: From the experiment to the stage.
        shown: As what the report stage is given it.
    """

    name: str
    stage: Callable[[Start], Stage]
    shown: str
    in_all: bool = True
