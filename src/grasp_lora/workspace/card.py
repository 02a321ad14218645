"""The card of an adapter: a README.md in the model hub's format, filled with what its stages were given.

It never has rows of the data, nor paths of the machine: a base model in a folder is called as the folder is.
Scores come later than the adapter; `workspace.publishing` fills them in where it is copied.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grasp_lora.lm.chat import ENCODES, PromptFormat
from grasp_lora.lm.encoding import Limits
from grasp_lora.lm.packaged.backbones import hub_name
from grasp_lora.merging.hub import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from grasp_lora.merging.reading import base_of, read_settings
from grasp_lora.ratios import PruneRatio
from grasp_lora.workspace.inputs import Model, Rows, line_of
from grasp_lora.workspace.records import LearnedRatio, Pruned
from grasp_lora.workspace.stage import Stage, behind, inside

if TYPE_CHECKING:
    from grasp_lora.workspace.directory import RunDirectory

__all__ = [
    "FILLED",
    "PLACEHOLDER",
    "SCORES",
    "Facts",
    "one_line",
    "public_base",
    "quoted",
    "render",
    "shape_of",
    "with_revision",
    "write_card",
]

FILLED = "<!-- Filled in by GRASP LoRA. -->"
SCORES = "<!-- scores -->"  # where they go
PLACEHOLDER = "FOLDER OR NAME OF THIS ADAPTER"


@dataclass(frozen=True, slots=True)
class DataRow:
    """How many rows of a split anything behind the adapter looked at."""

    task: str
    language: str
    split: str
    count: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What a card says. `prompt` is Python code for one."""

    base: str
    base_note: str
    shape: str
    title: str
    languages: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    data: tuple[DataRow, ...] = ()
    licences: tuple[str, ...] = ()
    p: PruneRatio | None = None
    share: float = 0.0
    prompt: str = repr("Your text")
    tokens: int = 64
    prompt_format: PromptFormat = "plain"
    revision: str | None = None
    """Of the base model; None: its main branch."""


def write_card(folder: Path, stage: Stage, run: "RunDirectory") -> None:
    """The card of the adapter that the stage has just written into `folder`; nothing where it wrote none."""
    if not all((folder / name).is_file() for name in (CONFIG_FILE, WEIGHTS_FILE)):
        return

    def place(one: Stage) -> Path:
        return folder if one.name == stage.name else run.path(one.name)

    (folder / CARD_FILE).write_text(render(_facts(folder, stage, run, place)), encoding="utf-8")


def render(facts: Facts) -> str:
    """The README.md."""
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        base_model=facts.base,
        base_model_relation="adapter",
        language=list(facts.languages) or None,
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["lora", "grasp-lora", "transformers"],
    )
    template = files("grasp_lora.workspace").joinpath("card.md.j2").read_text(encoding="utf-8")
    about = {name: getattr(facts, name) for name in Facts.__slots__} | {"adapter": PLACEHOLDER}
    about["encodes"] = ENCODES[facts.prompt_format]
    card = ModelCard.from_template(data, template_str=template, quoted=quoted, one_line=one_line, **about)
    return with_revision(f"{str(card).rstrip()}\n", facts.revision)


def quoted(text: str) -> str:
    """Python code for a text from elsewhere; JSON's escapes are Python's, too."""
    return json.dumps(text, ensure_ascii=False)


def one_line(text: str) -> str:
    """As it can stand between backticks."""
    return " ".join(text.replace("`", "'").split())


def with_revision(text: str, revision: str | None) -> str:
    """A card whose code loads the base model's revision, too; None: its main branch."""
    text = re.sub(r"\.from_pretrained\(base(, revision=\"[^\"]*\")?\)", ".from_pretrained(base)", text)
    if revision is None:
        return text
    return text.replace(".from_pretrained(base)", f".from_pretrained(base, revision={quoted(revision)})")


def public_base(name: str | None) -> tuple[str, str]:
    """What a base model is called where others read it, and a note about its weights.

    A hub's name is itself; a folder's last part; of a packaged one, what it was made of.
    """
    if not name:
        return "BASE MODEL", "not named by the adapter"
    if known := hub_name(name):
        return known
    return (Path(name).name if Path(name).is_absolute() or Path(name).is_dir() else name), ""


def shape_of(folder: Path) -> str:
    """An adapter's rank and modules, as its config has them."""
    config = read_settings(str(folder), folder)
    modules = config.get("target_modules") or ()
    several = " and others" if config.get("rank_pattern") else ""
    if isinstance(modules, str):
        where = f"`{modules}`"  # all-linear, or a pattern
    else:
        where = ", ".join(sorted(modules))
        where = where if len(where) < 80 else f"{len(modules)} modules"
    return f"rank {config.get('r')}{several}, on {where}"


def _facts(folder: Path, stage: Stage, run: "RunDirectory", place: Callable[[Stage], Path]) -> Facts:
    everything = behind(stage)
    line = line_of(stage, lambda one: LearnedRatio.read(place(one)).found)
    made = {one.name for one in line}  # two equal stages may be two objects
    chose = {found.name for one in line for found in _chosen_by(one)}
    told = [one for one in everything if one.name in made | chose]
    rows = [value for one in everything for value in inside(one.given) if isinstance(value, Rows)]
    trained_on = [one.given.get("train") for one in everything if one.name in made]
    own = [one for one in trained_on if isinstance(one, Rows)]
    named = [value for one in everything for value in inside(one.given) if isinstance(value, Model)]
    base, note = public_base(named[-1].name if named else base_of(folder))
    if named and (how := named[-1].quantization):
        note = ", ".join(filter(None, [note, f"its linear layers in {how}, by bitsandbytes"]))
    pruned, data = Pruned.of(folder), _data(rows, run)
    spoken = list(dict.fromkeys([*(one.language for one in reversed(own)), *(one.language for one in data)]))
    prompt = _prompt(own, everything)
    tasks = list(dict.fromkeys(one.task.name for one in own))
    return Facts(
        base,
        note,
        shape_of(folder),
        f"{' and '.join(tasks) or 'Adapter'}, {spoken[0]}" if spoken else "Adapter",
        languages=tuple(code for code in spoken if re.fullmatch("[a-z]{2,3}", code)),
        steps=tuple(said for one in told if (said := one.work.about(place(one), **one.given))),
        data=data,
        licences=tuple(dict.fromkeys(f"{r.task.name}: {r.task.licence}." for r in rows if r.task.licence)),
        p=pruned.p,
        share=pruned.share or 0.0,
        revision=named[-1].revision if named else read_settings(str(folder), folder).get("revision"),
        **prompt,
    )


def _chosen_by(stage: Stage) -> list[Stage]:
    """What found the ratio that the stage pruned at."""
    mask = stage.given.get("mask")
    found = (stage.given.get("ratio"), getattr(mask, "ratio", None), getattr(mask, "at", None))
    return [one for one in found if isinstance(one, Stage)]


def _data(rows: Sequence[Rows], run: "RunDirectory") -> tuple[DataRow, ...]:
    counts: dict[tuple[str, str, str], int] = {}
    for one in (each for several in rows for each in several.each):
        key = (one.task.name, one.language, one.split)
        counts[key] = max(counts.get(key, 0), len(run.resources.examples(one)))
    return tuple(DataRow(*key, count) for key, count in counts.items())


def _prompt(own: Sequence[Rows], everything: Sequence[Stage]) -> dict[str, Any]:
    """Code that fills the template of the rows that were trained on last, and how long answers may be."""
    if not own:
        return {}
    template = own[-1].task.template(own[-1].language)
    fields = ", ".join(f'{field}="your {field}"' for field in template.fields)
    if not all(field.isidentifier() for field in template.fields):
        fields = "**" + repr({field: f"your {field}" for field in template.fields})
    limits = [one.given["limits"] for one in everything if isinstance(one.given.get("limits"), Limits)]
    last = limits[-1] if limits else Limits()
    return {
        "prompt": f"{template.text!r}.format({fields})",
        "tokens": last.max_new_tokens or own[-1].task.new_tokens(own[-1].language),
        "prompt_format": last.prompt_format,
    }
