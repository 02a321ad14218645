"""From a card and its source to a prepared folder."""

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from grasp_lora.data.card import HANDBOOK, Card
from grasp_lora.data.corpus import Corpus, Item, read_corpus
from grasp_lora.data.folder import Rows, is_prepared, write_prepared
from grasp_lora.data.handbook.book import prepare_handbook
from grasp_lora.data.sampling import Chosen, sample_official, sample_pool
from grasp_lora.errors import GraspError
from grasp_lora.paths import cache_dir
from grasp_lora.tasks.example import Example
from grasp_lora.tasks.lazy import Lazy, mapped
from grasp_lora.tasks.prompt import Template, parse_template
from grasp_lora.tasks.task import Split, check_disjoint
from grasp_lora.version import __version__

__all__ = ["prepare_card"]

logger = logging.getLogger(__name__)

PREPARATION = 2
"""Raised whenever the same source and card would give other rows: folders made before are then made again."""
GROUP = "group"
"""The column with what an example shares with others, such as its passage."""
HELD_OUT_FIRST: tuple[Split | None, ...] = ("test", "dev", "micro_dev", None, "train")


def prepare_card(
    card: Card,
    source: Path | None = None,
    out: Path | None = None,
    seed: int = 42,
    languages: Sequence[str] | None = None,
) -> Path:
    """Prepare a task's folder from its source, or find it prepared.

    Args:
        card: What to read, how to prompt, how large the splits are.
        source: A folder, archive or file with the official files; by default the hub is read.
        out: The folder to write; by default one in the user's cache, named after card, languages and seed.
        seed: Of the splits: the same seed and the same rows give the same splits, whatever they are read
            from.
        languages: Codes; by default all of the card's languages that the source has.

    Returns:
        The folder: `task.yaml`, `LANGUAGE/SPLIT.jsonl`, and `manifest.json` with counts, hashes, seed,
        source, licence and the rows that were left out, by reason.
    """
    if card.reader == HANDBOOK:
        return prepare_handbook(out=out, source=source, seed=seed, **_targets(languages))
    folder = out or cache_dir() / "data" / _default_name(card, languages, seed)
    inputs = {"preparation": PREPARATION, "card": card.name, "card_sha256": _digest(card), "seed": seed}
    inputs["asked"] = sorted(languages) if languages else None
    if source is None and is_prepared(folder, inputs):
        return folder
    corpus = read_corpus(card, source, languages)
    inputs["origins"] = corpus.origins
    if is_prepared(folder, inputs):
        return folder
    rows = _rows(card, corpus, _choose(card, corpus, seed))
    _check_disjoint(card, rows)
    manifest = {
        "inputs": inputs,
        "source": card.source,
        "licence": card.licence,
        "made": f"prepare_card of grasp_lora {__version__}",
        "dropped": {language: dict(counts) for language, counts in sorted(corpus.dropped.items())},
    }
    write_prepared(folder, _task(card, rows), rows, manifest, replace=out is None)
    logger.info("the task %s is in %s", card.name, folder)
    return folder


def _targets(languages: Sequence[str] | None) -> dict[str, Any]:
    return {} if languages is None else {"languages": languages}


def _default_name(card: Card, languages: Sequence[str] | None, seed: int) -> str:
    parts = [card.name, *sorted(languages or ()), *([] if seed == 42 else [f"seed{seed}"])]
    return "-".join(parts)


def _digest(card: Card) -> str:
    return hashlib.sha256(card.model_dump_json().encode()).hexdigest()


# Rows


def _choose(card: Card, corpus: Corpus, seed: int) -> Chosen:
    order = [*(code for code in card.languages if code in corpus.items), *sorted(corpus.items)]
    items = {
        language: _unique(card, corpus.items[language], corpus.dropped[language])
        for language in dict.fromkeys(order)  # as on the card: the source comes first
    }
    sizes = {language: card.language(language).sizes for language in items}
    sample = sample_official if _is_official(card, items) else sample_pool
    try:
        chosen = sample(items, sizes, seed)
    except GraspError as error:
        reasons = {language: dict(counts) for language, counts in corpus.dropped.items() if counts}
        raise GraspError(f"{error} (left out so far: {reasons})" if reasons else str(error)) from None
    for language, splits in chosen.items():
        left = len(items[language]) - sum(map(len, splits.values()))
        corpus.dropped[language].update({"left over": left} if left else {})
    return chosen


def _unique(card: Card, items: Mapping[str, Item], dropped: Counter[str]) -> dict[str, Item]:
    """The items without those that equal an earlier one in a column where that must not be."""
    kept: dict[str, Item] = {}
    seen: set[tuple[str, bytes]] = set()
    for name in sorted(items, key=lambda name: (HELD_OUT_FIRST.index(items[name].split), name)):
        item = items[name]
        values = {**(item.values if set(card.unique) - {"id"} else {}), "id": item.id}
        keys = {(column, _fingerprint(str(values[column]))) for column in card.unique}
        if shared := sorted(column for column, _ in keys & seen):
            dropped[f"{shared[0]} of another row"] += 1
        else:
            kept[name] = item
            seen |= keys
    return kept


def _fingerprint(text: str) -> bytes:
    """Equal for texts that differ in spaces alone; a corpus of texts would be too much to keep twice."""
    return hashlib.blake2b(" ".join(text.split()).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _is_official(card: Card, items: Mapping[str, Mapping[str, Item]]) -> bool:
    if card.split != "auto":
        return card.split == "official"
    named = {item.split is not None for records in items.values() for item in records.values()}
    if len(named) > 1:
        raise GraspError(
            f"some files of {card.name!r} say which split they are and some do not: name them all alike, or "
            "write `split: pool` on the card"
        )
    return named == {True}


def _rows(card: Card, corpus: Corpus, chosen: Chosen) -> Rows:
    def rows(language: str, keys: Sequence[str]) -> Sequence[dict[str, str | list[str]]]:
        fields = parse_template(card.template(language), card.body).fields
        columns = dict.fromkeys((*fields, card.target, *filter(None, [card.references])))
        items = corpus.items[language]

        def row(place: int) -> dict[str, str | list[str]]:
            item = items[keys[place]]
            values = item.values
            return {"id": item.id, **_group(item), **{column: values[column] for column in columns}}

        return Lazy(len(keys), row)

    return {
        language: {split: rows(language, keys) for split, keys in splits.items()}
        for language, splits in chosen.items()
    }


def _all_grouped(rows: Rows) -> bool:
    return all(GROUP in line for splits in rows.values() for lines in splits.values() for line in lines)


def _group(item: Item) -> dict[str, str]:
    return {GROUP: item.groups[-1]} if item.groups else {}


def _check_disjoint(card: Card, rows: Rows) -> None:
    for language, splits in rows.items():
        template = parse_template(card.template(language), card.body)
        as_example = partial(_example, template, card.target)
        check_disjoint({f"{language} {split}": mapped(lines, as_example) for split, lines in splits.items()})


def _example(template: Template, target: str, line: Mapping[str, str | Sequence[str]]) -> Example:
    texts = {name: str(value) for name, value in line.items()}
    return Example(texts["id"], template.render(texts)[0], texts[target])


def _task(card: Card, rows: Rows) -> dict[str, Any]:
    task = {
        "name": card.name,
        "prompt": {language: card.template(language) for language in rows},
        "target": card.target,
        "body": card.body,
        "id": "id",
        "references": card.references,
        "group": GROUP if _all_grouped(rows) else None,
        "max_new_tokens": {language: card.new_tokens(language) for language in rows},
        "metrics": list(card.metrics),
        "licence": card.licence,
        "source": card.source,
    }
    return {key: value for key, value in task.items() if value is not None}
