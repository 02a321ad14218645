"""The verb `grasp config`: what a file comes to, and what its keys mean."""

import argparse
from pathlib import Path
from typing import Any

from grasp_lora.cli.verbs import add_verb
from grasp_lora.errors import GraspError

__all__ = ["add_config_verb"]


def add_config_verb(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add `config` to the parser of `grasp`; `common` has the options that every verb has."""
    parser = add_verb(
        verbs,
        common,
        "config",
        _config,
        "Print a config with its defaults, or what keys mean.",
        "grasp config titles.yaml",
        "grasp config --explain                  # every key",
        "grasp config --explain control.every    # one, or a part such as control",
    )
    parser.add_argument("config", type=Path, nargs="?", help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. control.every=5")
    parser.add_argument(
        "--explain",
        metavar="KEY",
        nargs="?",
        const="",
        help="say what a key means, may be and is by default; needs no file",
    )


def _config(arguments: argparse.Namespace) -> None:
    if arguments.explain is not None:
        from grasp_lora.config.explain import explain

        print(explain(arguments.explain))
        return
    if arguments.config is None:
        raise GraspError("name a YAML file; or --explain for what its keys mean")
    from grasp_lora.experiment import read_config

    print(read_config(arguments.config, arguments.overrides).dump(), end="")
