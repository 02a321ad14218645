"""Data-parallel ranks share the probing and stay in step, with a whole backbone each or a sharded one."""

import json
import os
import shutil
import socket

import pytest
import torch
from tests.helpers.models import tiny_llama
from tests.helpers.tokenizer import tiny_tokenizer
from torch import distributed, multiprocessing
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer, TrainingArguments

from grasp_lora.control.callback import GraspCallback
from grasp_lora.control.controller import GraspController
from grasp_lora.control.curve import RatioCurve
from grasp_lora.control.input_importance import InputImportance
from grasp_lora.control.units import adapter_parameters
from grasp_lora.errors import GraspError
from grasp_lora.lm.adapters import Lora, new_adapter
from grasp_lora.lm.batches import TargetCollator
from grasp_lora.lm.encoding import Limits, encode
from grasp_lora.lm.loss import TargetLoss
from grasp_lora.tasks.example import Example

MICRO_DEV = [Example(str(i), f"say {'abcdefgh'[: i + 1]}:", "abcdefgh"[: i + 1]) for i in range(7)]
TRAIN = [Example(f"t{i}", f"say {'hijklmno'[: i + 1]}:", "hijklmno"[: i + 1]) for i in range(8)]


def adapted(dropout=0.05):
    torch.manual_seed(0)
    model = new_adapter(tiny_llama(), Lora(r=2, dropout=dropout))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return model


def meet(folder, rank, world):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)


def leave():
    """End this process at once: Python, which takes DDP's reducer apart as it ends, may wait for a thread of
    gloo that waits for Python, and then it never ends.
    """
    distributed.destroy_process_group()
    os._exit(0)


def learn(folder):
    """Four rounds on one rank; writes its losses and rounds."""
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    model = adapted()
    loss = TargetLoss(MICRO_DEV, tiny_tokenizer(), model, max_length=40, max_new_tokens=10, token_budget=30)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    controller = GraspController(model, optimizer, lambda m: -loss(m), every=1, folder=folder)
    per_example = loss.per_example(model.eval()).tolist()
    for _ in range(4):
        controller.after_optimizer_step()
    rounds = [r.to_json() for r in controller.rounds]
    (folder / f"rank{rank}.json").write_text(json.dumps([per_example, rounds]))


def learn_together(rank, folder, world):
    meet(folder, rank, world)
    learn(folder)
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world", [pytest.param(2, marks=pytest.mark.rare), 3])
def test_ranks_see_the_same_rewards_as_one(tmp_path, world):
    (tmp_path / "one").mkdir()
    (tmp_path / "several").mkdir()
    learn(tmp_path / "one")
    multiprocessing.spawn(learn_together, args=(tmp_path / "several", world), nprocs=world)
    alone = json.loads((tmp_path / "one" / "rank0.json").read_text())
    first, *others = (json.loads((tmp_path / "several" / f"rank{r}.json").read_text()) for r in range(world))
    assert all(other == first for other in others)
    assert first[0] == pytest.approx(alone[0])
    for shared, single in zip(map(json.loads, first[1]), map(json.loads, alone[1]), strict=True):
        assert shared["base_reward"] == pytest.approx(single["base_reward"], rel=1e-5)
        assert shared["p_next"] == pytest.approx(single["p_next"], abs=1e-3)
    lines = (tmp_path / "several" / "rounds.jsonl").read_text().splitlines()  # written by the main rank alone
    assert len(lines) == 4


def learn_by_own_rewards(rank, folder):
    """The user's reward looks at the rank's shard alone."""
    meet(folder, rank, 2)
    model = adapted()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    seen = []

    def reward(model):
        share = sum((p == 0).sum().item() for p in adapter_parameters(model).values())
        seen.append(share / 100 if rank == 0 else -share / 50)
        return seen[-1]

    controller = GraspController(model, optimizer, reward, every=1)
    for _ in range(4):
        controller.after_optimizer_step()
    masks = [mask.tolist() for mask in controller.masked.masks().values()]
    rounds = [r.to_json() for r in controller.rounds]
    (folder / f"rank{rank}.json").write_text(json.dumps([rounds, masks, seen]))
    distributed.destroy_process_group()


@pytest.mark.slow
def test_ranks_with_rewards_of_their_own_stay_in_step(tmp_path):
    multiprocessing.spawn(learn_by_own_rewards, args=(tmp_path,), nprocs=2)
    first, second = (json.loads((tmp_path / f"rank{r}.json").read_text()) for r in (0, 1))
    assert first[:2] == second[:2]
    assert first[2] != second[2]
    mean = (first[2][0] + second[2][0]) / 2
    assert json.loads(first[0][0])["base_reward"] == pytest.approx(mean)


def teach_together(rank, folder):
    """Each rank has rows of its own, and DDP's mean of their gradients."""
    meet(folder, rank, 2)
    model = adapted(dropout=0.0)
    loss = TargetLoss(MICRO_DEV, tiny_tokenizer(), model, max_length=40, max_new_tokens=10, token_budget=30)
    batches = TargetLoss(
        TRAIN[rank::2], tiny_tokenizer(), model, max_length=40, max_new_tokens=10, token_budget=30
    )
    curve = RatioCurve(model, loss.per_example, ratios=3)
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    masked = []
    for batch in batches.batches:
        with curve.step():
            masked.append([(p == 0).tolist() for p in adapter_parameters(model).values()])
            wrapped(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    weights = [p.tolist() for p in adapter_parameters(model).values()]
    seen = [point.losses for point in curve.measure().points]
    (folder / f"rank{rank}.json").write_text(json.dumps([masked, weights, seen]))
    leave()


@pytest.mark.slow
def test_ranks_have_one_mask_in_each_step(tmp_path):
    multiprocessing.spawn(teach_together, args=(tmp_path,), nprocs=2)
    first, second = (json.loads((tmp_path / f"rank{r}.json").read_text()) for r in (0, 1))
    assert first == second
    assert len({json.dumps(masks) for masks in first[0]}) == len(first[0]) > 1


def train_batch_norms(examples):
    """||X_j|| by site after one training pass over the examples."""
    model, tokenizer = adapted(), tiny_tokenizer()
    importance = InputImportance(model, adapter_parameters(model), rescore="train_batch")
    encoded = [encode(e, tokenizer, Limits(40, 10)) for e in examples]
    model.train()
    torch.manual_seed(0)
    model(**TargetCollator(tokenizer, model)(encoded))
    norms = importance.input_norms()
    importance.close()
    return norms


def train_batch_norms_together(rank, folder):
    meet(folder, rank, 2)
    torch.save(train_batch_norms(MICRO_DEV[:3] if rank == 0 else MICRO_DEV[3:]), folder / f"rank{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_score_by_the_whole_training_batch(tmp_path):
    multiprocessing.spawn(train_batch_norms_together, args=(tmp_path,), nprocs=2)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    halves = train_batch_norms(MICRO_DEV[:3]), train_batch_norms(MICRO_DEV[3:])
    assert first.keys() == halves[0].keys()
    for site, norms in first.items():
        assert torch.equal(norms, second[site])
        torch.testing.assert_close(norms, (halves[0][site] ** 2 + halves[1][site] ** 2).sqrt())


def train_together(rank, folder, world, resume=None):
    """transformers' own data-parallel training, as a launcher's environment asks for it."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=(folder / "port").read_text())
    model, tokenizer = adapted(), tiny_tokenizer()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=4,
            learning_rate=1e-2,
            use_cpu=True,
            report_to="none",
            save_strategy="steps",
            save_steps=3,
            disable_tqdm=True,
            remove_unused_columns=False,
            per_device_train_batch_size=2,
        ),
        train_dataset=[encode(e, tokenizer, Limits(40, 10)) for e in TRAIN],
        data_collator=TargetCollator(tokenizer, model),
        processing_class=tokenizer,
    )
    grasp = GraspCallback(
        trainer, MICRO_DEV, every=2, max_length=40, max_new_tokens=10, folder=folder / "learn"
    )
    trainer.add_callback(grasp)
    trainer.train(resume_from_checkpoint=resume)
    assert isinstance(trainer.model_wrapped, torch.nn.parallel.DistributedDataParallel)
    weights = {name: p.detach() for name, p in adapter_parameters(model).items()}
    torch.save((weights, [r.to_json() for r in grasp.result.rounds]), folder / f"rank{rank}.pt")
    leave()


@pytest.mark.slow
@pytest.mark.parametrize(
    "world", [pytest.param(2, marks=pytest.mark.rare), 3]
)  # eight rows in batches of two: three have an uneven last one
def test_a_data_parallel_trainer_keeps_its_ranks_together_and_resumes(tmp_path, world):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        (tmp_path / "port").write_text(str(free.getsockname()[1]))
    multiprocessing.spawn(train_together, args=(tmp_path, world), nprocs=world)
    (first, rounds), *several = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(world))
    for weights, others in several:
        assert rounds == others
        assert all(torch.equal(weight, weights[name]) for name, weight in first.items())
    assert [json.loads(r)["step"] for r in rounds] == [2, 4]
    p = json.loads(rounds[-1])["p_next"]
    zeros = sum((w == 0).sum().item() for w in first.values()) / sum(w.numel() for w in first.values())
    assert zeros == pytest.approx(p, abs=0.05)
    lines = (tmp_path / "learn" / "rounds.jsonl").read_text().splitlines()
    assert len(lines) == 2
    shutil.rmtree(tmp_path / "checkpoint-4")
    multiprocessing.spawn(train_together, args=(tmp_path, world, True), nprocs=world)
    for rank in range(world):
        weights, again = torch.load(tmp_path / f"rank{rank}.pt")
        assert again == rounds
        assert all(torch.equal(weight, first[name]) for name, weight in weights.items())
    assert (tmp_path / "learn" / "rounds.jsonl").read_text().splitlines() == lines


def shard(model):
    """As Accelerate does where it is told to ignore the adapter."""
    ignored = set(adapter_parameters(model).values())
    for layer in model.get_base_model().model.layers:
        fully_shard(layer, ignored_params=ignored)
    fully_shard(model, ignored_params=ignored)


def train_shards(folder, world=1):
    """Six steps on each rank's part of the rows, with rounds between; the adapter, the rounds, and what
    share of the backbone this rank holds.
    """
    rank = distributed.get_rank() if world > 1 else 0
    model, tokenizer = adapted(dropout=0.0), tiny_tokenizer()
    whole = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    if world > 1:
        shard(model)
    frozen = [p for p in model.parameters() if not p.requires_grad]
    held = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in frozen) / whole
    loss = TargetLoss(MICRO_DEV, tokenizer, model, max_length=40, max_new_tokens=10, token_budget=30)
    assert len(loss.batches) % 2  # some rank has one less than another
    optimizer = torch.optim.SGD(adapter_parameters(model).values(), lr=0.1)
    controller = GraspController(model, optimizer, lambda m: -loss.per_example(m), every=2)
    collate, rows = TargetCollator(tokenizer, model), [encode(e, tokenizer, Limits(40, 10)) for e in TRAIN]
    for step in range(6):
        model.train()
        for mine in range(rank, 6, world):  # the mean of six rows' losses
            model(**collate([rows[(step + mine) % 8]])).loss.div(6 / world).backward()
        optimizer.step()
        optimizer.zero_grad()
        controller.after_optimizer_step()
    weights = {name: p.detach() for name, p in adapter_parameters(model).items()}
    torch.save((weights, [r.to_json() for r in controller.rounds], held), folder / f"{world}-rank{rank}.pt")


def train_shards_together(rank, folder, world):
    meet(folder, rank, world)
    train_shards(folder, world)
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world", [pytest.param(2, marks=pytest.mark.rare), 3])
def test_a_sharded_backbone_trains_as_a_whole_one(tmp_path, world):
    train_shards(tmp_path)
    multiprocessing.spawn(train_shards_together, args=(tmp_path, world), nprocs=world)
    alone, rounds, _ = torch.load(tmp_path / "1-rank0.pt")
    found = [torch.load(tmp_path / f"{world}-rank{rank}.pt") for rank in range(world)]
    for weights, others, held in found:
        assert others == found[0][1]
        assert held < 1.1 / world + 0.05
        for name, weight in weights.items():
            assert torch.equal(weight, found[0][0][name])
            torch.testing.assert_close(weight, alone[name], atol=1e-4, rtol=1e-3)
    for mine, other in zip(map(json.loads, rounds), map(json.loads, found[0][1]), strict=True):
        assert mine["p_next"] == pytest.approx(other["p_next"], abs=1e-3)


def refuse_shards(rank, folder):
    meet(folder, rank, 2)
    model = adapted()
    for layer in model.get_base_model().model.layers:
        fully_shard(layer)
    with pytest.raises(GraspError, match=r"the adapter is sharded.*FSDP_IGNORED_MODULES"):
        GraspController(model, torch.optim.SGD(model.parameters(), lr=0.1), lambda m: 0.0)
    distributed.destroy_process_group()


@pytest.mark.slow
def test_a_sharded_adapter_is_refused(tmp_path):
    multiprocessing.spawn(refuse_shards, args=(tmp_path,), nprocs=2)
