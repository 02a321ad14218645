"""A tokenizer's chat template around a prompt, which is the user's turn, and its answer, the assistant's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import Any, Literal

from jinja2 import TemplateError

from grasp_lora.errors import GraspError

__all__ = [
    "ENCODES",
    "PromptFormat",
    "answer_in_chat",
    "before_answers",
    "check_chat",
    "end_of_turn",
    "messages_in_chat",
    "prompt_in_chat",
    "rendered_bytes",
]

PromptFormat = Literal["plain", "chat"]
"""The prompt as the task has it, or in the tokenizer's chat template."""

ENCODES: dict[PromptFormat, str] = {
    "plain": 'ids = tokenizer(prompt, return_tensors="pt")',
    "chat": """messages = [{"role": "user", "content": prompt.strip()}]
ids = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, enable_thinking=False, return_dict=True, return_tensors="pt"
)""",
}
"""The Python code that makes `ids` of a `prompt`, for cards and screens."""

QUESTION, ANSWER = "Is it so?", "So it is."  # any: what a template writes around them does not depend on them
# For templates that write the date: else a prompt would be another one tomorrow.
DAY = """{%- macro strftime_now(format) -%}
{{ format | replace("%d", "26") | replace("%b", "Jul") | replace("%B", "July") | replace("%m", "07")
          | replace("%Y", "2024") }}
{%- endmacro -%}
"""


@dataclass(frozen=True, slots=True)
class _Frame:
    """What a template writes around an answer.

    Attributes:
        opening: After its own generation prompt, such as the channel of gpt-oss; a part of the prompt.
        space: Between that and the answer: its first token may have it.
        closing: After the answer, to the end of the turn.
        stop: The token by which the turn ends.
        question: Token ids of a prompt, so that an answer's can be told.
    """

    opening: str
    space: str
    closing: str
    stop: int
    question: tuple[int, ...]


def prompt_in_chat(text: str, tokenizer: Any) -> list[int]:
    """Token ids of everything before the answer, the template's own start token included, and no other.

    White space around the text is left out, as many templates do.

    Raises:
        GraspError: There is no chat template, or none that can be used.
    """
    return _ids(_rendered(tokenizer, text.strip()) + _frame(tokenizer).opening, tokenizer)


def answer_in_chat(text: str, tokenizer: Any) -> list[int]:
    """Token ids of an answer and of what the template ends its turn with.

    Raises:
        GraspError: As `prompt_in_chat`.
    """
    frame = _frame(tokenizer)
    asked, answer = _rendered(tokenizer, QUESTION) + frame.opening, frame.space + text + frame.closing
    together, before = _ids(asked + answer, tokenizer), len(frame.question)
    # Together, since some tokenizers put a space before whatever they are given; apart where the answer's
    # beginning would become one token with the prompt's end: a model that answers sees these apart.
    return together[before:] if together[:before] == [*frame.question] else _ids(answer, tokenizer)


def messages_in_chat(
    prompt: Sequence[Mapping[str, Any]], answer: Sequence[Mapping[str, Any]], tokenizer: Any, **options: Any
) -> tuple[int, list[int]]:
    """How many tokens come before the answer, and those of all messages, as TRL has them.

    Where a prompt is not rendered alike with and without an answer, it ends where the two part.

    Args:
        options: Further ones of `apply_chat_template`.

    Raises:
        GraspError: There is no chat template, or it refuses the messages.
    """
    whole = [*prompt, *answer]
    try:
        asked, told = (
            tokenizer.apply_chat_template(
                messages, add_generation_prompt=messages is not whole, return_dict=True, **options
            )["input_ids"]
            for messages in ([*prompt], whole)
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise GraspError(f"messages cannot be written in the tokenizer's chat template: {error}") from None
    before = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(asked, told, strict=False)))
    return before, told


def end_of_turn(tokenizer: Any) -> int:
    """The token by which the template ends an answer.

    Raises:
        GraspError: As `prompt_in_chat`.
    """
    return _frame(tokenizer).stop


def rendered_bytes(tokenizer: Any) -> int:
    """More than the bytes that the template adds to a prompt and an answer."""
    frame = _frame(tokenizer)
    return len((_rendered(tokenizer, QUESTION) + frame.opening + frame.space + frame.closing).encode())


def before_answers(tokenizer: Any) -> str:
    """What the template writes before an answer beside its own generation prompt, which code that uses the
    template alone leaves out; usually nothing.

    Raises:
        GraspError: As `prompt_in_chat`.
    """
    return _frame(tokenizer).opening


def check_chat(tokenizer: Any) -> None:
    """Whether its chat template can be used.

    Raises:
        GraspError: There is none, or it does not write an answer where it asks for one.
    """
    _frame(tokenizer)


def _ids(text: str, tokenizer: Any) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def _rendered(tokenizer: Any, question: str, answer: str | None = None) -> str:
    messages = [{"role": "user", "content": question}]
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    try:
        return str(
            tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=answer is None,
                chat_template=DAY + tokenizer.get_chat_template(),
                enable_thinking=False,  # an answer is all that there is to learn from
            )
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise GraspError(
            f"the tokenizer's chat template cannot be used ({error}): take prompt_format: plain, which is "
            "grasp generate without --chat"
        ) from None


def _frame(tokenizer: Any) -> _Frame:
    if not (template := getattr(tokenizer, "chat_template", None)):
        raise GraspError(
            "prompt_format is chat, and the backbone's tokenizer has no chat template: take prompt_format: "
            "plain, or the backbone's instruct version"
        )
    return _frame_of(tokenizer, str(template))


@lru_cache(maxsize=4)
def _frame_of(tokenizer: Any, template: str) -> _Frame:
    """Once for each template that a tokenizer has."""
    asked, told = _rendered(tokenizer, QUESTION), _rendered(tokenizer, QUESTION, ANSWER)
    head, closing = told.rsplit(ANSWER, 1) if ANSWER in told else ("", "")
    before = head.removeprefix(asked) if head.startswith(asked) else ""
    opening = before.rstrip(" ")
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(asked, told, strict=False)))
    if told[alike:].count(ANSWER) != 1:
        raise GraspError(
            "the tokenizer's chat template does not write prompt and answer once each: take prompt_format: "
            "plain"
        )
    if (prompt := asked + opening).count("<think>") > prompt.count("</think>"):
        raise GraspError(
            "the tokenizer's chat template asks for thoughts, which training rows do not have: take "
            "prompt_format: plain"
        )
    own = {*tokenizer.get_added_vocab().values(), *tokenizer.all_special_ids}
    stop = next((token for token in _ids(closing, tokenizer) if token in own), None)
    if stop is None:  # text alone ends nothing
        closing, stop = closing + tokenizer.eos_token, tokenizer.eos_token_id
    question = tuple(_ids(prompt, tokenizer))
    return _Frame(opening, before[len(opening) :], closing, stop, question)
