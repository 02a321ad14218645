"""Reading a config: a YAML file, the one it extends, `key=value` overrides, one message for all faults."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from grasp_lora.config.axes import AXES, points
from grasp_lora.config.explain import near_keys
from grasp_lora.config.tree import Config, MethodNames
from grasp_lora.errors import GraspError
from grasp_lora.tasks.task import Task
from grasp_lora.yamls import parse_yaml

__all__ = ["is_config", "load_config", "load_configs", "pair", "validated"]


def is_config(path: Path) -> bool:
    """Whether a file is a run's config: it has a key that a task never has, and none that only a task has."""
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, ValueError):  # GraspError is one, too
        return False
    if not isinstance(values, dict):
        return False
    of_config, of_task = {"extends", AXES, *Config.model_fields}, set(Task.model_fields)
    return bool(values.keys() & of_config - of_task) and not values.keys() & of_task - of_config


def load_config(
    path: Path, overrides: Iterable[str] | Mapping[str, Any] = (), methods: MethodNames | None = None
) -> Config:
    """Read a YAML file, apply overrides, validate.

    A file may start from another: `extends: other.yaml`, relative to itself. Relative paths inside an
    inline task, and of `target.tests`, are relative to the file, like those of a task.yaml.

    Args:
        overrides: `dotted.key=value` with the value in YAML, or dotted keys and values.
        methods: Which methods there are; None takes any name.

    Raises:
        GraspError: One message that lists every fault, or the file is one of several runs.
    """
    first, *others = load_configs(path, overrides, methods)
    if others:
        raise GraspError(
            f"the axes of {path} make {1 + len(others)} runs, {first.name} to {others[-1].name}: say which "
            "by one value for each axis, as target.language=ar"
        )
    return first


def load_configs(
    path: Path, overrides: Iterable[str] | Mapping[str, Any] = (), methods: MethodNames | None = None
) -> list[Config]:
    """The same of a file that may have `axes`: one config for each of their points, named after it.

    An override of an axis's key says which of its values, or which of its names, is the only one.
    """
    data = _read(path)
    pairs = list(overrides.items() if isinstance(overrides, Mapping) else map(pair, overrides))
    if (axes := data.pop(AXES, None)) is None:
        return [validated(_over(data, pairs), str(path), methods)]
    keys = [str(key) for key in axes] if isinstance(axes, Mapping) else []
    of_axes = {key: value for one in pairs for key, value in _each(*one, keys) if key in keys}
    found = []
    for label, values in points(axes, str(path), of_axes):
        own = _over(data, [*pairs, *values.items()])
        name = "-".join(filter(None, [str(own.get("name", "")), label]))
        found.append(validated({**own, "name": name}, f"{path} at {label or 'its axes'}", methods))
    return found


def _each(key: str, value: Any, keys: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """An override; where it is of several keys at once, and some of these are wanted, each of them."""
    if isinstance(value, Mapping) and any(one.startswith(f"{key}.") for one in keys):
        for below, part in value.items():
            yield from _each(f"{key}.{below}", part, keys)
    else:
        yield key, value


def _over(data: dict[str, Any], pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    for key, value in pairs:
        data = _merge(_spelled_out(data), _spelled_out(_nested(key.split("."), value)))
    return data


def validated(data: Any, where: str, methods: MethodNames | None = None) -> Config:
    """The config that the values make.

    Args:
        where: What the message calls them.

    Raises:
        GraspError: One message that lists every fault.
    """
    try:
        return Config.model_validate(data, context=methods)
    except ValidationError as error:
        faults = [f"  {place}: {reason}" for place, reason in _faults(error)]
        raise GraspError("\n".join([f"{where} is not a valid config:", *faults])) from error


def _spelled_out(data: dict[str, Any]) -> dict[str, Any]:
    """The data with `executor: ray` as a mapping, so that `executor.jobs=2` beside it adds to it."""
    executor = data.get("executor")
    return {**data, "executor": {"where": executor}} if isinstance(executor, str) else data


def pair(override: str) -> tuple[str, Any]:
    """Key and value of `dotted.key=value`.

    Raises:
        GraspError: It is not of that form.
    """
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise GraspError(f"override '{override}' is not of the form key=value")
    return key, parse_yaml(value, f"override {key}")


def _faults(error: ValidationError) -> list[tuple[str, str]]:
    """Key and reason of each fault. Of several kinds that a value may be of, the one that fits best."""
    found: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for fault in error.errors():
        keys = tuple(str(key) for key in fault["loc"] if not _KIND.fullmatch(str(key)))
        found.setdefault(keys, []).append(fault)
    deepest = [keys for keys in found if not any(k != keys and k[: len(keys)] == keys for k in found)]
    faults = []
    for keys in deepest:
        if keys[1:2] == ("training",) and keys[1:] in found:
            continue  # inherited: said once
        of_values = [fault for fault in found[keys] if fault["type"] == "value_error"]
        reasons = dict.fromkeys(map(_reason, of_values or found[keys]))
        faults.append((".".join(keys) or "config", ", or: ".join(reasons)))
    return faults


# How pydantic names one of the kinds that a value may be of, as if it were a key below it.
_KIND = re.compile(r"str|Task|.+\[.*", re.DOTALL)


def _reason(fault: Mapping[str, Any]) -> str:
    if fault["type"] == "extra_forbidden":
        near = near_keys(".".join(map(str, fault["loc"])))
        return f"unknown key; near it: {', '.join(near)}" if near else "unknown key"
    if fault["type"] == "missing":
        return "missing"
    whole = isinstance(fault["input"], Mapping)  # the message of a node says what of it is wrong
    message = fault["msg"].removeprefix("Value error, ")
    message = message.replace("a valid tuple", "a list").replace("Tuple should", "List should")
    return message if whole else f"{message} (got {fault['input']!r})"


def _read(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    try:
        own = path.resolve()
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError, RuntimeError) as error:  # no text, a NUL in a name, a loop of links
        raise GraspError(f"cannot read the config {path}: {error}") from error
    if own in seen:
        raise GraspError(f"{path} extends itself")
    parsed = parse_yaml(text, str(path))
    if not isinstance(parsed, dict):
        raise GraspError(f"{path} holds no mapping of keys to values")
    data: dict[str, Any] = parsed
    data = _with_absolute_paths(data, path.parent)
    if isinstance(source := data.get("source"), dict):
        data["source"] = _with_absolute_paths(source, path.parent)
    elif isinstance(source, list):
        data["source"] = [_with_absolute_paths(one, path.parent) for one in source]
    if (base := data.pop("extends", None)) is not None:
        data = _merge(_read(path.parent / str(base), (*seen, own)), data)
    return data


def _with_absolute_paths(node: Any, folder: Path) -> Any:
    """The node, with the paths of an inline task in it taken from the folder."""
    if not isinstance(node, dict):
        return node
    if isinstance(task := node.get("task"), dict) and isinstance(task.get("languages"), dict):
        node = {**node, "task": {**task, "languages": _absolute(task["languages"], folder)}}
    if isinstance(target := node.get("target"), dict) and isinstance(tests := target.get("tests"), dict):
        node = {**node, "target": {**target, **_absolute({"tests": tests}, folder)}}
    return node


def _absolute(languages: dict[str, Any], folder: Path) -> dict[str, Any]:
    def absolute(splits: Any) -> Any:
        if not isinstance(splits, dict):
            return splits  # the schema will say what is wrong with it
        return {split: str(folder.resolve() / str(path)) for split, path in splits.items()}

    return {language: absolute(splits) for language, splits in languages.items()}


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """The base with what `over` names in its place, key by key; an empty mapping replaces a full one."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, Mapping) and value:
            value = _merge(old, value)
        merged[key] = value
    return merged


def _nested(keys: list[str], value: Any) -> dict[str, Any]:
    return {keys[0]: value if len(keys) == 1 else _nested(keys[1:], value)}
