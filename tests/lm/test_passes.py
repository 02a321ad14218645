"""Layers computed twice, and compiled passes: what they change, and that the training is the same."""

import json
import shutil
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from tests.helpers.models import tiny_gemma3, tiny_llama
from tests.helpers.run import write_setting
from tests.helpers.tokenizer import tiny_tokenizer
from torch import nn
from transformers import TrainerCallback

from grasp_lora.cli.main import main
from grasp_lora.control.callback import GraspCallback
from grasp_lora.lm.adapters import Lora, adapter_weights, new_adapter, save_adapter
from grasp_lora.lm.encoding import Limits, encode
from grasp_lora.lm.passes import layers_of, logits_in_one_product
from grasp_lora.lm.training import Training, build_trainer
from grasp_lora.tasks.example import Example

TOKENIZER = tiny_tokenizer()
EXAMPLES = [
    Example(str(i), f"say {word}\n", word) for i, word in enumerate(["ab", "fox", "cab", "de f", "gh"])
]
STEPS = 12


class Calls(list):
    """The modes of the calls of a model's modules of one name."""

    def __init__(self, model, name):
        for path, module in model.named_modules():
            if path.endswith(name):
                module.register_forward_hook(lambda module, *_: self.append(module.training))


def trainer_of(folder, build=tiny_llama, dropout=0.05, rows=EXAMPLES, **training):
    model = new_adapter(build(), Lora(r=2, dropout=dropout))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    rows = [encode(example, TOKENIZER, Limits(40, 6)) for example in rows]
    training = Training(max_steps=STEPS, learning_rate=1e-2, **training)
    return build_trainer(model, TOKENIZER, rows, training, 3, folder, "")


def learn(folder, **how):
    """The factors that a learning run ends with, and its trainer."""
    trainer = trainer_of(folder, **how)
    trainer.add_callback(GraspCallback(trainer, EXAMPLES[:2], every=2, folder=folder))
    trainer.train()
    weights = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
    return weights, trainer


@pytest.mark.parametrize("build", [tiny_llama, tiny_gemma3])
def test_layers_computed_twice_learn_the_same_to_the_bit(tmp_path, build):
    plain, _ = learn(tmp_path / "plain", build=build)
    twice, _ = learn(tmp_path / "twice", build=build, gradient_checkpointing=True)
    assert all(torch.equal(plain[name], twice[name]) for name in plain)
    for log in ("rounds.jsonl", "train_log.jsonl"):
        lines = [(tmp_path / one / log).read_text().splitlines() for one in ("plain", "twice")]
        first, second = ([untimed(json.loads(line)) for line in one] for one in lines)
        assert first == second
        assert first


def untimed(line):
    return {key: value for key, value in line.items() if "second" not in key and "runtime" not in key}


def test_a_layer_is_computed_twice_in_training_only(tmp_path):
    trainer = trainer_of(tmp_path, gradient_checkpointing=True)
    calls = Calls(trainer.model, "layers.0.self_attn.q_proj")
    trainer.add_callback(GraspCallback(trainer, EXAMPLES[:2], every=6, folder=tmp_path))
    trainer.train()
    assert calls.count(True) == 2 * STEPS
    evaluated = calls.count(False)
    assert evaluated > 0
    model = trainer.model.train()  # and afterwards it is as it was
    output = model(input_ids=torch.tensor([[1, 4, 5]]))
    assert (calls.count(True), calls.count(False)) == (2 * STEPS + 1, evaluated)
    assert not model.get_input_embeddings()(torch.tensor([1])).requires_grad
    output.logits.sum().backward()


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.slow
def test_a_compiled_run_learns_the_same_trajectory(tmp_path):
    """Without dropout, whose draws are others in compiled code; rows of one length need one compilation."""
    from torch._dynamo.utils import counters
    from torch._inductor import config

    how = {"build": partial(tiny_llama, layers=1), "dropout": 0.0, "rows": [EXAMPLES[0]] * 2}
    plain, _ = learn(tmp_path / "plain", **how)
    counters.clear()
    with config.patch(compile_threads=1):  # no processes to compile in, which take longer to start
        compiled, trainer = learn(tmp_path / "compiled", torch_compile=True, **how)
    assert counters["stats"]["unique_graphs"] >= 2  # of a layer in training, and in dev losses and probes
    assert not any(module._compiled_call_impl for module in trainer.model.modules())
    assert compiled.keys() == plain.keys()  # as adapters have them, without a compiled model's own names
    for name, weight in plain.items():
        torch.testing.assert_close(compiled[name], weight, rtol=2e-3, atol=2e-4)
    save_adapter(trainer.model, tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "adapter_model.safetensors")
    assert saved.keys() == adapter_weights(trainer.model).keys()
    rounds = [
        [json.loads(line) for line in (tmp_path / one / "rounds.jsonl").read_text().splitlines()]
        for one in ("plain", "compiled")
    ]
    for one, other in zip(*rounds, strict=True):
        assert other["p_next"] == pytest.approx(one["p_next"], abs=1e-3)
        assert other["base_reward"] == pytest.approx(one["base_reward"], rel=1e-4)


def refused(tmp_path, capsys, *settings):
    setting = write_setting(tmp_path)
    assert main(["run", str(setting / "run.yaml"), f"runs={tmp_path}/runs", *settings]) == 2
    assert not list((tmp_path / "runs").rglob("done.json"))
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_without_a_compiler_one_message_before_anything_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    said = refused(tmp_path, capsys, "methods=[grasp]", "learn.training.torch_compile=true")
    assert "torch_compile: true needs a C++ compiler" in said


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_inputs_of_compiled_passes_are_not_to_be_had(tmp_path, capsys):
    for rescore in ("train_batch", "validation"):
        settings = [f"merge_prune.rescore={rescore}", "training.torch_compile=true"]
        said = refused(tmp_path / rescore, capsys, "methods=[merge_prune]", *settings)
        assert "merge_prune.importance: input" in said


def eagerly_compiled(monkeypatch):
    """Whether gradients are on as each graph is captured; nothing is compiled."""
    captured = []
    whole = torch.compile

    def backend(graph, inputs):
        captured.append(torch.is_grad_enabled())
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda model, **how: whole(model, **how | {"backend": backend}))
    torch._dynamo.reset()
    return captured


def test_every_layer_is_compiled_while_it_trains_and_no_longer(tmp_path, monkeypatch):
    captured = eagerly_compiled(monkeypatch)
    for rank in (2, 3, 4, 5):  # one code in one process: no training may use up what the next ones need
        model = new_adapter(tiny_llama(layers=3), Lora(r=rank))
        rows = [encode(example, TOKENIZER, Limits(40, 6)) for example in EXAMPLES]
        training = Training(max_steps=4, batch_size=2, torch_compile=True)
        trainer = build_trainer(model, TOKENIZER, rows, training, 3, tmp_path / str(rank), "")
        seen = Compiled()
        for callback in (seen, GraspCallback(trainer, EXAMPLES[:2], every=2)):
            trainer.add_callback(callback)
        before = len(captured)
        trainer.train()
        assert seen.layers == [3] * 4
        assert {*captured[before:]} == {True, False}  # training passes, and probes
        assert not compiled_parts(model)


def test_a_training_that_is_ended_leaves_its_layers_as_they_were(tmp_path, monkeypatch):
    eagerly_compiled(monkeypatch)
    trainer = trainer_of(tmp_path, torch_compile=True)
    trainer.add_callback(Compiled(end=True))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert not compiled_parts(trainer.model)


def test_what_the_layers_of_a_model_are():
    class Layer(nn.Module):
        pass

    class Model(nn.Module):
        def __init__(self, kinds):
            super().__init__()
            self.layers = nn.ModuleList([Layer(), Layer()])
            self._no_split_modules = kinds

    for kinds in (["Layer"], {"Layer"}, "Layer"):
        model = Model(kinds)
        assert layers_of(nn.Sequential(model)) == [*model.layers]
    assert layers_of(model := Model(None)) == [model]


class Compiled(TrainerCallback):
    """How many layers are compiled as each step ends."""

    def __init__(self, end=False):
        self.layers, self.end = [], end

    def on_step_end(self, args, state, control, model, **_):
        self.layers.append(len(compiled_parts(model)))
        if self.end:
            raise KeyboardInterrupt


def compiled_parts(model):
    return [part for part in model.modules() if part._compiled_call_impl is not None]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_logits_of_a_batch_are_one_product(tmp_path, batch_size, monkeypatch):
    """One block of memory is what PyTorch makes one product of, also where there is one row."""
    seen = []

    def weights(folder):
        trainer = trainer_of(folder, batch_size=batch_size, torch_compile=False)
        head = trainer.model.get_output_embeddings()
        hook = head.register_forward_hook(
            lambda _, given, __: seen.append((given[0].shape, given[0].stride()))
        )
        trainer.train()
        hook.remove()
        assert not head._forward_pre_hooks
        return torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad])

    def in_one_block():
        return [stride == (k * hidden, hidden, 1) for (_, k, hidden), stride in seen]

    here = weights(tmp_path / "one")
    assert len(seen) == STEPS
    assert all(in_one_block())
    seen.clear()
    monkeypatch.setattr("grasp_lora.lm.saving.logits_in_one_product", lambda _: nullcontext())
    torch.testing.assert_close(weights(tmp_path / "each"), here)
    assert not any(in_one_block())


class _Headed(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.head = head

    def get_output_embeddings(self):
        return self.head


class _Two(nn.Module):
    def forward(self, one, other=None):
        return one, other


def test_what_a_head_is_given_otherwise_stays_as_it_is():
    model, given = _Headed(_Two()), torch.randn(3, 4, 5)[:, 1:]
    with logits_in_one_product(model):
        assert model.head(given)[0].is_contiguous()
        assert model.head(one=given)[0] is given
        assert model.head(given, given)[0] is given
        assert model.head(given[0])[0].data_ptr() == given.data_ptr()
    assert model.head(given)[0] is given
    for nothing in (nn.Linear(1, 1), _Headed(None)):
        with logits_in_one_product(nothing):
            pass


def test_a_training_that_ends_by_an_error_leaves_the_head_alone():
    model = _Headed(_Two())
    with pytest.raises(KeyboardInterrupt), logits_in_one_product(model):
        raise KeyboardInterrupt
    assert not model.head._forward_pre_hooks
