"""The verb `grasp generate`: an adapter's answer to a text of one's own."""

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grasp_lora.cli.verbs import add_verb
from grasp_lora.errors import GraspError

if TYPE_CHECKING:
    from grasp_lora.methods.start import Start
    from grasp_lora.tasks.example import Example
    from grasp_lora.tasks.prompt import Template

__all__ = ["add_generate_verb"]

NEW_TOKENS = 64  # where no task says how long an answer is


def add_generate_verb(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add it to the parser of `grasp`; `common` has the options that every verb has."""
    parser = add_verb(
        verbs,
        common,
        "generate",
        _generate,
        "Answer a text with a run's adapter, or another.",
        'grasp generate runs/titles "A long article ..." --beside runs/titles/merged',
        more="Of a run, the adapter that its verdict deploys. Inside a run the task's prompt for the target "
        "language is put around the text; greedy.",
    )
    parser.add_argument("what", metavar="RUN|ADAPTER", help="a run's folder; an adapter's, or OWNER/NAME")
    parser.add_argument("text", nargs="?", metavar="TEXT", help="- reads it from standard input")
    parser.add_argument("--input", type=Path, metavar="FILE", help="the text is in this file")
    parser.add_argument(
        "--field", action="append", default=[], metavar="NAME=TEXT", help="of a prompt with several fields"
    )
    parser.add_argument("--raw", action="store_true", help="the text as it is, without the task's prompt")
    parser.add_argument(
        "--chat",
        action="store_true",
        help="in the tokenizer's chat template, as a run with prompt_format: chat",
    )
    parser.add_argument("--beside", metavar="ADAPTER", help="answer with this one, too")
    parser.add_argument("--base", metavar="BACKBONE", help="default: the run's, or what the adapter names")
    parser.add_argument(
        "--max-new-tokens", type=int, metavar="N", help=f"default: the task's, or {NEW_TOKENS}"
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """The adapter (None: the bare backbone), what it is called, and the run that it is in."""

    adapter: Path | None
    called: str
    run: Path | None


def _generate(arguments: argparse.Namespace) -> None:
    from grasp_lora.lm.adapters import load_adapter, load_beside
    from grasp_lora.lm.backbone import load_backbone
    from grasp_lora.lm.encoding import Limits
    from grasp_lora.lm.generation import stream
    from grasp_lora.merging.hub import find_adapter

    if arguments.max_new_tokens is not None and arguments.max_new_tokens < 1:
        raise GraspError(f"--max-new-tokens must be at least 1, got {arguments.max_new_tokens}")
    found, text = _found(arguments.what), _text(arguments)
    beside = None if arguments.beside is None else find_adapter(arguments.beside)
    x = None if arguments.raw or found.run is None else _start(found.run)
    template = None if x is None else x.task.template(x.config.target.language)
    example = _example(text, arguments.field, template)
    backbone = load_backbone(**_backbone(found, arguments))
    if x is not None:
        limits = replace(x.limits, max_new_tokens=arguments.max_new_tokens or x.limits.answer)
    else:
        longest = getattr(backbone.model.config, "max_position_embeddings", None) or sys.maxsize
        limits = Limits(longest, arguments.max_new_tokens or NEW_TOKENS)
    if arguments.chat:
        limits = replace(limits, prompt_format="chat")
    model: Any = backbone.model
    if found.adapter is not None:
        model = load_adapter(model, found.adapter, trainable=False)
    if beside is None:
        stream(model, backbone.tokenizer, example, limits)
        return
    print(f"[{found.called}]")
    stream(model, backbone.tokenizer, example, limits)
    print(f"\n[{arguments.beside}]")
    if found.adapter is None:
        model = load_adapter(model, beside, trainable=False)
    else:
        load_beside(model, beside, "beside")
        model.set_adapter("beside")
    stream(model, backbone.tokenizer, example, limits)


def _found(what: str) -> _Found:
    """What to answer with: of a run, the first seed's adapter of the method that its verdict names."""
    from grasp_lora.merging.hub import find_adapter
    from grasp_lora.reporting.compare import read_results
    from grasp_lora.reporting.progress import LOST_CONFIG, has_lost_config
    from grasp_lora.reporting.verdict import verdict
    from grasp_lora.workspace.publishing import run_above
    from grasp_lora.workspace.records import CONFIG_FILE

    folder = Path(what)
    if has_lost_config(folder):
        raise GraspError(LOST_CONFIG.format(folder))
    if not (folder / CONFIG_FILE).is_file():
        adapter = find_adapter(what)
        return _Found(adapter, what, run_above(adapter))
    results = read_results(folder)
    method = verdict(results).method
    row = next(result for result in results if result.method == method).rows[0]
    where = "no adapter" if row.adapter is None else row.adapter
    print(f"{row.title or method}: {where}", file=sys.stderr)
    return _Found(None if row.adapter is None else folder / row.adapter, where, folder)


def _start(run: Path) -> "Start":
    from grasp_lora.experiment import start
    from grasp_lora.workspace.records import CONFIG_FILE

    return start(run / CONFIG_FILE)


def _text(arguments: argparse.Namespace) -> str:
    if (arguments.text is None) == (arguments.input is None):
        raise GraspError("give one text: TEXT, - for standard input, or --input FILE")
    try:
        if arguments.input is not None:
            text = str(arguments.input.read_text(encoding="utf-8"))
        else:
            text = sys.stdin.read() if arguments.text == "-" else arguments.text
    except (OSError, UnicodeDecodeError) as error:
        raise GraspError(f"{arguments.input or 'standard input'} cannot be read as text: {error}") from None
    if not text.strip():
        raise GraspError("the text is empty")
    return text if arguments.raw else text.strip()


def _example(text: str, fields: list[str], template: "Template | None") -> "Example":
    """The prompt; of a task, its template with the text as its body."""
    from grasp_lora.tasks.example import Example

    if template is None:
        if fields:
            raise GraspError("--field is of a task's prompt, and here is none")
        return Example("the text", text, "", body=(0, len(text)))
    values = {template.body: text}
    for field in fields:
        name, given, value = field.partition("=")
        if not given or name not in template.fields or name == template.body:
            others = ", ".join(one for one in template.fields if one != template.body) or "none"
            raise GraspError(
                f"--field {field!r}: give NAME=TEXT; beside the text's, the fields are: {others}"
            )
        values[name] = value
    if missing := [name for name in template.fields if name not in values]:
        raise GraspError(
            f"the task's prompt also has the field {missing[0]!r}: give it with --field {missing[0]}=TEXT, "
            "or the whole prompt as TEXT with --raw"
        )
    prompt, body = template.render(values)
    return Example("the text", prompt, "", body=body)


def _backbone(found: _Found, arguments: argparse.Namespace) -> dict[str, Any]:
    """What is loaded, and how."""
    from grasp_lora.experiment import read_config
    from grasp_lora.merging.reading import base_of
    from grasp_lora.workspace.records import CONFIG_FILE

    if arguments.base is not None:
        return {"name": arguments.base}
    if found.run is not None:
        return read_config(found.run / CONFIG_FILE).loading
    name = None if found.adapter is None else base_of(found.adapter)
    if name is None:
        raise GraspError(f"{found.called} does not name its base model: give it with --base")
    return {"name": name}
