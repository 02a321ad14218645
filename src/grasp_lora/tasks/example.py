"""What every task is turned into: a prompt, and what should follow it."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Example", "examples_digest", "groups_of", "prompt_hash", "shortened"]


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt with its answer.

    The prompt ends exactly where the target begins and always in a newline, and the target has no whitespace
    around it. So the two can be tokenized apart and joined: no tokenizer wants a space between them.
    """

    id: str
    prompt: str
    """What the model reads; generation starts right after it."""
    target: str
    """What it must write, without the end-of-text token."""
    references: tuple[str, ...] = ()
    """The right answers that metrics compare with; () means (target,)."""
    body: tuple[int, int] | None = None
    """prompt[start:stop] is the article or context: its end is cut when the prompt is too long."""
    group: str = ""
    """What it shares with others, such as a passage with its other questions: they are no independent
    examples. "" shares nothing."""


def groups_of(examples: Iterable[Example]) -> list[str]:
    """Each example's group; nothing where none has one."""
    found = [example.group for example in examples]
    return found if any(found) else []


def prompt_hash(prompt: str) -> str:
    """The first 16 hexadecimal digits of the prompt's SHA-256: which text a prediction answers."""
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def examples_digest(examples: Iterable[Example]) -> str:
    """A SHA-256 of all that is in the examples, in their order."""
    found = hashlib.sha256(b"[")  # the JSON list of all, made piece by piece
    for place, e in enumerate(examples):
        values = (e.id, e.prompt, e.target, e.references, e.body, e.group)
        found.update((", " if place else "").encode() + json.dumps(values).encode())
    found.update(b"]")
    return found.hexdigest()


def shortened(prompt: str, characters: int = 800) -> str:
    """A prompt as people are shown it: of a longer one the beginning and the end."""
    half = characters // 2
    return prompt if len(prompt) <= characters else f"{prompt[:half]} [...] {prompt[-half:]}"
