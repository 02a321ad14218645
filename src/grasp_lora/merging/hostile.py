"""Settings of an adapter that would make PEFT do more than build layers: import a module, open another file,
or match for ever.

An adapter's config comes from whoever made the adapter. What is refused here is refused by whatever reads it:
PEFT versions differ in what they stop themselves.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from grasp_lora.errors import GraspError

__all__ = ["refuse_hostile"]

LIBRARY = re.compile(r"transformers(\.\w+)*")
MEGATRON = "megatron.core"
"""What PEFT writes as `megatron_core` into every config; it is imported only where `megatron_config`
is set."""
# PEFT opens these with torch.load, or takes more adapters from there.
OPENED = {"cache_file", "covariance_file", "prompt_tuning_init_state_dict_path", "loftq_config_path"}
PATTERNS = ("rank_pattern", "alpha_pattern")
# PEFT takes these for regular expressions where they are texts, and the keys of patterns always.
EXPRESSIONS = ("target_modules", "exclude_modules", "layers_pattern")
MAX_EXPRESSION, MAX_REPEATS = 1000, 4
MAX_CHOICES = 8  # of what may be there or not, and groups with alternatives: each doubles the ways to match


def refuse_hostile(where: str, settings: Mapping[str, Any]) -> None:
    """Look at a config as it was read.

    Args:
        where: What the message calls it.

    Raises:
        GraspError: A key would make PEFT import a module that is none of transformers', or open a file; or a
            regular expression is none, or could take for ever.
    """
    _refuse_imports(where, settings)
    for key, value in _inside(settings):
        if key in OPENED and value is not None:
            raise GraspError(f"{where} sets {key} to {value!r}, which PEFT would open: set it to null there")
    for key in PATTERNS:
        pattern = settings.get(key) or {}
        if not isinstance(pattern, dict) or not all(_is_number(value) for value in pattern.values()):
            raise GraspError(f"{where} has a {key} that is no mapping of modules to numbers: {pattern!r}")
        for expression in pattern:
            _refuse_slow(where, key, expression)
    for key in EXPRESSIONS:
        if isinstance(expression := settings.get(key), str):
            _refuse_slow(where, key, expression)


def _refuse_imports(where: str, settings: Mapping[str, Any]) -> None:
    if (mapping := settings.get("auto_mapping")) is not None:
        named = mapping if isinstance(mapping, dict) else {}
        library, of_class = named.get("parent_library"), named.get("base_model_class")
        if not (isinstance(library, str) and LIBRARY.fullmatch(library) and _is_name(of_class)):
            raise GraspError(
                f"{where} sets auto_mapping to {mapping!r}, which would make PEFT import that: only a "
                "class of transformers may stand there, or null"
            )
    if (core := settings.get("megatron_core")) not in (None, MEGATRON) or settings.get("megatron_config"):
        raise GraspError(
            f"{where} sets megatron_core to {core!r} and megatron_config to "
            f"{settings.get('megatron_config')!r}, which would make PEFT import that: set both to null there"
        )


def _inside(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every key at any depth."""
    waiting: list[Any] = [settings]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield from one.items()
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _refuse_slow(where: str, key: str, expression: str) -> None:
    """A group that is repeated as a whole may be matched in exponentially many ways, and every further `.*`
    makes a power of the length more of them.
    """
    try:
        re.compile(expression)
    except (re.error, RecursionError, OverflowError) as error:
        raise GraspError(f"{where} has a {key} that is no regular expression ({error})") from None
    plain = re.sub(r"\\.|\[\^?\]?[^\]]*\]", "x", expression)
    repeats = len(re.findall(r"[*+]|\{\d*,", plain))
    # A comment of the verbose mode may stand between a group and what repeats it.
    whole = re.search(r"\)\s*[*+{]|\(\?[a-z-]*x", plain)
    choices = len(re.findall(r"(?<!\()\?|\|[^)]*\)\(", plain)) + len(re.findall(r"\([^()]*\|", plain))
    if len(expression) > MAX_EXPRESSION or repeats > MAX_REPEATS or whole or choices > MAX_CHOICES:
        raise GraspError(
            f"{where} has a {key} that could take for ever to match, {expression!r}: name the modules in "
            "a list"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.isidentifier()
