"""What goes out with an adapter: its card with the scores that its run found, and no more files than these.

Nothing of the machine goes along: no path, no token, no row of the data.
"""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yaml import YAMLError

from grasp_lora.errors import GraspError
from grasp_lora.merging.hub import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from grasp_lora.merging.parts import PARTS_FILE
from grasp_lora.merging.reading import base_of, read_settings
from grasp_lora.workspace.card import (
    FILLED,
    PLACEHOLDER,
    SCORES,
    DataRow,
    Facts,
    one_line,
    public_base,
    quoted,
    render,
    shape_of,
    with_revision,
)
from grasp_lora.workspace.private import private_things, text_of
from grasp_lora.workspace.records import CONFIG_FILE as RUN_FILE
from grasp_lora.workspace.records import MASK_FILE, Pruned
from grasp_lora.workspace.rows import Row
from grasp_lora.yamls import parse_yaml

__all__ = ["BESIDE", "base_revision", "card_of_copy", "prepare_upload", "run_above", "scored"]

BESIDE = (PARTS_FILE, MASK_FILE, Pruned.FILE)
"""Files that go along with an adapter, where it has them."""

_PEFTS_OWN = "[More Information Needed]"  # in the card that PEFT writes, with nothing filled in
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


def run_above(folder: Path) -> Path | None:
    """The run that a folder is in; None where it is in none."""
    return next((above for above in folder.resolve().parents if (above / RUN_FILE).is_file()), None)


def base_revision(adapter: Path, base: str | None = None) -> str | None:
    """The base model's, as an adapter's config has it or else the run that it is in; None: its main branch.

    Args:
        base: What is loaded; where that is another model than the adapter names, it is none of its revisions.
    """
    settings, run = read_settings(str(adapter), adapter), run_above(adapter)
    if base not in (None, settings.get("base_model_name_or_path")):
        return None
    found: str | None = settings.get("revision")
    if not found and run is not None:
        try:
            config = parse_yaml((run / RUN_FILE).read_text(encoding="utf-8"), RUN_FILE)
        except (OSError, ValueError) as error:
            raise GraspError(f"{run / RUN_FILE} cannot be read: {str(error).splitlines()[0]}") from None
        found = config.get("revision") if isinstance(config, dict) else None
    return found or None


def scored(adapter: Path) -> list[Row]:
    """What its run found of the adapter in a folder: one row for each set of test rows."""
    run, found = run_above(adapter), dict[str, Row]()
    if run is None:
        return []
    name = adapter.resolve().relative_to(run).as_posix()
    for path in sorted(run.rglob(Row.SCORES_FILE)):
        if ".replaced-" in str(path) or ".partial" in str(path):
            continue
        try:
            row = Row.read(path.parent)
        except GraspError:
            continue  # another's file of that name
        if row.adapter == name:
            found.setdefault(row.test_set, row)
    return list(found.values())


def card_of_copy(
    adapter: Path,
    called: str,
    *,
    base: str | None = None,
    notes: Sequence[str] = (),
    shape: str | None = None,
    changed: bool = False,
    merged: bool = False,
) -> str:
    """The card of a copy of an adapter, with the scores that its run found.

    A card that its owner wrote stays as it is; PEFT's empty one, or none, is replaced.

    Args:
        called: The copy's name: its folder's, or that of its repository.
        base: What the base model is called there; None: as the adapter names it.
        notes: What was done to it.
        shape: Its rank and modules; None: the original's.
        changed: Whether that changes what it says, so that the scores are the original's.
        merged: Whether the copy is a whole model.
    """
    from huggingface_hub import ModelCard

    rows = scored(adapter)
    try:
        text = (adapter / CARD_FILE).read_text(encoding="utf-8") if (adapter / CARD_FILE).is_file() else ""
        if text and FILLED not in text and _PEFTS_OWN not in text:
            return text
        card: Any = ModelCard(text if FILLED in text else render(_known(adapter, rows)))
    except (ValueError, TypeError, YAMLError) as error:
        if isinstance(error, GraspError):
            raise
        why = str(error).splitlines()[0]
        raise GraspError(f"{adapter / CARD_FILE} is damaged ({why}): mend or remove it") from None
    card.text = with_revision(card.text, base_revision(adapter, base))
    if base is not None:
        was = card.data.base_model
        card.text = card.text.replace(quoted(was), quoted(base))
        card.text = card.text.replace(f"`{one_line(was)}`", f"`{base}`")
        card.data.base_model = base
    sections = [_section("This copy", [f"- {note}" for note in notes])] if notes else []
    if rows and SCORES in card.text:
        sections.append(_score_section(rows, changed))
        if not changed:
            card.data.model_name = called.rsplit("/", 1)[-1]
            card.data.eval_results = [result for row in rows for result in _results(row)]
    if sections:
        more = "\n".join(sections) + ("\n" if rows else f"\n{SCORES}\n")
        card.text = card.text.replace(f"{SCORES}\n", more, 1)
    card.text = card.text.replace(quoted(PLACEHOLDER), quoted(called))
    if shape is not None:
        card.text = card.text.replace(f"({shape_of(adapter)})", f"({shape})", 1)
    if changed:
        card.text = card.text.replace("of the adapter's entries are zero", "of its entries were zero then")
    if merged:
        _become_whole(card, called)
    return f"{str(card).rstrip()}\n"


def prepare_upload(adapter: Path, folder: Path, repository: str, base: str | None = None) -> list[str]:
    """Copy what may be published of an adapter into the empty `folder`; returns the files' names.

    Only the adapter's config and weights, its card, and what says how it was merged and pruned. A base model
    that is a folder gets its name on the hub in the config and in the card.

    Args:
        base: That name; None: as the adapter's config has it, if it is one.

    Raises:
        GraspError: The base model has no name on the hub, or a file names a path of this machine or a token.
    """
    public = _public_base(adapter, base)
    for name in (WEIGHTS_FILE, *BESIDE):
        if (adapter / name).is_file():
            shutil.copyfile(adapter / name, folder / name)
        elif name == WEIGHTS_FILE:
            raise GraspError(f"{adapter} holds no adapter: {name} is missing")
    config = read_settings(str(adapter), adapter) | {"base_model_name_or_path": public}
    config["revision"] = base_revision(adapter, base)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / CARD_FILE).write_text(card_of_copy(adapter, repository, base=public), encoding="utf-8")
    names = sorted(path.name for path in folder.iterdir())
    for name in names:
        if found := private_things(text_of(folder / name)):
            raise GraspError(
                f"{adapter / name} is not published, as it names {found[0]}: take that out of it first"
            )
    return names


def _public_base(adapter: Path, base: str | None) -> str:
    named = base_of(adapter)
    public = base or public_base(named)[0]
    is_folder = base is None and (not named or public == Path(named).name != named)
    if is_folder or not _HUB_NAME.fullmatch(public) or Path(public).is_dir():
        raise GraspError(
            f"the base model of {adapter} is {base or named!r}, which is no name on the model hub: give the "
            "one that others can load, with --base NAME"
        )
    return public


def _known(adapter: Path, rows: Sequence[Row]) -> Facts:
    """Of an adapter without a card of ours: what its config says, and its evaluation where there is one."""
    base, note = public_base(base_of(adapter))
    if not rows:
        return Facts(base, note, shape_of(adapter), "LoRA adapter")
    row = rows[0]
    steps = "" if row.steps is None else f", {row.steps} optimizer steps on rows of {row.target}"
    languages = [one for one in (row.target, *row.source.split("+")) if re.fullmatch("[a-z]{2,3}", one)]
    return Facts(
        base,
        note,
        shape_of(adapter),
        f"{row.task}, {row.target}",
        languages=tuple(dict.fromkeys(languages)),
        steps=(f"{row.title or row.method}: from {row.source} to {row.target}{steps}; seed {row.seed}.",),
        data=tuple(DataRow(row.task, row.target, split, count) for split, count in row.labels.items()),
        p=row.p,
        share=row.pruned_share or 0.0,
    )


def _section(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"## {title}", "", *lines, ""])


def _score_section(rows: Sequence[Row], changed: bool) -> str:
    lines = ["| rows | metric | value | signature |", "|---|---|--:|---|"]
    nats = "nats per target token"
    for row in rows:
        if row.dev_loss is not None and row is rows[0]:
            lines.append(f"| dev, {len(row.dev_losses)} | loss | {row.dev_loss:.4f} | {nats} |")
        where = f"{row.test_set or 'test'}, {len(row.test_losses)}"
        lines.append(f"| {where} | loss | {row.test_loss:.4f} | {nats} |")
        for name, score in row.scores.items():
            signature = score["signature"].replace("|", "\\|")  # which would end the cell
            lines.append(f"| {where} | {name} | {score['value']:.2f} | `{signature}` |")
    whose = ["Of the adapter before it was changed:", ""] if changed else []
    return _section("Scores", [*whose, *lines])


def _results(row: Row) -> list[Any]:
    from huggingface_hub import EvalResult

    values = {"loss": row.test_loss} | {name: score["value"] for name, score in row.scores.items()}
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=row.task or "unnamed",
            dataset_name=f"{row.task or 'unnamed'} ({row.target})",
            dataset_split=row.test_set or "test",
            metric_type=name,
            metric_value=round(value, 4),
        )
        for name, value in values.items()
    ]


def _become_whole(card: Any, called: str) -> None:
    """A model needs no PEFT to load."""
    card.text = card.text.replace("\nA LoRA adapter (", "\nFull weights, with a LoRA adapter in them (", 1)
    card.data.library_name, card.data.base_model_relation = "transformers", "finetune"
    card.text = re.sub(r"^(from peft .*|model = PeftModel.*|base, adapter = .*)\n", "", card.text, flags=re.M)
    card.text = with_revision(card.text, None)
    card.text = card.text.replace(".from_pretrained(base)", f".from_pretrained({quoted(called)})")
