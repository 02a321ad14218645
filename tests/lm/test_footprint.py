"""What a training is estimated to need, beside what a process needed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.helpers.tokenizer import tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM


@pytest.mark.slow
def test_the_estimate_is_near_the_peak_of_a_process_of_its_own(tmp_path):
    config = LlamaConfig(
        vocab_size=32_000, hidden_size=256, intermediate_size=1024, num_hidden_layers=8,
        num_attention_heads=8, num_key_value_heads=4, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    asked = {"backbone": str(tmp_path), "dtype": "float32", "batch_size": 4, "length": 512}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "memory", "--one", json.dumps(asked)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["measured"] - found["before"] > 2e8  # what is kept of 2048 tokens counts
    assert 0.75 < found["estimated"] / found["measured"] < 1.25
    training = [found[key] - found["before"] for key in ("estimated", "measured")]
    assert 0.67 < training[0] / training[1] < 1.5
