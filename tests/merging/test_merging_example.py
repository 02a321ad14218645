"""The scripts in examples/ that need nothing but adapters."""

import subprocess
import sys
from pathlib import Path

from tests.helpers.adapter_checks import assert_equals_active_together
from tests.helpers.models import random_adapter, tiny_llama

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_merging_adapters_of_different_kinds_from_their_files(tmp_path):
    """Other ranks, scalings, modules, rsLoRA and patterns; the sum is what PEFT computes with both active."""
    kinds = {
        "en": {"r": 2, "lora_alpha": 8, "use_rslora": True, "target_modules": ["q_proj", "v_proj"]},
        "ar": {"r": 5, "lora_alpha": 3, "rank_pattern": {"q_proj": 7}, "target_modules": "all-linear"},
    }
    adapters = {
        name: random_adapter(tiny_llama(), tmp_path / name, seed=seed, **kind)
        for seed, (name, kind) in enumerate(kinds.items())
    }
    named = [f"{name}={folder}" for name, folder in adapters.items()]
    script = [sys.executable, EXAMPLES / "merge_files.py", tmp_path / "merged", *named]
    done = subprocess.run(list(map(str, script)), capture_output=True, text=True, check=True)
    assert "merged/ is their sum" in done.stdout
    assert_equals_active_together(tiny_llama, adapters, tmp_path / "merged")
