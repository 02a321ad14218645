"""The training run in which a ratio is learned: fine-tuning with controller rounds in between."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from grasp_lora.control.callback import GraspCallback
from grasp_lora.control.policy import RatioPolicy, UniformPolicy
from grasp_lora.lm.adapters import load_adapter
from grasp_lora.lm.training import build_trainer
from grasp_lora.stages.inputs import Inputs, adapter_digest, fingerprint, flat, settings
from grasp_lora.stages.run_directory import RunDirectory

__all__ = ["LearningRun"]


class LearningRun:
    """What a learning run needs and depends on; `train` makes it.

    Args:
        method: "grasp" or a variant of it (the Gaussian policy), or "random" (as many even draws).
    """

    def __init__(self, inputs: Inputs, run: RunDirectory, method: str) -> None:
        inputs.check_target_splits()
        self.inputs, self.run, self.method = inputs, run, method
        self.control = inputs.control(method)
        self.examples = inputs.examples(inputs.config.target, "train", inputs.config.target.train_examples)
        self.micro_dev = inputs.micro_dev(self.control.micro_dev)

    def train(self, folder: Path, title: str, watchers: Sequence[Any] = ()) -> GraspCallback:
        """Train once and leave the logs in `folder`.

        Args:
            watchers: Classes of callbacks, made with the controller's callback and added after it.
        """
        inputs, config, control = self.inputs, self.inputs.config, self.control
        backbone = inputs.backbone()
        loss = inputs.loss(self.micro_dev, backbone)
        model = load_adapter(backbone.model, self.run.path("merged"), trainable=True)
        trainer = build_trainer(
            model,
            backbone.tokenizer,
            inputs.encode(self.examples, backbone),
            settings(config.learn.training, config.seed),
            folder,
            title=title,
        )
        policy = UniformPolicy if self.method == "random" else RatioPolicy
        grasp = GraspCallback(
            trainer,
            reward=lambda model: -loss(model),
            policy=policy(**control.policy(), seed=config.seed),
            every=control.every,
            parts=self.run.path("merged"),
            unit=control.unit,
            importance_refresh=control.importance_refresh,
            select=control.select,
            folder=folder,
        )
        trainer.add_callback(grasp)
        for watcher in watchers:
            callback: TrainerCallback = watcher(grasp)
            trainer.add_callback(callback)
        trainer.train()
        return grasp

    def dependencies(self) -> dict[str, Any]:
        """For `done.json`."""
        config = self.inputs.config
        return {
            **self.inputs.model_inputs(),
            **flat("learn.training", config.learn.training.model_dump(exclude={"patience"})),
            **flat("control", self.control.model_dump()),
            "seed": config.seed,
            "merged": adapter_digest(self.run.path("merged")),
            "data.train": fingerprint(self.examples),
            "data.micro_dev": fingerprint(self.micro_dev),
        }
