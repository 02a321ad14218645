"""What would stop a run after hours of training is said before it."""

from collections.abc import Iterable, Mapping, Sequence

from grasp_lora.config.tree import Config
from grasp_lora.errors import GraspError
from grasp_lora.merging.reading import CONFIG_FILE, read_adapters, same_base_model
from grasp_lora.methods.start import Start
from grasp_lora.tasks.task import check_disjoint
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.resources import Model, Rows
from grasp_lora.workspace.stage import Input, Stage, inside, resolve

__all__ = ["check_adapters", "check_ready"]


def check_ready(x: Start, stages: Sequence[Stage], run: RunDirectory) -> None:
    """Look at the given adapters, the rows, and what each stage's work needs.

    Raises:
        GraspError: An adapter is missing or of another model, splits overlap or are too small, a learning run
            is shorter than a round, or something is not installed.
    """
    check_adapters(x)
    _check_rows(x.config, stages, run)
    for stage in stages:
        try:
            known = {k: v for k, v in stage.given.items() if not (isinstance(v, Input) and v.stages)}
            stage.work.ready(run.resources, **resolve(known, run))
        except GraspError as error:
            raise GraspError(f"{stage.name}: {error}") from None


def check_adapters(x: Start) -> None:
    """Look at every adapter that the config names, before anything is trained.

    Raises:
        GraspError: One is missing, cannot be merged, or was trained on another model than the config's.
    """
    config = x.config
    given = {"source.adapter": config.source.adapter, "target.adapter": config.target.adapter}
    given |= {f"lorahub.adapters.{name}": folder for name, folder in config.lorahub.adapters.items()}
    found = {key: folder for key, folder in given.items() if folder}
    for adapter in read_adapters(found) if found else ():
        base = adapter.config.base_model_name_or_path
        if base and not _is_backbone(base, x.model):
            raise GraspError(
                f"{adapter.name}: {found[adapter.name]} was trained on {base!r}, and backbone is "
                f"{config.backbone!r}. If they are the same model, write its name into the adapter's "
                f"{CONFIG_FILE} (base_model_name_or_path)"
            )


def _is_backbone(base: str, model: Model) -> bool:
    return same_base_model(base, model.name) or same_base_model(base, model.path)


def _check_rows(config: Config, stages: Sequence[Stage], run: RunDirectory) -> None:
    """Nothing that is trained on is held out anywhere, in either language, and the held-out splits are
    apart.
    """
    rows = _all_rows(stages)
    held_out = {
        split: run.resources.examples(found)
        for (language, split), found in rows.items()
        if language == config.target.language and split != "train"
    }
    for side, language in (("target", config.target.language), ("source", config.source.language)):
        if (trained := rows.get((language, "train"))) is not None:
            check_disjoint({f"{side} train": run.resources.examples(trained), **held_out})


def _all_rows(stages: Iterable[Stage]) -> Mapping[tuple[str, str], Rows]:
    """Every split that a stage is given, whole."""
    found = (value for stage in stages for value in inside(stage.given) if isinstance(value, Rows))
    return {(rows.language, rows.split): Rows(rows.task, rows.language, rows.split) for rows in found}
