"""Baseline: LoRAHub, one weight per frozen adapter, found on the target's training examples."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm

from grasp_lora.errors import GraspError
from grasp_lora.lm.adapters import load_adapter
from grasp_lora.merging.lorahub import (
    merge_weighted,
    optimiser,
    place_factors,
    search_weights,
    weigh_adapters,
)
from grasp_lora.merging.reading import read_adapters
from grasp_lora.stages.inputs import Inputs, adapter_digest, adapter_folder, fingerprint, flat
from grasp_lora.stages.run_directory import RunDirectory, write_json

__all__ = ["lorahub"]


def lorahub(inputs: Inputs, run: RunDirectory) -> Path:
    """Search for one weight per adapter into `combined/lorahub` (Huang et al., 2024): a PEFT adapter.

    The adapters are source, target and `lorahub.adapters`. The loss is that of the target's training
    examples, as LoRAHub's is of its few examples; dev and micro-dev are not touched.

    Leaves `weights.json`, and `search.jsonl` with one line per evaluation.

    Raises:
        GraspError: The adapters do not fit together; the message names the one that does not.
    """
    config, settings = inputs.config, inputs.config.lorahub
    adapters = _adapters(inputs, run)
    train = inputs.examples(config.target, "train", config.target.train_examples)
    search = settings.model_dump(exclude={"adapters", "exact"})

    def work(folder: Path) -> None:
        loaded = read_adapters(adapters)
        with TemporaryDirectory() as temporary:
            start = Path(temporary) / "start"  # ranks and scalings for PEFT to load; the search fills it
            merge_weighted(adapters, dict.fromkeys(adapters, 0.0), start, exact=settings.exact)
            backbone = inputs.backbone()
            model = load_adapter(backbone.model, start, trainable=False)
        loss = inputs.loss(train, backbone)

        def loss_of(weights: Mapping[str, float]) -> float:
            place_factors(model, weigh_adapters(loaded, weights, exact=settings.exact)[0])
            value = loss(model)
            bar.set_postfix(loss=f"{value:.3f}")
            bar.update()
            return value

        with tqdm(total=settings.budget, desc="lorahub", unit="evaluation") as bar:
            found = search_weights(loss_of, list(adapters), **search)
        merge_weighted(adapters, found.best.weights, folder, exact=settings.exact)
        record = {**asdict(found.best), "evaluations": len(found.history), "optimiser": optimiser()}
        write_json(folder / "weights.json", record)
        lines = [json.dumps({"evaluation": i, **asdict(e)}) for i, e in enumerate(found.history, 1)]
        (folder / "search.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")

    dependencies = {
        **inputs.model_inputs(),
        **flat("lorahub", {**search, "exact": settings.exact}),
        "data.train": fingerprint(train),
        **{f"adapter.{name}": adapter_digest(path) for name, path in adapters.items()},
    }
    return run.stage("combined/lorahub", dependencies, work)


def _adapters(inputs: Inputs, run: RunDirectory) -> dict[str, Path]:
    """Source, target and the config's others, by name."""
    config = inputs.config
    adapters = {side.language: adapter_folder(run, side) for side in (config.source, config.target)}
    for name, folder in config.lorahub.adapters.items():
        if name in adapters:
            raise GraspError(f"lorahub.adapters.{name}: {name!r} is the run's own adapter; use another name")
        if not (folder / "adapter_model.safetensors").is_file():
            raise GraspError(
                f"lorahub.adapters.{name}: {folder} holds no adapter_model.safetensors; give the folder of a "
                f"saved PEFT adapter"
            )
        adapters[name] = folder
    return adapters
