"""Deployment: what is measured, in both forms of the model, and the stage that does it."""

import json
from dataclasses import asdict, replace
from itertools import count

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.helpers.models import random_adapter, tiny_gemma3, tiny_llama
from tests.helpers.tokenizer import tiny_tokenizer

from grasp_lora.errors import GraspError
from grasp_lora.experiment import make, start
from grasp_lora.lm.backbone import Backbone
from grasp_lora.lm.deployment import adapter_size, measure_deployment
from grasp_lora.lm.encoding import Limits
from grasp_lora.lm.generation import generate
from grasp_lora.stages.deploy import DEPLOY
from grasp_lora.tasks.example import Example
from grasp_lora.workspace.stage import Stage

TOKENIZER = tiny_tokenizer()
EXAMPLES = [Example(str(i), f"say {word}\n", word) for i, word in enumerate(["ab", "fox jumps"])]
LIMITS = Limits(40, 5)
TARGETS = ["q_proj", "v_proj"]


def loader(factory=tiny_gemma3, seeds=None):
    """Gives a new model at each call, of the next of the seeds."""
    numbers = iter(seeds) if seeds is not None else (0 for _ in count())
    return lambda: Backbone(factory(seed=next(numbers)), TOKENIZER, "tiny")


@pytest.fixture
def adapter(tmp_path):
    return random_adapter(tiny_gemma3(), tmp_path / "adapter", seed=1, target_modules=TARGETS, r=4)


def test_both_forms_are_measured(adapter):
    measured = measure_deployment(loader(), adapter, EXAMPLES, LIMITS, repeats=2)
    for form in (measured.unmerged, measured.merged):
        values = asdict(form)
        merge = values.pop("merge_seconds")
        assert (merge > 0) == (form is measured.merged)
        assert all(value > 0 for value in values.values())
        assert form.peak_bytes > 1e7  # a Python with torch
        assert 1 / form.tokens_per_second < 1
    assert (measured.examples, measured.new_tokens, measured.repeats) == (2, 5, 2)
    assert (measured.device, measured.dtype) == ("cpu", "float32")
    assert measured.prompt_tokens == 11.5  # start token, "say ", word and newline: the median of 8 and 15
    assert measured.same_answers == 1.0  # as it must be in float32
    json.dumps(asdict(measured))


def test_each_load_is_of_a_new_backbone_and_answers_that_differ_are_seen(adapter):
    seeds = iter([0, 0, 0, 5, 5])  # untimed; twice beside the base; twice merged, into another base
    measured = measure_deployment(loader(seeds=seeds), adapter, EXAMPLES, LIMITS, repeats=2)
    assert measured.same_answers < 1
    assert next(seeds, None) is None


def test_the_adapter_is_beside_the_base_then_in_its_weights(adapter):
    models = []

    def load():
        models.append(tiny_gemma3())
        return Backbone(models[-1], TOKENIZER, "tiny")

    measure_deployment(load, adapter, EXAMPLES, LIMITS, repeats=1)
    plain = dict(tiny_gemma3().named_parameters())
    _, beside, merged = (dict(model.named_parameters()) for model in models)
    site = "model.layers.0.self_attn.q_proj"
    assert torch.equal(beside[f"{site}.base_layer.weight"], plain[f"{site}.weight"])
    assert beside[f"{site}.lora_A.default.weight"].abs().sum() > 0
    assert merged.keys() == plain.keys()
    assert not torch.equal(merged[f"{site}.weight"], plain[f"{site}.weight"])


def test_a_backbone_without_adapter(tmp_path):
    measured = measure_deployment(loader(tiny_llama), None, EXAMPLES, LIMITS, repeats=2)
    assert (measured.adapter, measured.merged, measured.same_answers) == (None, None, None)
    assert measured.unmerged.adapter_load_seconds == 0
    assert measured.unmerged.tokens_per_second > 0


def test_one_new_token_has_no_rate_after_it():
    measured = measure_deployment(loader(), None, EXAMPLES, Limits(40, 1), repeats=2)
    assert measured.unmerged.tokens_per_second is None
    assert measured.unmerged.first_token_seconds > 0


@pytest.mark.parametrize("end", [TOKENIZER.eos_token_id, 5])
def test_stop_tokens_do_not_shorten_what_is_timed(end):
    def load():
        model = tiny_llama()
        model.generation_config.eos_token_id = [TOKENIZER.eos_token_id, end]
        ends = torch.zeros(48)
        ends[end] = 1e4
        model.lm_head.bias = torch.nn.Parameter(ends)
        return Backbone(model, TOKENIZER, "tiny")

    assert generate(load().model, TOKENIZER, EXAMPLES, Limits(40, 5)) == [""] * 2
    rate = measure_deployment(load, None, EXAMPLES, LIMITS, repeats=2).unmerged.tokens_per_second
    assert rate > 0  # four more tokens were made


def test_the_adapters_size_counts_what_is_not_zero(adapter):
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    for weight in weights.values():
        weight.view(-1)[: weight.numel() // 4] = 0
    save_file(weights, file)
    size = adapter_size(adapter)
    entries = sum(w.numel() for w in weights.values())
    assert size.file_bytes == file.stat().st_size > entries * 4
    assert (size.entries, size.nonzero_share, size.nonzero_bytes) == (entries, 0.75, entries * 3)
    save_file({name: w.to(torch.bfloat16) for name, w in weights.items()}, file)
    assert adapter_size(adapter).nonzero_bytes == entries * 3 // 2


def test_nothing_to_measure_is_an_error(tmp_path):
    with pytest.raises(GraspError, match="there are none"):
        measure_deployment(loader(), None, [], LIMITS)
    with pytest.raises(GraspError, match="holds no adapter"):
        measure_deployment(loader(), tmp_path, EXAMPLES, LIMITS, repeats=2)


def test_the_stage_measures_once(tmp_path):
    tiny_llama().save_pretrained(tmp_path / "backbone")
    TOKENIZER.save_pretrained(tmp_path / "backbone")
    adapter = random_adapter(tiny_llama(), tmp_path / "adapter", seed=1, target_modules=TARGETS)
    rows = [{"text": f"ab {number}", "title": "ab"} for number in range(6)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "run.yaml").write_text(
        f"name: tiny\nruns: {tmp_path}/runs\nbackbone: {tmp_path}/backbone\ndevice: cpu\n"
        "source: {language: en}\ntarget: {language: ar}\nmax_length: 40\nmax_new_tokens: 3\n"
        'task: {name: copy, prompt: "say {text}\\n", target: title,'
        " languages: {en: {test: test.jsonl}, ar: {test: test.jsonl}}}\n"
    )
    x = start(tmp_path / "run.yaml")

    def deploy(examples, name, adapter):
        test = replace(x.rows(x.config.target, "test"), limit=examples)
        given = {"model": x.model, "adapter": adapter, "examples": test, "limits": x.limits}
        (folder,) = make(x, [Stage(f"deployment/{name}", DEPLOY, given)])
        return folder / "deployment.json"

    file = deploy(4, "merge", adapter)
    assert file == x.config.folder / "deployment" / "merge" / "deployment.json"
    written = json.loads(file.read_text())
    assert written["examples"] == 4
    assert written["adapter"]["file_bytes"] == (adapter / "adapter_model.safetensors").stat().st_size
    assert written["merged"]["tokens_per_second"] > 0
    before = file.stat().st_mtime_ns
    deploy(4, "merge", adapter)
    assert file.stat().st_mtime_ns == before
    bare = json.loads(deploy(2, "zero_shot", None).read_text())
    assert (bare["examples"], bare["adapter"], bare["merged"]) == (2, None, None)
