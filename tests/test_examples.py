"""Each example runs from its first line to its last, with a tiny model."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
from tests.helpers.models import tiny_llama
from tests.helpers.tokenizer import tiny_tokenizer

from grasp_lora.merging.reading import WEIGHTS_FILE

EXAMPLES = Path(__file__).parents[1] / "examples"
OF_ADAPTERS = {"merge_files", "llama_cpp_adapter"}  # tested in merging/; by hand, since it builds llama.cpp
SCRIPTS = sorted(path for path in EXAMPLES.glob("*.py") if path.stem not in OF_ADAPTERS)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_llama().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_leaves_an_adapter_pruned_at_the_learned_ratio(script, model, monkeypatch, capsys):
    if "trl" in script.stem:
        pytest.importorskip("trl")
    monkeypatch.setattr(sys, "argv", [str(script), str(model)])
    runpy.run_path(str(script), run_name="__main__")
    found = re.search(r"p\* = (\d\.\d{3}); the adapter is in (.+)", capsys.readouterr().out)
    assert 0.1 <= float(found[1]) <= 0.8
    assert zeros(Path(found[2])) == pytest.approx(float(found[1]), abs=0.03)
    assert zeros(Path(found[2]).parent / "merged") < 0.01


def zeros(folder):
    """The share of an adapter's entries that are zero."""
    from safetensors.torch import load_file

    tensors = load_file(folder / WEIGHTS_FILE).values()
    return sum(int((t == 0).sum()) for t in tensors) / sum(t.numel() for t in tensors)


@pytest.mark.slow
def test_the_notebook(model, monkeypatch, capsys):
    monkeypatch.setenv("BACKBONE", str(model))
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))
    names = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"]
            exec("".join(cell["source"]), names)
    assert "Deploy: " in capsys.readouterr().out
    assert [row.method for row in names["result"].rows] == [
        "lora_target",
        "sequential",
        "merge",
        "prune_after",
        "grasp",
    ]
    assert names["again"].folder != names["result"].folder
