"""What a YAML file says: its configs, whose methods are known ones, and where they start from."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from grasp_lora.config.loading import load_config, load_configs, validated
from grasp_lora.config.tree import Config
from grasp_lora.data.find import find_task
from grasp_lora.errors import GraspError
from grasp_lora.methods.plan import NAMES
from grasp_lora.methods.start import Start
from grasp_lora.tasks.task import Task

__all__ = ["Named", "read_config", "read_configs", "start"]

Named = Config | str | Path


def read_config(config: Named, overrides: Iterable[str] | Mapping[str, Any] = ()) -> Config:
    """The config of a YAML file, or a config, whose methods are known ones.

    Raises:
        GraspError: One message that lists every fault.
    """
    if not isinstance(config, Config):
        return load_config(Path(config), overrides, NAMES)
    if overrides:
        raise GraspError("a Config takes no overrides: change it with model_copy, or give the YAML file")
    return validated(config.model_dump(), "the Config", NAMES)  # model_copy looks at nothing


def read_configs(config: Named, overrides: Iterable[str] | Mapping[str, Any] = ()) -> list[Config]:
    """The same of a YAML file with `axes`, which makes several."""
    if isinstance(config, Config):
        return [read_config(config, overrides)]
    return load_configs(Path(config), overrides, NAMES)


def start(config: Named, overrides: Iterable[str] | Mapping[str, Any] = ()) -> Start:
    """A config with its tasks, each of which is prepared if it has a card and is not there yet."""
    read = read_config(config, overrides)
    target, task = read.target, _task(read.task, read.target.language)
    if target.tests:
        for name, path in target.tests.items():
            if not path.is_file():
                raise GraspError(f"target.tests.{name}: {path} does not exist, or is no file")
        splits = task.languages.get(target.language, {}) | {f"tests/{k}": p for k, p in target.tests.items()}
        task = task.model_copy(update={"languages": task.languages | {target.language: splits}})
    return Start(
        read,
        task,
        {side.label: _task(side.task, side.language) for side in read.sources if side.task is not None},
    )


def _task(task: Task | str, language: str) -> Task:
    return task if isinstance(task, Task) else find_task(task, language)
