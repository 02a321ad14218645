"""All records of a card's source: read from files or the hub, checked, and what was left out and why."""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from grasp_lora.data.card import ANY, Card, Hub
from grasp_lora.data.folder import sha256
from grasp_lora.data.sources import READERS, BadRow, Record, Unsuitable, hub
from grasp_lora.data.sources.archives import refuse_damage, walk
from grasp_lora.data.sources.base import text, texts
from grasp_lora.data.sources.patterns import FilePatterns
from grasp_lora.errors import GraspError
from grasp_lora.tasks.files import Faults, Row, parquet_rows
from grasp_lora.tasks.kept import Pile
from grasp_lora.tasks.task import Split

__all__ = ["Corpus", "Item", "read_corpus"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Item:
    """A record, the split that its source gives it, and where it was found. Its texts are kept in a file."""

    id: str
    groups: tuple[str, ...]
    split: Split | None
    path: Path
    line: int
    pile: Pile
    place: int

    @property
    def values(self) -> dict[str, str | list[str]]:
        """The record's columns."""
        values: dict[str, str | list[str]] = json.loads(self.pile[self.place])
        return values


@dataclass(slots=True)
class Corpus:
    """What a source holds."""

    items: dict[str, dict[str, Item]] = field(default_factory=dict)
    """Language -> key -> item; a key is "SPLIT/ID" where the source has splits that are kept, else the id."""
    dropped: dict[str, Counter[str]] = field(default_factory=dict)
    """Language -> why -> rows."""
    texts: Pile = field(default_factory=Pile)
    """The items' columns, as JSON."""
    origins: list[dict[str, str]] = field(default_factory=list)
    """The files with their hashes, or the hub's repository and commit."""


@dataclass(frozen=True, slots=True)
class _Table:
    """One file of rows."""

    language: str | None
    split: Split | None
    faults: Faults
    rows: Iterator[Row]


def read_corpus(card: Card, source: Path | None, languages: Sequence[str] | None) -> Corpus:
    """Read all of a card's rows, from `source` or else from the hub.

    Args:
        card: What to read and how.
        source: A folder, an archive or a file; None is the hub.
        languages: Codes, all of which must be there; None takes those of the card that are there.
    """
    corpus = Corpus()
    codes = [code for code in languages or card.languages if code != ANY]
    names = {code: card.language(code).name or code for code in codes}
    if source is not None:
        known = {} if languages is None and ANY in card.languages else names
        where, tables = str(source), _files(card, source, known, corpus)
    elif card.hub is not None:
        where, tables = f"the hub's {card.hub.repository}", _hub(card, card.hub, names, corpus)
    else:
        raise GraspError(f"the task {card.name!r} is made from files: {_obtain(card)}")
    with refuse_damage(where):
        _collect(card, tables, corpus)
    _check_languages(card, corpus, languages, where)
    return corpus


def _files(card: Card, source: Path, names: Mapping[str, str], corpus: Corpus) -> Iterator[_Table]:
    patterns = FilePatterns.compile(card.files, names)
    reader = READERS[card.reader]
    root = source.parent if source.is_file() else source
    read: dict[Path, None] = {}
    for path, name, file in walk(source, lambda name: patterns.match(name) is not None):
        read[path] = None
        language, split = patterns.match(name) or (None, None)
        faults = Faults(root / name)
        yield _Table(language, split, faults, reader.rows(file, faults))
    for path in read:  # last, so that a fault in a large file is not waited for
        corpus.origins.append({"file": path.relative_to(root).as_posix(), "sha256": sha256(path)})


def _hub(card: Card, where: Hub, names: Mapping[str, str], corpus: Corpus) -> Iterator[_Table]:
    """The hub's Parquet files, or where there are none the original archive that is kept there."""
    configs = {code: card.language(code).config or name for code, name in names.items()}
    try:
        folder = hub.download(where.repository, where.revision, list(configs.values()))
    except hub.NoConversion as error:
        if not where.archive:
            raise GraspError(f"{error}: {_obtain(card)}") from None
        for code, name in names.items():
            path = hub.download_archive(where.repository, where.archive.replace("{name}", name))
            yield from _files(card, path, {code: name}, corpus)
        return
    except GraspError as error:
        raise GraspError(f"{error}\nWithout the hub: {_obtain(card)}") from None
    corpus.origins.append({"hub": where.repository, "revision": where.revision, "commit": folder.name})
    for code, split, path in hub.tables(folder, configs):
        yield _Table(code, split, Faults(path), parquet_rows(path))


def _collect(card: Card, tables: Iterator[_Table], corpus: Corpus) -> None:
    for table in tables:
        code = table.language or _only_language(card, table.faults.path)
        dropped = corpus.dropped.setdefault(code, Counter())
        items = corpus.items.setdefault(code, {})
        bad = _collect_table(card, code, table, items, dropped, corpus.texts)
        if card.bad_rows == "error":
            _check_faults(card, table.faults, bad)
        dropped.update(bad)


def _collect_table(
    card: Card, code: str, table: _Table, items: dict[str, Item], dropped: Counter[str], texts: Pile
) -> Counter[str]:
    """Put the records of one file into `items`; the result counts what is wrong with the others."""
    bad: Counter[str] = Counter()
    lines: set[int] = set()

    def note(line: int, error: BadRow) -> None:
        table.faults.add(line, str(error))
        bad[error.kind] += 1
        lines.add(line)

    reader = READERS[card.reader]
    columns = card.columns(code)
    prefix = f"{table.split}/" if table.split and card.split != "pool" else ""
    for row in table.rows:
        table.faults.rows += 1
        default_id = f"{code}/{table.faults.path.stem}:{row.line}"
        try:
            records = list(reader.records(row.values, card.options, default_id))
        except Unsuitable as reason:
            dropped[str(reason)] += 1
            continue
        except BadRow as error:
            note(row.line, error)
            continue
        for record in records:
            try:
                needed = _needed(record, columns, card.references)
                known = items.get(prefix + record.id)
                if known is None:
                    place = texts.add(json.dumps(needed).encode())
                    found = table.split, table.faults.path, row.line, texts, place
                    items[prefix + record.id] = Item(record.id, record.groups, *found)
                else:
                    _check_again(known, needed)
                    dropped["the same row again"] += 1
            except BadRow as error:
                note(row.line, error)
    bad["unreadable line"] += len(table.faults.found) - len(lines)
    return +bad


def _check_faults(card: Card, faults: Faults, bad: Counter[str]) -> None:
    try:
        faults.check()
    except GraspError as error:
        if set(bad) == {"missing column"}:  # the file may be sound, and the card not the one for it
            raise GraspError(f"{error}\n{_obtain(card)}") from None
        raise


def _needed(record: Record, columns: Sequence[str], references: str | None) -> dict[str, str | list[str]]:
    """The record's columns that the card uses, which must all be there."""
    values: dict[str, str | list[str]] = {name: text(record.values, name) for name in columns}
    if references:
        values[references] = texts(record.values, references)
    return values


def _check_again(known: Item, values: dict[str, str | list[str]]) -> None:
    if known.values != values:
        where = f"{known.path}:{known.line}"
        raise BadRow("id used twice", f"{known.id!r}, first for another row in {where}")


def _only_language(card: Card, path: Path) -> str:
    codes = [code for code in card.languages if code != ANY]
    if len(codes) != 1:
        raise GraspError(
            f"{path}: its name does not tell its language, and the task {card.name!r} has "
            f"{len(codes) or 'any'} of them; file names are {' or '.join(card.files)}"
        )
    return codes[0]


def _check_languages(card: Card, corpus: Corpus, languages: Sequence[str] | None, where: str) -> None:
    for code in [code for code, items in corpus.items.items() if not items]:
        reasons = ", ".join(f"{count:,} {why}" for why, count in corpus.dropped[code].items())
        raise GraspError(f"no row of {code!r} in {where} can be used: {reasons or 'its files are empty'}")
    missing = [code for code in languages or () if code not in corpus.items]
    if missing or not corpus.items:
        raise GraspError(
            f"{where} has no rows of {card.name!r} in {', '.join(missing) or 'any language'}; "
            f"files are named {' or '.join(card.files)}. {_obtain(card)}"
        )
    absent = [code for code in card.languages if code not in corpus.items and code != ANY]
    if absent and languages is None:
        logger.info("%s has nothing in %s: prepared without them", where, ", ".join(absent))


def _obtain(card: Card) -> str:
    return " ".join(card.obtain.split())
