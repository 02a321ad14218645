"""Prompt templates: `{field}` stands for a column, `{{` and `}}` for braces."""

from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter

from grasp_lora.errors import GraspError

__all__ = ["Template", "parse_template"]


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template; `render` fills it. Values are put in as they are, braces in them mean nothing."""

    text: str
    pieces: tuple[tuple[str, str | None], ...]
    """(literal text, field after it or None), in order."""
    body: str
    """The field that may be cut when the prompt is too long."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns that the template needs, in order of first use."""
        return tuple(dict.fromkeys(field for _, field in self.pieces if field is not None))

    def render(self, values: Mapping[str, str]) -> tuple[str, tuple[int, int]]:
        """The prompt and the span [start, stop) of the body in it, in characters (its first use, if several).

        A field without a value is an error that names the template and the columns there are.
        """
        missing = [field for field in self.fields if field not in values]
        if missing:
            raise GraspError(
                f"the prompt template {self.text!r} uses {_braced(missing)}, "
                f"but the columns are {', '.join(values) or 'none'}: rename the field or the column"
            )
        prompt = ""
        span: tuple[int, int] | None = None
        for literal, field in self.pieces:
            prompt += literal
            if field is not None:
                start = len(prompt)
                prompt += values[field]
                if field == self.body and span is None:
                    span = (start, len(prompt))
        assert span is not None
        return prompt, span


def parse_template(text: str, body: str | None = None) -> Template:
    """Parse a template; `body` is the field that may be cut, by default the first one.

    Spaces and tabs at the template's end are dropped and a newline is added where there is none, because the
    target is tokenized on its own: after "Title:" it would stick to the colon, and after "Title: " most
    tokenizers would spend a token on the lone space that they never met in training.
    """
    stripped = text.rstrip(" \t")
    text = stripped if stripped.endswith("\n") else stripped + "\n"
    try:
        parsed = list(Formatter().parse(text))
    except ValueError as error:
        raise GraspError(
            f"the prompt template {text!r} is not valid ({error}): write {{{{ and }}}} for braces"
        ) from None
    for _, field, spec, conversion in parsed:
        if field is not None and (not field or field.strip() != field or spec or conversion):
            raise GraspError(
                f"the prompt template {text!r} has a placeholder that is not a plain {{column}}: "
                "give the column's name alone, and write {{ and }} for braces"
            )
    pieces = tuple((literal, field) for literal, field, _, _ in parsed)
    fields = [field for _, field in pieces if field is not None]
    if not fields:
        raise GraspError(f"the prompt template {text!r} has no {{field}}: all prompts would be the same")
    if body is not None and body not in fields:
        raise GraspError(f"body is {body!r}, but the prompt template {text!r} has only {_braced(fields)}")
    return Template(text, pieces, body if body is not None else fields[0])


def _braced(fields: list[str]) -> str:
    return ", ".join(f"{{{field}}}" for field in dict.fromkeys(fields))
