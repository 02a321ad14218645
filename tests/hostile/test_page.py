"""docs/reliability.md is made of its parts, and the named cases are all tried."""

import ast
from pathlib import Path

from tests.helpers.reliability import PAGE, Part, Table, read_parts, rendered, write_part

CASES = {
    "an adapter of another base model", "DoRA and other types of PEFT", "weights that are NaN or infinite",
    "an adapter that is all zeros", "ranks of 1 and 256", "a vocabulary larger than the embedding",
    "a model without a padding token", "m larger than the micro-dev set", "p_min = p_max", "C = 1",
    "a pickle where safetensors belong", "safetensors with a header that lies",
    "path traversal in members of archives", "names of runs, adapters and languages that are paths",
    "YAML: tags, bombs, nesting", "templates that reach for attributes", "symlinks out of the run's folder",
    "keys that make PEFT import a module", "archive bombs", "a backbone's revision",
    "tokens and user names in cards, env.json, reports", "code that comes with a model",
}  # fmt: skip


def marked():
    """The cases that tests say they try."""
    for path in Path(__file__).parents[1].rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.hostile":
                yield ast.literal_eval(node.args[0])


def test_every_named_case_is_tried():
    assert CASES - set(marked()) == set()


def test_the_page_is_what_its_parts_say():
    assert PAGE.read_text(encoding="utf-8") == rendered(read_parts())


def test_a_part_is_written_and_read(tmp_path):
    part = Part("x", "X", "make x", ("One.",), (Table("", ("a", "b"), (("1", "2|3"),)),), {"cores": 2})
    write_part(part, tmp_path)
    (read,) = read_parts(tmp_path)
    assert rendered([read]) == rendered([part])
    assert rendered([part]).endswith(
        "## X\n\nOne.\n\n| a | b |\n| --- | --- |\n| 1 | 2\\|3 |\n\nMeasured again by `make x`."
        " On: cores 2.\n"
    )
