"""Which derivative-free optimiser finds good LoRAHub weights within 40 evaluations?

    pip install cmaes nevergrad optuna
    python benchmarks/lorahub.py WORK      # WORK keeps the adapters for the next time

Real text and a real model: sections of the handbook, shortened, and SmolLM2 135M. Adapters are trained for
a few steps on slices of English, Arabic, Japanese and Chinese training sections; the weights are searched
for on 12 Chinese dev sections. Each repetition takes other sections, and another seed where an optimiser
draws at random. The objective is deterministic, so a point that was asked for before is not computed again.
Seconds are CPU time of one thread; the whole takes up to 20 minutes. The overhead is what an optimiser needs
beside the objective.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nevergrad
import numpy as np
import optuna
import torch
from scipy.optimize import minimize
from transformers import set_seed

from grasp_lora import TargetLoss
from grasp_lora.data.find import find_task
from grasp_lora.lm.adapters import Lora, load_adapter, new_adapter, save_adapter
from grasp_lora.lm.backbone import Backbone, load_backbone
from grasp_lora.lm.encoding import Limits, encode
from grasp_lora.lm.training import Training, build_trainer
from grasp_lora.merging.lorahub import merge_weighted, place_factors, weigh_adapters
from grasp_lora.merging.reading import read_adapters
from grasp_lora.tasks.example import Example

BACKBONE, TARGET, LANGUAGES = "packaged:smollm2-135m", "zh", ("en", "zh", "ja", "ar")
BUDGET, BOUND, PENALTY, SCORED = 40, 1.5, 0.05, 12
LIMITS = {"max_length": 28, "max_new_tokens": 14}

Objective = Callable[[np.ndarray], float]


class Spent(Exception):
    """The budget is."""


def cobyqa(objective: Objective, n: int, seed: int) -> None:
    scipy_minimize("COBYQA", objective, n, {"initial_tr_radius": BOUND / 3, "final_tr_radius": BOUND / 1000})


def cobyla(objective: Objective, n: int, seed: int) -> None:
    scipy_minimize("COBYLA", objective, n, {"rhobeg": BOUND / 3, "tol": BOUND / 1000})


def scipy_minimize(method: str, objective: Objective, n: int, options: dict[str, float]) -> None:
    minimize(objective, np.zeros(n), method=method, bounds=[(-BOUND, BOUND)] * n, options=options)


def cma_es(objective: Objective, n: int, seed: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.CmaEsSampler(seed=seed))
    names = [f"w{i}" for i in range(n)]
    study.enqueue_trial(dict.fromkeys(names, 0.0))
    study.optimize(lambda t: objective(np.array([t.suggest_float(x, -BOUND, BOUND) for x in names])), BUDGET)


def ngopt(objective: Objective, n: int, seed: int) -> None:
    weights = nevergrad.p.Array(init=np.zeros(n), lower=np.full(n, -BOUND), upper=np.full(n, BOUND))
    weights.random_state = np.random.RandomState(seed)
    nevergrad.optimizers.NGOpt(parametrization=weights, budget=BUDGET).minimize(objective)


OPTIMISERS = {
    f"SciPy {version('scipy')} COBYQA": cobyqa,
    f"SciPy {version('scipy')} COBYLA": cobyla,
    f"Optuna {version('optuna')} CMA-ES (cmaes {version('cmaes')})": cma_es,
    f"Nevergrad {version('nevergrad')} NGOpt": ngopt,
}


def short(example: Example) -> Example:
    """The section and its title without the instruction, which is long in tokens."""
    start, stop = example.body or (0, len(example.prompt))
    text = example.prompt[start:stop] + "\n"
    return replace(example, prompt=text, body=(0, len(text) - 1))


def trained(backbone: Backbone, work: Path, slices: int, steps: int) -> dict[str, Path]:
    """`slices` adapters per language, those that `work` has already among them."""
    task, adapters = find_task("handbook"), {}
    for number in range(slices):
        for language in LANGUAGES:
            name = f"{language}{number}"
            adapters[name] = folder = work / name
            if (folder / "adapter_model.safetensors").exists():
                continue
            examples = task.examples(language, "train")[number::slices][:15]
            set_seed(number)
            model = new_adapter(backbone.model, Lora())
            encoded = [encode(short(e), backbone.tokenizer, Limits(**LIMITS)) for e in examples]
            settings = Training(
                epochs=1, max_steps=steps, batch_size=1, gradient_accumulation=1, learning_rate=1e-3,
                lr_decay_per_epoch=1.0, weight_decay=0.0, max_grad_norm=1.0, seed=number,
            )  # fmt: skip
            build_trainer(model, backbone.tokenizer, encoded, settings, folder, title=name).train()
            save_adapter(model, folder)
            model.unload()
    return adapters


class Problem:
    """The objective over one set of scored sections, with what it cost."""

    def __init__(self, model: Any, loss: TargetLoss, adapters: dict[str, Path]) -> None:
        self.model, self.loss, self.adapters = model, loss, read_adapters(adapters)
        self.known: dict[bytes, float] = {}

    def run(self, optimise: Callable[[Objective, int, int], None], seed: int) -> dict[str, float]:
        values: list[float] = []
        inside = 0.0

        def objective(point: np.ndarray) -> float:
            nonlocal inside
            if len(values) == BUDGET:
                raise Spent
            start = time.process_time()
            values.append(self(np.clip(point, -BOUND, BOUND)))
            inside += time.process_time() - start
            return values[-1]

        start = time.process_time()
        with suppress(Spent):
            optimise(objective, len(self.adapters), seed)
        overhead = time.process_time() - start - inside
        return {"start": values[0], "best": min(values), "evaluations": len(values), "overhead": overhead}

    def __call__(self, point: np.ndarray) -> float:
        if (key := (point + 0.0).tobytes()) not in self.known:
            names = [adapter.name for adapter in self.adapters]
            sites, _ = weigh_adapters(self.adapters, dict(zip(names, point.tolist(), strict=True)))
            place_factors(self.model, sites)
            self.known[key] = self.loss(self.model) + PENALTY * float(np.abs(point).mean())
        return self.known[key]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--steps", type=int, default=15, help="training steps per adapter")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    began = time.process_time()
    backbone = load_backbone(BACKBONE, device="cpu")
    adapters = trained(backbone, arguments.work, 5, arguments.steps)
    print(f"adapters ready after {time.process_time() - began:.0f} s of CPU time", flush=True)
    pool = {2: {name: adapters[name] for name in ("en0", "zh0")}, 20: adapters}
    dev = [short(e) for e in find_task("handbook").examples(TARGET, "dev")]
    print("| adapters | optimiser | start | best | standard deviation | each | evaluations | overhead, s |")
    print("|---|---|---|---|---|---|---|---|")
    for count, chosen in pool.items():
        with TemporaryDirectory() as folder:
            first = Path(folder) / "adapter"
            merge_weighted(chosen, dict.fromkeys(chosen, 0.0), first)
            model = load_adapter(backbone.model, first, trainable=False)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in OPTIMISERS}
        for repetition in range(arguments.repetitions):
            scored = dev[repetition * SCORED : (repetition + 1) * SCORED]
            problem = Problem(model, TargetLoss(scored, backbone.tokenizer, model, **LIMITS), chosen)
            for name, optimise in OPTIMISERS.items():
                runs[name].append(problem.run(optimise, repetition))
        model.unload()
        for name, results in runs.items():
            best = [r["best"] for r in results]
            row = [f"{statistics.mean(r['start'] for r in results):.3f}", f"{statistics.mean(best):.3f}"]
            row += [f"{statistics.stdev(best) if len(best) > 1 else 0:.3f}"]
            row += [", ".join(f"{b:.3f}" for b in best)]
            row += [f"{statistics.mean(r['evaluations'] for r in results):.0f}"]
            row += [f"{statistics.mean(r['overhead'] for r in results):.2f}"]
            print(f"| {count} | {name} | " + " | ".join(row) + " |", flush=True)
    print(f"{time.process_time() - began:.0f} s of CPU time")


if __name__ == "__main__":
    main()
