"""Stage 3: learn the prune ratio p* (GRASP Sec. 3.3)."""

from pathlib import Path

from grasp_lora.control.callback import GraspCallback
from grasp_lora.control.policy import RatioPolicy, UniformPolicy
from grasp_lora.lm.adapters import load_adapter
from grasp_lora.lm.training import build_trainer
from grasp_lora.stages.inputs import Inputs, fingerprint, flat, settings
from grasp_lora.stages.run_directory import RunDirectory, write_json

__all__ = ["POLICIES", "learn_ratio"]

POLICIES = {"grasp": RatioPolicy, "random": UniformPolicy}

_NOT_POLICY = {"every", "micro_dev", "unit", "importance_refresh", "select"}


def learn_ratio(inputs: Inputs, run: RunDirectory, method: str = "grasp") -> Path:
    """Fine-tune the merged adapter with controller rounds in between, into `learn_stage`.

    "grasp" learns with the Gaussian policy, "random" probes as many ratios drawn evenly.

    Leaves `rounds.jsonl`, `timings.jsonl` and `ratio.json` with p*. The weights are not kept: the final
    run starts from the merged adapter (Sec. 3.4).
    """
    config, control = inputs.config, inputs.config.control
    inputs.check_target_splits()
    train = inputs.examples(config.target, "train", config.target.train_examples)
    micro_dev = inputs.micro_dev()

    def work(folder: Path) -> None:
        backbone = inputs.backbone()
        loss = inputs.loss(micro_dev, backbone)
        model = load_adapter(backbone.model, run.path("merged"), trainable=True)
        trainer = build_trainer(
            model,
            backbone.tokenizer,
            inputs.encode(train, backbone),
            settings(config.learn.training, config.seed),
            folder,
            title="learn ratio" if method == "grasp" else "random ratios",
        )
        grasp = GraspCallback(
            trainer,
            reward=lambda model: -loss(model),
            policy=POLICIES[method](**control.model_dump(exclude=_NOT_POLICY), seed=config.seed),
            every=control.every,
            parts=run.path("merged"),
            unit=control.unit,
            importance_refresh=control.importance_refresh,
            select=control.select,
            folder=folder,
        )
        trainer.add_callback(grasp)
        trainer.train()
        result = grasp.result
        ratio = {"p": result.best_ratio, "reward": result.best_reward, "rule": result.rule}
        write_json(folder / "ratio.json", {**ratio, "rounds": len(result.rounds)})

    dependencies = {
        **inputs.model_inputs(),
        **flat("learn.training", config.learn.training.model_dump(exclude={"patience"})),
        **flat("control", control.model_dump()),
        "seed": config.seed,
        "merged": run.output("merged", "adapter_model.safetensors"),
        "data.train": fingerprint(train),
        "data.micro_dev": fingerprint(micro_dev),
    }
    return run.stage(inputs.learn_stage(method), dependencies, work)
