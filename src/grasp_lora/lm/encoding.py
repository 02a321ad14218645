"""Examples to token ids, cut to length."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from grasp_lora.errors import GraspError, check_choice
from grasp_lora.lm.chat import PromptFormat, answer_in_chat, prompt_in_chat, rendered_bytes
from grasp_lora.settings import LATER
from grasp_lora.tasks.example import Example

__all__ = [
    "Encoded",
    "Limits",
    "check_embedded",
    "check_fit",
    "encode",
    "encode_prompt",
    "lost_targets",
]

SPECIAL = 16  # start and end tokens, and the space that some tokenizers begin with: more than there are
LONG = 64  # characters of a body for each token that fits: nearly all texts have fewer, and are taken whole
MAX_CUTS = 8  # tokenizations that look for the longest body that fits


@dataclass(frozen=True)  # no slots: its defaults are also those of public signatures
class Limits:
    """How examples become tokens: how long texts and batches may be, and what is around a prompt.

    Attributes:
        max_length: Most tokens of prompt and target together (GRASP: 2200, new tokens included).
        max_new_tokens: Most tokens of the target, end-of-text included, and of an answer. A longer target
            loses its end, and the prompt gets what remains of `max_length`. None: a target is kept whole.
        token_budget: Most tokens of an evaluation batch, padding included.
        prompt_format: "chat": the prompt is the user's turn in the tokenizer's chat template, and the target
            the assistant's, with the template's own end.
    """

    max_length: int = 2200
    max_new_tokens: int | None = None
    token_budget: int = 4096
    prompt_format: PromptFormat = field(default="plain", metadata={LATER: True})

    def __post_init__(self) -> None:
        check_choice("prompt_format", self.prompt_format, PromptFormat)

    @property
    def answer(self) -> int:
        """Most tokens of an answer.

        Raises:
            GraspError: There is no such limit.
        """
        if self.max_new_tokens is None:
            raise GraspError("answers need a limit: set max_new_tokens")
        return self.max_new_tokens


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of prompt and target: the last `targets` are to be predicted, and `lost` more were cut."""

    input_ids: tuple[int, ...]
    targets: int
    lost: int = 0

    def __len__(self) -> int:
        return len(self.input_ids)


def encode_prompt(
    example: Example, tokenizer: Any, limit: int, prompt_format: PromptFormat = "plain"
) -> list[int]:
    """Token ids of the prompt, with the tokenizer's own start token, or in its chat template.

    A prompt longer than `limit` tokens loses the end of its body (the article, the context), never the
    words around it that say what to do, nor what the template writes around them.

    Raises:
        GraspError: The prompt does not fit without any body, or it has none to cut; or there is no template.
    """
    start, stop = example.body or (len(example.prompt), len(example.prompt))

    def with_body(characters: int) -> list[int]:
        kept = example.prompt[: start + characters]
        if characters < stop - start:
            kept = kept[:start] + kept[start:].rstrip()
        if prompt_format == "chat":
            return prompt_in_chat(kept + example.prompt[stop:], tokenizer)
        ids: list[int] = tokenizer(kept + example.prompt[stop:])["input_ids"]
        if ids and ids[-1] == tokenizer.eos_token_id:
            ids.pop()  # some tokenizers end every text; the answer is still to come
        return ids

    # Of a body that is far too long the beginning is enough to see that: a tokenizer takes minutes, and a
    # hundred bytes a token, for what would be cut anyway.
    longest = min(stop - start, LONG * max(limit, 1))
    whole = with_body(longest)
    if len(whole) <= limit and longest < stop - start:
        longest, whole = stop - start, with_body(stop - start)
    if len(whole) <= limit:
        return whole
    best = with_body(0)
    if len(best) > limit:
        raise GraspError(
            f"example {example.id}: its prompt has {len(best)} tokens without the body that may be cut, "
            f"where {limit} fit; raise max_length or shorten the prompt template"
        )
    # The longest body that fits, by interpolation: characters are nearly proportional to tokens.
    low, high = (0, len(best)), (longest, len(whole))  # (characters, tokens): fits, does not
    for _ in range(MAX_CUTS):
        room = (limit + 0.5 - low[1]) / (high[1] - low[1])
        middle = low[0] + round(room * (high[0] - low[0]))
        middle = min(max(middle, low[0] + 1), high[0] - 1)
        if low[1] == limit or not low[0] < middle < high[0]:
            break
        ids = with_body(middle)
        if len(ids) <= limit:
            low, best = (middle, len(ids)), ids
        else:
            high = (middle, len(ids))
    return best


def encode(example: Example, tokenizer: Any, limits: Limits) -> Encoded:
    """Prompt, target and end-of-text, or in a chat the turn's end, as token ids.

    Raises:
        GraspError: Prompt and target do not fit together, or there is no chat template.
    """
    if limits.prompt_format == "chat":
        target = answer_in_chat(example.target, tokenizer)
    else:
        target = [*tokenizer(example.target, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    kept = target[: limits.max_new_tokens]
    room = limits.max_length - (limits.max_new_tokens or len(target))
    prompt = encode_prompt(example, tokenizer, room, limits.prompt_format)
    return Encoded((*prompt, *kept), len(kept), len(target) - len(kept))


def check_fit(examples: Iterable[Example], tokenizer: Any, limits: Limits) -> None:
    """Encode those whose prompt may be too long even without its body, so that training does not end there.

    Tokenizers hardly ever make more tokens of a text than it has bytes, and some special ones; so most texts
    need not be looked at.

    Raises:
        GraspError: One does not fit.
    """
    special = SPECIAL + (rendered_bytes(tokenizer) if limits.prompt_format == "chat" else 0)
    for example in examples:
        start, stop = example.body or (0, 0)
        around = len(example.prompt.encode()) - len(example.prompt[start:stop].encode()) + special
        answer = limits.max_new_tokens or len(example.target.encode()) + SPECIAL
        if around + answer > limits.max_length:
            encode(example, tokenizer, limits)


def check_embedded(encoded: Sequence[Encoded], model: Any) -> None:
    """Every token must have its row of the embedding: on a GPU one beyond it stops training without a reason.

    Raises:
        GraspError: A token has none. (A tokenizer may have more than the model, as long as none is used.)
    """
    rows = model.get_input_embeddings().num_embeddings
    largest = max((max(one.input_ids) for one in encoded), default=0)
    if largest >= rows:
        raise GraspError(
            f"the tokenizer makes the token {largest} of a text, and the backbone embeds {rows} tokens: "
            "take the tokenizer that the model came with, or resize the embedding and save the model again"
        )


def lost_targets(encoded: Sequence[Encoded]) -> str:
    """What cutting the targets to `max_new_tokens` cost, in a sentence; empty where it cost nothing."""
    cut = [e for e in encoded if e.lost]
    if not cut:
        return ""
    limit, longest = cut[0].targets, max(e.targets + e.lost for e in cut)
    return (
        f"{len(cut)} of {len(encoded)} answers are longer than max_new_tokens = {limit} (the longest has "
        f"{longest}) and lose their end, end-of-text included"
    )
