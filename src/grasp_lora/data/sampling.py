"""Which records go into which split: sampled from the source's own splits, or from all by groups.

What is left over of train, and in no group that is held out, is the split `pool`.
"""

import random
from collections.abc import Mapping, Sequence
from typing import get_args

from grasp_lora.data.card import Sizes
from grasp_lora.data.corpus import Item
from grasp_lora.errors import GraspError
from grasp_lora.tasks.task import Split

__all__ = ["Chosen", "sample_official", "sample_pool"]

Chosen = dict[str, dict[Split, list[str]]]
"""Language -> split -> record ids, in random order."""

SPLITS: tuple[Split, ...] = tuple(split for split in get_args(Split) if split != "pool")
Items = Mapping[str, Mapping[str, Item]]


def sample_official(items: Items, sizes: Mapping[str, Sizes], seed: int) -> Chosen:
    """Sample each split from the source's own; micro-dev is the rows of dev after those that dev takes.

    What is drawn for a language depends on its ids and the seed alone, and what is drawn for a split not on
    the other splits' sizes.
    """
    chosen: Chosen = {}
    for language, records in items.items():
        generator = random.Random(f"{seed}/{language}")
        drawn: dict[Split, list[str]] = {}
        for split in SPLITS:
            names = sorted(name for name, item in records.items() if item.split == split)
            drawn[split] = generator.sample(names, len(names))
        size = sizes[language]
        if not drawn["micro_dev"]:  # no published data has a micro-dev of its own, a user's may
            dev = drawn["dev"]
            start = len(dev) - size.micro_dev if size.dev == "all" else size.dev
            drawn["dev"], drawn["micro_dev"] = dev[: max(0, start)], dev[max(0, start) :]
        chosen[language] = {}
        for split, names in drawn.items():
            take = getattr(size, split)
            _check_size(language, split, take, len(names), len(records))
            chosen[language][split] = names if take == "all" else names[:take]
        chosen[language]["pool"] = drawn["train"][len(chosen[language]["train"]) :][: size.pool]
    return _without_empty(chosen)


def sample_pool(items: Items, sizes: Mapping[str, Sizes], seed: int) -> Chosen:
    """Split a pool of all records so that no group is in two splits, in any language.

    Groups that many languages have are given out first, and roles are drawn in proportion to what is still
    wanted of each, so that the splits are alike. Of a held-out group, rows beyond what its split wants are
    left out.
    """
    generator = random.Random(seed)
    groups = _groups(items)
    needs = {
        language: {
            split: 0 if (size := getattr(sizes[language], split)) == "all" else size for split in SPLITS
        }
        for language in items
    }
    roles = _assign(groups, needs, generator)
    chosen: Chosen = {language: {split: [] for split in SPLITS} for language in items}
    for root in generator.sample(sorted(groups), len(groups)):
        for language, names in groups[root].items():
            role = roles.get(root)
            if role is None and sizes[language].train == "all":
                role = "train"
            if role is not None:
                chosen[language][role] += generator.sample(names, len(names))
    for language, splits in chosen.items():
        left = []
        for split, names in splits.items():
            size = getattr(sizes[language], split)
            _check_size(language, split, size, len(names), len(items[language]))
            generator.shuffle(names)
            kept = len(names) if size == "all" else size
            left += names[kept:] if split == "train" else []
            del names[kept:]
        free = [name for root in sorted(groups.keys() - roles) for name in groups[root].get(language, ())]
        unused = [] if sizes[language].train == "all" else random.Random(seed).sample(free, len(free))
        splits["pool"] = [*left, *unused][: sizes[language].pool]
    return _without_empty(chosen)


def _assign(
    groups: Mapping[str, Mapping[str, Sequence[str]]],
    needs: Mapping[str, dict[Split, int]],
    generator: random.Random,
) -> dict[str, Split]:
    """Group -> split, for as many groups as it takes; `needs` counts down to what could not be met."""
    buckets: dict[tuple[str, ...], list[str]] = {}
    for root in generator.sample(sorted(groups), len(groups)):
        buckets.setdefault(tuple(sorted(groups[root])), []).append(root)
    roles: dict[str, Split] = {}

    def gain(languages: tuple[str, ...], split: Split) -> int:
        """How many languages want the group in this split, less those that would only lose it."""
        wanting = sum(needs[language][split] > 0 for language in languages)
        return 2 * wanting - len(languages) if wanting else -len(needs) - 1

    while True:
        options = {(names, split): gain(names, split) for names in sorted(buckets) for split in SPLITS}
        best = max(options.values(), default=-len(needs) - 1)
        if best == -len(needs) - 1:
            return roles
        names = next(names for (names, _), value in options.items() if value == best)
        while buckets[names]:
            splits = [split for split in SPLITS if gain(names, split) == best]
            if not splits:
                break
            weights = [max(needs[language][split] for language in names) for split in splits]
            split = generator.choices(splits, weights)[0]
            root = buckets[names].pop()
            roles[root] = split
            for language in names:
                needs[language][split] -= len(groups[root][language])
        if not buckets[names]:
            del buckets[names]


def _groups(items: Items) -> dict[str, dict[str, list[str]]]:
    """Group -> language -> record ids; groups with a common record or paragraph are one."""
    parents: dict[str, str] = {}

    def root(key: str) -> str:
        while (parent := parents.get(key, key)) != key:
            parents[key] = parents.get(parent, parent)  # halves the way for the next one
            key = parents[key]
        return key

    for records in items.values():
        for item in records.values():
            for other in item.groups[1:]:
                low, high = sorted((root(item.groups[0]), root(other)))
                parents[high] = low
    groups: dict[str, dict[str, list[str]]] = {}
    for language in sorted(items):
        for name in sorted(items[language]):
            first, *_ = items[language][name].groups or (f"{language} {name}",)
            groups.setdefault(root(first), {}).setdefault(language, []).append(name)
    return groups


def _check_size(language: str, split: Split, wanted: int | str, found: int, total: int) -> None:
    if wanted != "all" and found < int(wanted):
        raise GraspError(
            f"{language!r} has {total:,} rows, which leaves {found:,} for {split}, and the card asks for "
            f"{wanted:,}: give more data, or write a card that extends this one with a smaller "
            f"`languages.{language}.sizes.{split}`, or smaller sizes of the other splits"
        )


def _without_empty(chosen: Chosen) -> Chosen:
    return {
        language: {split: names for split, names in splits.items() if names}
        for language, splits in chosen.items()
    }
