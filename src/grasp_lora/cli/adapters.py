"""The verbs for what comes after a run: look at an adapter, pass it on, publish it."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from grasp_lora.cli.verbs import add_verb
from grasp_lora.errors import GraspError

__all__ = ["add_adapter_verbs"]

ADAPTER_HELP = "a folder, or OWNER/NAME[@REVISION] on the model hub"


def add_adapter_verbs(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verbs to the parser of `grasp`; `common` has the options that every verb has."""

    def add(name: str, verb: Any, help: str, example: str, more: str = "") -> argparse.ArgumentParser:
        parser = add_verb(verbs, common, name, verb, help, example, more=more)
        parser.add_argument("adapter", help=ADAPTER_HELP)
        return parser

    look = add(
        "inspect",
        _inspect,
        "Show an adapter's ranks, zeros, norms.",
        "grasp inspect runs/titles/final/seed42 --figure adapter.svg",
        "From its files alone, by layer, projection and merged adapter; its effective ranks, too.",
    )
    look.add_argument(
        "--parts", type=Path, metavar="FOLDER", help="the merge that it was trained from: zeros by its parts"
    )
    look.add_argument("--figure", type=Path, metavar="FILE", help="draw them, into an .svg or a .png")

    export = add(
        "export",
        _export,
        "Pass an adapter on, to other loaders or smaller.",
        "grasp export runs/titles/final/seed42 --to titles-ar --for vllm --energy 0.99",
        "As it is, of lower rank, for vLLM or llama.cpp, or merged into its base model. What was written is "
        "compared with the original before it appears.",
    )
    export.add_argument("--to", type=Path, required=True, metavar="DIR", help="a new folder")
    how = export.add_mutually_exclusive_group()
    how.add_argument("--rank", type=int, metavar="R", help="lower every module's rank to R")
    how.add_argument(
        "--energy", type=float, metavar="SHARE", help="or as far as this share of each delta W's energy stays"
    )
    how.add_argument("--merge-into-base", action="store_true", help="full weights and the tokenizer")
    export.add_argument(
        "--for", choices=("peft", "vllm", "llama.cpp"), default="peft", dest="loader", help="what loads it"
    )
    export.add_argument(
        "--dtype", choices=("bf16", "fp16", "fp32"), help="default: as it is, or fp32 where rewritten"
    )
    export.add_argument("--base", metavar="BACKBONE", help="compare the logits on this one, too")
    export.add_argument(
        "--config", type=Path, metavar="CONFIG", help="an experiment: dev loss before and after"
    )
    export.add_argument("overrides", nargs="*", metavar="key=value", help="of the config")

    push = add(
        "push",
        _push,
        "Upload an adapter and its card to the model hub.",
        "grasp push runs/titles/final/seed42 OWNER/titles-ar",
        "After showing what that would be. Only its config, its weights, its card, and how it was merged and "
        "pruned; no data, no paths.",
    )
    push.add_argument("repository", metavar="REPO", help="OWNER/NAME; made, and private, where there is none")
    push.add_argument("--public", action="store_true", help="all may see it")
    push.add_argument("--base", metavar="NAME", help="the base model's name on the hub")
    push.add_argument("--yes", action="store_true", help="do not ask")


def _adapter(given: str) -> str:
    """What was given, unless it is a run."""
    from grasp_lora.merging.hub import CONFIG_FILE
    from grasp_lora.workspace.records import CONFIG_FILE as RUN_FILE
    from grasp_lora.workspace.records import Done
    from grasp_lora.workspace.unfinished import PARTIAL, REPLACED

    folder = Path(given).expanduser()
    if not (folder / RUN_FILE).is_file() or (folder / CONFIG_FILE).is_file():
        return given
    inside = [path.parent for path in folder.rglob(CONFIG_FILE) if (path.parent / Done.FILE).is_file()]
    whole = sorted(one for one in inside if PARTIAL not in one.name and REPLACED not in one.name)
    if not whole:
        raise GraspError(f"{given} is a run, and no adapter in it is finished yet")
    final = next((one for one in whole if one.parent == folder / "final"), whole[0])
    raise GraspError(f"{given} is a run with {len(whole)} adapters: give one, such as {final}")


def _inspect(arguments: argparse.Namespace) -> None:
    from grasp_lora.merging.inspect import inspect_adapter
    from grasp_lora.reporting.inspection import draw_inspection, inspection_text

    found = inspect_adapter(_adapter(arguments.adapter), arguments.parts)
    print(inspection_text(found))
    if arguments.figure is not None:
        draw_inspection(found, arguments.figure)
        print(f"\nThe figure: {arguments.figure}")


def _export(arguments: argparse.Namespace) -> None:
    from grasp_lora.workspace.exporting import export, export_merged

    if arguments.overrides and arguments.config is None:
        raise GraspError(f"{arguments.overrides[0]!r} is a key of a config: give that with --config")
    if arguments.merge_into_base and arguments.loader != "peft":
        raise GraspError(f"every loader reads full weights: leave --for {arguments.loader} out")
    given = {"dtype": arguments.dtype, "base": arguments.base, "dev_loss": _dev_loss(arguments)}
    if arguments.merge_into_base:
        lines = export_merged(_adapter(arguments.adapter), arguments.to, **given)
    else:
        how = {"rank": arguments.rank, "energy": arguments.energy, "loader": arguments.loader}
        lines = export(_adapter(arguments.adapter), arguments.to, **how, **given)
    print(*lines, f"It is in {arguments.to}/", sep="\n")


def _dev_loss(arguments: argparse.Namespace) -> Any:
    if arguments.config is None:
        return None
    from grasp_lora.experiment import dev_losses, start

    x = start(arguments.config, arguments.overrides)
    return lambda original, made: dev_losses(x, original, made)


def _push(arguments: argparse.Namespace) -> None:
    from grasp_lora.merging.hub import find_adapter, upload_folder
    from grasp_lora.merging.reading import base_of
    from grasp_lora.workspace.publishing import prepare_upload

    adapter, repository = find_adapter(_adapter(arguments.adapter)), arguments.repository
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        names = prepare_upload(adapter, folder, repository, arguments.base)
        seen = "all can see" if arguments.public else "is private"
        print(f"To {repository}, which {seen} (base model: {base_of(folder)}):")
        for name in names:
            print(f"  {(folder / name).stat().st_size:>12,} bytes  {name}")
        if not arguments.yes and not _agreed():
            raise GraspError("nothing was uploaded")
        print(f"Uploaded: {upload_folder(folder, repository, public=arguments.public)}")


def _agreed() -> bool:
    try:
        return input("Upload these? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        raise GraspError("nobody answers here: look at the list above, then give --yes") from None
