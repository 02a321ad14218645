"""The layout holds: arrows point downwards, and what should stay light or local does."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "grasp_lora"
FILES = sorted(PACKAGE.rglob("*.py"))

# From top to bottom: a file imports from its own line or from the lines below it.
LAYERS = [
    {"__init__"},
    {"cli"},
    {"experiment"},
    {"methods"},
    {"config"},
    {"stages"},
    {"reporting", "executors"},
    {"workspace"},
    {"control"},
    {"lm"},
    {"data"},
    {"merging"},
    {"tasks"},
    {"metrics"},
    {"cost"},
    {"ratios"},
    {"yamls"},
    {"collecting", "energy", "errors", "failures", "paths", "ranks", "settings", "stopping", "version"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Absolute dotted names of all that a module imports, wherever in the file, `from a import b` as `a.b`.

    Args:
        tree: The parsed module.
        package: The package that the module is in, which relative imports start from.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = parents[: len(parents) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def imports_of(file: Path) -> list[str]:
    package = ".".join(file.relative_to(PACKAGE.parent).parent.parts)
    return list(imported(ast.parse(file.read_text(encoding="utf-8")), package))


def layer(dotted: str) -> str:
    """`grasp_lora.lm.loss.nll` is in the layer `lm`, and `grasp_lora.RatioPolicy` in `__init__`."""
    first = dotted.split(".")[1] if "." in dotted else "__init__"
    return first if (PACKAGE / first).is_dir() or (PACKAGE / f"{first}.py").is_file() else "__init__"


def name_of(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("if TYPE_CHECKING:\n    from grasp_lora.lm import loss", ["grasp_lora.lm.loss"]),
        ("def f():\n    import grasp_lora.cli", ["grasp_lora.cli"]),
        ("from .. import plan", ["grasp_lora.plan"]),
        ("from ..lm.loss import nll as loss", ["grasp_lora.lm.loss.nll"]),
        ("from .policy import RatioPolicy", ["grasp_lora.control.policy.RatioPolicy"]),
    ],
)
def test_finds_imports_wherever_they_are(source: str, names: list[str]) -> None:
    assert list(imported(ast.parse(source), "grasp_lora.control")) == names


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_point_downwards(file: Path) -> None:
    own = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert own in RANK, f"{name_of(file)}: give `{own}` its line in LAYERS"
    ours = [n for n in imports_of(file) if n.split(".")[0] == "grasp_lora"]
    upward = [name for name in ours if RANK[layer(name)] < RANK[own]]
    assert not upward, f"{name_of(file)} imports from above: {upward}"


@pytest.mark.parametrize("file", [f for f in FILES if f.parent.name == "stages"], ids=name_of)
def test_stages_meet_through_files(file: Path) -> None:
    found = [
        name for name in imports_of(file) if name.startswith(("grasp_lora.stages.", "grasp_lora.config"))
    ]
    assert not found, f"{name_of(file)} imports another stage, or the config: {found}"


def quoted(file: Path) -> Iterator[str]:
    """The string literals of a file, but for docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def test_methods_are_named_in_their_room_only() -> None:
    from grasp_lora.merging import METHODS as MERGES
    from grasp_lora.merging import PEFT_METHODS
    from grasp_lora.methods.plan import NAMES

    # "merge" is also a verb, "optuna" a package, "curve" and "halving" rules for p*, PEFT's names are PEFT's.
    names = set(NAMES.known) - {*PEFT_METHODS, *MERGES, "merge", "optuna", "curve", "halving"}
    others = {
        ("cli/main.py", "grasp"),
        ("config/checks.py", "grid"),  # a key, named in a message
        ("config/parts.py", "grid"),  # how folds search
        ("config/tree.py", "grid"),  # a key, whose default depends on another
        ("reporting/sections/rank_check.py", "rank_check"),
    }
    found = {
        (name_of(file), text)
        for file in FILES
        if file.parent.name != "methods"
        for text in quoted(file)
        if text in names
    }
    assert found == others


def test_each_file_of_a_run_is_named_in_one_place() -> None:
    """In `workspace.records`, or where a room below writes it on its own account."""
    homes: dict[str, set[str]] = {}
    for file in FILES:
        if name_of(file).startswith(("data/", "lm/packaged/", "tasks/")):
            continue  # their files lie elsewhere: models, data sets
        for text in quoted(file):
            if re.fullmatch(r"[\w-]+\.(jsonl|json|safetensors|yaml|md)", text) and "demo" not in text:
                homes.setdefault(text, set()).add(name_of(file))
    assert "workspace/records.py" in homes["done.json"]
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


@pytest.mark.parametrize("module", ["policy", "pruning", "units", "importance"])
def test_the_method_itself_needs_only_arrays(module: str) -> None:
    roots = {name.split(".")[0] for name in imports_of(PACKAGE / "control" / f"{module}.py")}
    assert roots <= {"torch", "numpy", "grasp_lora", *sys.stdlib_module_names}


def test_only_callbacks_know_transformers() -> None:
    users = {
        file.name
        for file in (PACKAGE / "control").glob("*.py")
        if {"transformers", "peft"} & {name.split(".")[0] for name in imports_of(file)}
        or "grasp_lora.lm.checkpoints.CarriesState" in imports_of(file)  # which is a callback of theirs
    }
    searches = {"halving_search.py"}
    assert users == {"callback.py", "curve_callback.py", "fixed_mask.py", "merge_prune.py"} | searches


@pytest.mark.parametrize("module", ["grasp_lora", "grasp_lora.cli.main"])
def test_importing_it_and_its_help_is_light(module: str) -> None:
    heavy = {"torch", "transformers", "peft", "accelerate", "datasets", "trl", "matplotlib", "pandas"}
    heavy |= {"numpy", "pydantic", "yaml", "jinja2"}
    code = f"import sys, {module}; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_no_file_names_a_folder_of_one_machine() -> None:
    machine = re.compile(r"(?<![\w.~}$/-])/(?:home|root|work|tmp)/")
    files = [p for folder in ("src", "docs", "configs") for p in (ROOT / folder).rglob("*") if p.is_file()]
    files += [*ROOT.glob("*.md"), ROOT / "pyproject.toml", ROOT / "Makefile"]
    text = {".py", ".md", ".yaml", ".toml", ".json", ".csv", ".svg", ".html", ".txt", ""}
    found = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in files
        if file.suffix in text and ".egg-info" not in str(file)
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if machine.search(line)
    ]
    assert not found
