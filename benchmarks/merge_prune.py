"""The cost of pruning at every step (Miyano & Arase), and what its cheaper schedules change.

    python benchmarks/merge_prune.py              # seconds per step: Gemma 3 270M, the demo's data
    python benchmarks/merge_prune.py --compare    # results: SmolLM2 135M, trained with each schedule

Prints one line per figure and, with --out FILE, writes them as JSON with the machine and versions.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from grasp_lora import TargetLoss
from grasp_lora.config.tree import Config
from grasp_lora.control.importance import GradientImportance
from grasp_lora.control.input_importance import InputImportance
from grasp_lora.control.merge_prune import MergePruneCallback, StepPruner
from grasp_lora.control.units import PruneUnit, adapter_parameters, prune_units
from grasp_lora.cost import measure
from grasp_lora.data.find import find_task
from grasp_lora.experiment import run, start
from grasp_lora.lm.adapters import Lora, load_adapter, new_adapter
from grasp_lora.lm.backbone import load_backbone
from grasp_lora.lm.batches import TargetCollator
from grasp_lora.lm.encoding import Limits, encode
from grasp_lora.lm.training import build_trainer
from grasp_lora.merging.parts import Part, read_parts
from grasp_lora.methods.start import Start
from grasp_lora.workspace.environment import environment
from grasp_lora.workspace.resources import Resources

DEMO: dict[str, int] = {"max_length": 80, "max_new_tokens": 16}
SCHEDULES: dict[str, dict[str, Any]] = {
    "validation": {},
    "validation, other seed": {},  # how far two runs of one schedule are apart
    "train_batch": {"rescore": "train_batch"},
    "rescore_every 10": {"rescore_every": 10},
}


def medians(
    works: dict[str, Callable[[], object]], repeats: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Median seconds of each, after one uncounted call; in turns, so that all meet the same load."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            start = clock()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[name].append(clock() - start)
    return {name: statistics.median(each[1:]) for name, each in times.items()}


def step_cost(dev_examples: int, repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """Seconds of one training step, plain and with each importance, on a merge of two adapters of rank 8."""
    backbone = load_backbone("packaged:gemma-3-270m")
    task, tokenizer = find_task("handbook"), backbone.tokenizer
    model = new_adapter(backbone.model, Lora(r=16))
    device = next(model.parameters()).device
    parameters = adapter_parameters(model)
    with torch.no_grad():
        for name, parameter in parameters.items():
            if ".lora_B." in name:
                parameter.normal_(std=0.01)
    sites = [name.split(".lora_")[0].removeprefix("base_model.model.") for name in parameters]
    parts = {site: (Part("en", 0, 8), Part("ar", 8, 16)) for site in sites}
    validation = TargetLoss(
        task.examples("ar", "dev", dev_examples), tokenizer, model, **DEMO, token_budget=2048
    )
    train = sorted((encode(e, tokenizer, Limits(**DEMO)) for e in task.examples("ar", "train")), key=len)
    batch = TargetCollator(tokenizer, model)([train[len(train) // 2]])
    inputs = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
    optimizer = torch.optim.AdamW(list(parameters.values()), lr=1e-4)
    pruner = StepPruner(parameters, parts, p=0.5)
    gradient = GradientImportance(list(parameters.values()))
    faithful = InputImportance(model, parameters, validation, parts)

    def step(importance: Callable[[], Sequence[Tensor]] | None = None) -> None:
        model.train()
        model(**inputs).loss.backward()
        optimizer.step()
        if importance is not None:
            pruner.prune(importance())
        optimizer.zero_grad()

    def step_by_train_batch() -> None:
        with closing(InputImportance(model, parameters, None, parts, "train_batch")) as importance:
            step(importance)

    figures = medians(
        {
            "step_s": step,
            "validation_forward_s": lambda: validation(model),
            "step_input_validation_s": lambda: step(faithful),
            "step_input_train_batch_s": step_by_train_batch,
            "step_gradient_s": lambda: step(gradient),
        },
        repeats,
        clock,
    )
    budget = figures["step_s"] + figures["validation_forward_s"]
    return {**figures, "faithful_ratio": figures["step_input_validation_s"] / budget}


@dataclass
class Trained:
    """What one schedule led to: `pruned` and `scores` have one tensor per factor."""

    dev_loss: float
    pruned: list[Tensor]
    scores: list[Tensor]
    seconds: float
    forward_examples: int


def compare(
    steps: int, validation_examples: int, adapters: Sequence[Path | None]
) -> dict[str, dict[str, float]]:
    """Train one merged adapter with each schedule at p = 0.5; results beside the paper's schedule's."""
    with tempfile.TemporaryDirectory() as folder:
        config = Config.model_validate(
            {
                "name": "schedules",
                "runs": folder,
                "backbone": "packaged:smollm2-135m",
                "task": "handbook",
                "source": {"language": "en", "adapter": adapters[0], "train_examples": 60, "dev_examples": 8},
                "target": {
                    "language": "ar",
                    "adapter": adapters[1],
                    "train_examples": steps,
                    "dev_examples": 24,
                },
                "training": {"epochs": 1, "learning_rate": 1e-4},
                "methods": ["merge_untrained"],
                "evaluation": {"generate": 0, "test_examples": 1},
                **DEMO,
            }
        )
        merged = run(config).adapter
        assert merged is not None
        x, resources = start(config), Resources()
        trained = {}
        for name, how in SCHEDULES.items():
            seed = config.seed + ("seed" in name)
            trained[name] = train(x, resources, merged, seed, validation_examples, how)
            print(f"{name}: {trained[name].seconds:.0f} s", flush=True)
        model = load_adapter(resources.backbone(x.model).model, merged, trainable=True)
        units = prune_units(adapter_parameters(model), read_parts(merged))
    paper = trained["validation"]
    return {
        name: {
            "dev_loss": result.dev_loss,
            "jaccard": statistics.mean(jaccard(u.of(paper.pruned), u.of(result.pruned)) for u in units),
            "spearman": rank_correlation(units, paper.scores, result.scores),
            "seconds": result.seconds,
            "forward_examples": result.forward_examples,
        }
        for name, result in trained.items()
    }


def train(
    x: Start, resources: Resources, merged: Path, seed: int, validation_examples: int, how: dict[str, Any]
) -> Trained:
    """One epoch on the merged adapter; the last step's pruning is still in its weights."""
    backbone = resources.backbone(x.model)
    dev, rows = (resources.examples(x.rows(x.config.target, split)) for split in ("dev", "train"))
    examples = resources.encode(rows, backbone, x.limits)
    model = load_adapter(backbone.model, merged, trainable=True)
    validation = resources.loss(dev[:validation_examples], backbone, x.limits)
    callback = MergePruneCallback(0.5, validation=validation, parts=merged, **how)
    training = x.config.final.training
    trainer = build_trainer(model, backbone.tokenizer, examples, training, seed, merged / "log", "train")
    trainer.add_callback(callback)
    with measure() as cost:
        trainer.train()
    pruned = [p.detach() == 0 for p in adapter_parameters(model).values()]
    loss = resources.loss(dev, backbone, x.limits)(model)
    return Trained(loss, pruned, callback.scores, cost.seconds, cost.forward_examples)


def jaccard(one: Tensor, other: Tensor) -> float:
    """Overlap of two sets, given as boolean tensors; 1/3 for two random halves."""
    return ((one & other).sum() / (one | other).sum()).item()


def rank_correlation(units: Sequence[PruneUnit], one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Spearman's rho of two scores, within each unit, on average."""
    pairs = [(u.of(one).flatten().cpu(), u.of(other).flatten().cpu()) for u in units]
    return statistics.mean(float(spearmanr(a, b).statistic) for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--compare", action="store_true", help="results of the schedules, not seconds")
    parser.add_argument("--dev-examples", type=int, help="of the validation set; default 24, to compare 8")
    parser.add_argument("--steps", type=int, default=30, help="of each run, to compare")
    parser.add_argument(
        "--adapters",
        type=Path,
        nargs=2,
        metavar=("EN", "AR"),
        default=(None, None),
        help="adapters to compare on; trained first where not given",
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--cpu-seconds",
        action="store_true",
        help="count the process's CPU seconds: with one thread, the wall seconds of an idle machine",
    )
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    figures: dict[str, Any]
    if arguments.compare:
        figures = compare(arguments.steps, arguments.dev_examples or 8, arguments.adapters)
        for name, values in figures.items():
            print(f"{name:24}", "  ".join(f"{key} {value:.4f}" for key, value in values.items()))
    else:
        clock = time.process_time if arguments.cpu_seconds else time.perf_counter
        figures = step_cost(arguments.dev_examples or 24, arguments.repeats, clock)
        for name, value in figures.items():
            print(f"{name:26} {value:.4f}")
    if arguments.out:
        record = {"figures": figures, "environment": environment()}
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
