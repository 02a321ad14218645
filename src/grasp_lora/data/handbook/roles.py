"""Splits of a parallel corpus: one role per section for all languages."""

import itertools
import random
from collections.abc import Mapping, Set
from dataclasses import dataclass

from grasp_lora.errors import GraspError
from grasp_lora.tasks.task import Split

__all__ = ["Sizes", "assign_roles"]

HELD_OUT: tuple[Split, ...] = ("dev", "micro_dev", "test")
ROLES: tuple[Split, ...] = ("train", *HELD_OUT)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Rows per split of a target language; the defaults are those of the paper's tasks."""

    train: int = 50
    dev: int = 50
    micro_dev: int = 16
    test: int = 100


def assign_roles(
    sections: Mapping[str, Set[str]], sizes: Sizes, generator: random.Random
) -> dict[str, dict[Split, list[str]]]:
    """Give each section at most one role in all languages, and every language its splits.

    The sections that most languages have are held out first, so that the languages share them and few are
    lost for the source language's training. A language with too few sections gets a smaller test set.

    Args:
        sections: Target language -> the ids of the sections that it has.
        sizes: Rows that each language gets.
        generator: Draws; the same state gives the same splits.

    Returns:
        Language -> split -> section ids, in random order; what train leaves over is the pool.
    """
    needs = {language: _needs(language, len(ids), sizes) for language, ids in sections.items()}
    splits = {language: {role: list[str]() for role in ROLES} for language in sections}
    owners = {section: [name for name in sections if section in sections[name]] for section in _all(sections)}
    order = generator.sample(list(owners), len(owners))
    for section in sorted(order, key=lambda section: -len(owners[section])):
        languages = owners[section]
        wanted = [min(needs[language][role] for language in languages) for role in HELD_OUT]
        # Roles are drawn in proportion to what is left of each, so that all have the same kinds of sections.
        role = generator.choices(HELD_OUT, wanted)[0] if any(wanted) else "train"
        for language in languages:
            splits[language][role].append(section)
            needs[language][role] -= 1
    _fill_gaps(splits, needs, owners, sizes.train)
    for language, split in splits.items():
        for role in ROLES:
            generator.shuffle(split[role])
        split["pool"] = split["train"][sizes.train :]
        del split["train"][sizes.train :]
        if needs[language]["dev"] or needs[language]["micro_dev"]:
            others = ", ".join(name for name in splits if name != language)
            raise GraspError(
                f"{language!r} has too few sections to share them with {others}: prepare it alone"
            )
    return splits


def _fill_gaps(
    splits: Mapping[str, Mapping[Split, list[str]]],
    needs: Mapping[str, dict[Split, int]],
    owners: Mapping[str, list[str]],
    train: int,
) -> None:
    """Hold out more where a language was left short, out of the training sections that others can spare.

    So far no language gave up a section that it had no need for.
    """
    for language, role in itertools.product(splits, HELD_OUT):
        for section in splits[language]["train"].copy():
            trained = [splits[owner]["train"] for owner in owners[section]]
            if needs[language][role] and all(len(names) > train for names in trained):
                for owner, names in zip(owners[section], trained, strict=True):
                    names.remove(section)
                    if needs[owner][role]:
                        splits[owner][role].append(section)
                        needs[owner][role] -= 1


def _needs(language: str, available: int, sizes: Sizes) -> dict[Split, int]:
    """How many sections each role still wants; whatever is left over can be trained on."""
    kept = sizes.train + sizes.dev + sizes.micro_dev
    if available <= kept:
        raise GraspError(
            f"{language!r} has {available} usable sections, and its splits need at least {kept + 1}: "
            "choose other languages"
        )
    test = min(sizes.test, available - kept)
    return {"train": available, "dev": sizes.dev, "micro_dev": sizes.micro_dev, "test": test}


def _all(sections: Mapping[str, Set[str]]) -> list[str]:
    """Every section once, sorted: sets have an order of their own in each process."""
    return sorted(set[str]().union(*sections.values()))
