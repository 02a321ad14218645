"""A task as text: counts, scripts, lengths and prompts exactly as a model sees them."""

import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from grasp_lora.data.folder import read_manifest
from grasp_lora.data.scripts import script_share
from grasp_lora.tasks.example import Example
from grasp_lora.tasks.task import Task, load_task

__all__ = ["Encode", "histogram", "script_mix", "show"]

Encode = Callable[[Example, Any, int], list[int]]
"""(example, tokenizer, limit) -> token ids of the prompt, its body cut to fit."""

BARS = "▏▎▍▌▋▊▉█"
WIDTH = 40
LONGEST_SHOWN = 600
LEAST_SHARE = 0.0005
"""Of the letters: scripts below it would be shown as 0.0 %."""
FEW_LETTERS = 0.5
"""A language with a smaller share of its letters in its own script gets a warning."""


def show(
    task: Task | Path,
    *,
    tokenizer: Any = None,
    encode: Encode | None = None,
    ending: int = 1,
    max_length: int = 2200,
    max_new_tokens: int | None = None,
    examples: int = 1,
    full: bool = False,
) -> str:
    """Describe a task.

    Args:
        task: A task, or a folder with a task.yaml; if it was prepared, what was left out is told, too.
        tokenizer: Counts lengths in its tokens; without one they are in characters and nothing is cut.
        encode: Cuts a prompt as training does; needed with a tokenizer.
        ending: Tokens that end an answer: end-of-text, or what a chat template has there.
        max_length: Tokens of prompt and answer together.
        max_new_tokens: Tokens of an answer; by default what the task says for each language.
        examples: How many prompts of each language to show.
        full: Show whole prompts, not only their beginnings and ends.
    """
    manifest = (read_manifest(task) if isinstance(task, Path) else None) or {}
    task = load_task(task) if isinstance(task, Path) else task
    parts = [f"{task.name}: {task.source or 'no source given'}\nlicence: {task.licence or 'not given'}"]
    for language, splits in task.languages.items():
        rows = {split: task.examples(language, split) for split in splits}
        parts.append(_counts(language, rows, manifest.get("dropped", {}).get(language, {})))
        everything = [example for found in rows.values() for example in found]
        parts.append(_scripts(language, everything))
        new_tokens = max_new_tokens or task.new_tokens(language)
        limits = (max_length - new_tokens, new_tokens)
        parts.append(_lengths(everything, tokenizer, encode, ending, limits))
        first = next(iter(rows.values()))[:examples]
        parts += [_prompt(example, _seen(example, tokenizer, encode, limits[0]), full) for example in first]
    if tokenizer is None:
        parts.append("lengths in tokens, and what a limit cuts: --tokenizer BACKBONE --max-length N")
    return "\n\n".join(parts) + "\n"


def script_mix(texts: Sequence[str]) -> dict[str, float]:
    """Share of the letters by script, as Unicode names it (ARABIC, CJK, LATIN, ...), largest first."""
    letters = Counter(character for text in texts for character in text if character.isalpha())
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        scripts[unicodedata.name(letter, "UNKNOWN").split()[0]] += count
    return {script: count / scripts.total() for script, count in scripts.most_common()}


def histogram(values: Sequence[int], bins: int = 8) -> str:
    """Bars of how many values are in each of `bins` equal ranges, a line each."""
    low, high = min(values), max(values)
    step = max(1, -(-(high - low + 1) // bins))
    counts = Counter((value - low) // step for value in values)
    most = max(counts.values())
    lines = []
    for i in range((high - low) // step + 1):
        eighths = round(counts[i] / most * WIDTH * 8)
        bar = BARS[-1] * (eighths // 8) + (BARS[eighths % 8 - 1] if eighths % 8 else "")
        start = low + i * step
        lines.append(f"  {start:>7,}-{min(start + step - 1, high):<7,} {bar} {counts[i]:,}")
    return "\n".join(lines)


def _counts(language: str, rows: Mapping[Any, Sequence[Example]], dropped: dict[str, int]) -> str:
    counts = ", ".join(f"{len(found):,} {split}" for split, found in rows.items())
    reasons = ", ".join(f"{count:,} {why}" for why, count in dropped.items())
    return f"== {language}: {counts}" + (f"\nleft out: {reasons}" if reasons else "")


def _scripts(language: str, examples: Sequence[Example]) -> str:
    lines = []
    for name, texts in (
        ("bodies", [e.prompt[slice(*e.body)] if e.body else e.prompt for e in examples]),
        ("answers", [e.target for e in examples]),
    ):
        shares = [item for item in script_mix(texts).items() if item[1] >= LEAST_SHARE][:4]
        mix = ", ".join(f"{script} {share:.1%}" for script, share in shares)
        own = script_share("".join(texts), language)
        warning = f"  <- only {own:.0%} of the letters are {language}'s" if own < FEW_LETTERS else ""
        lines.append(f"scripts of {name}: {mix}{warning}")
    return "\n".join(lines)


def _lengths(
    examples: Sequence[Example],
    tokenizer: Any,
    encode: Encode | None,
    ending: int,
    limits: tuple[int, int],
) -> str:
    """Histograms of prompts and answers, and how many are over their limits."""
    answers = [e.target for e in examples]
    if tokenizer is None or encode is None:
        unit, found = "characters", ([len(e.prompt) for e in examples], [len(text) for text in answers])
    else:
        ids = tokenizer(answers, add_special_tokens=False)["input_ids"]
        whole = [len(encode(e, tokenizer, sys.maxsize)) for e in examples]
        unit, found = "tokens", (whole, [len(one) + ending for one in ids])
    lines = []
    for name, lengths, limit in zip(("prompts", "answers"), found, limits, strict=True):
        over = ""
        if unit == "tokens":
            cut = sum(length > limit for length in lengths)
            over = f"; {cut:,} of {len(lengths):,} ({cut / len(lengths):.1%}) over {limit:,} are cut"
        ranges = f"{min(lengths):,} to {max(lengths):,}, median {median(lengths):,.0f}"
        lines.append(f"{name} in {unit}: {ranges}{over}\n{histogram(lengths)}")
    return "\n".join(lines)


def _seen(example: Example, tokenizer: Any, encode: Encode | None, limit: int) -> str:
    if tokenizer is None or encode is None:
        return example.prompt
    return str(tokenizer.decode(encode(example, tokenizer, limit)))


def _prompt(example: Example, text: str, full: bool) -> str:
    if not full and len(text) > 2 * LONGEST_SHOWN:
        hidden = len(text) - 2 * LONGEST_SHOWN
        gap = f"\n[... {hidden:,} characters; --full shows them ...]\n"
        text = f"{text[:LONGEST_SHOWN]}{gap}{text[-LONGEST_SHOWN:]}"
    answers = "".join(f"\n  also right: {other!r}" for other in example.references if other != example.target)
    return f"-- {example.id}\n{text}--> {example.target}{answers}"
