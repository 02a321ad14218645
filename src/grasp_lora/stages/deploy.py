"""Stage: what a method's model costs to deploy, with its adapter beside the backbone and merged into it."""

from dataclasses import asdict
from pathlib import Path

from grasp_lora.lm.deployment import measure_deployment
from grasp_lora.stages.inputs import Inputs, adapter_digest, fingerprint
from grasp_lora.stages.run_directory import RunDirectory, write_json

__all__ = ["deploy"]

_EXAMPLES = 4  # the rates hardly differ between prompts; each is answered several times, in two forms


def deploy(inputs: Inputs, run: RunDirectory, method: str, adapter: Path | None, seed: int) -> Path:
    """Measure one adapter (None: the bare backbone) into `deployment/METHOD/seedN`.

    Leaves `deployment.json`: the fields of `grasp_lora.lm.deployment.Deployment`, measured on the first test
    examples, 4 at most. Timings are this machine's at that moment: see `env.json`.
    """
    config = inputs.config
    shown = inputs.examples(config.target, "test", config.evaluation.test_examples)
    shown = shown[: min(config.evaluation.generate or _EXAMPLES, _EXAMPLES)]

    def work(folder: Path) -> None:
        measured = measure_deployment(
            inputs.backbone,
            adapter,
            shown,
            max_length=config.max_length,
            max_new_tokens=inputs.max_new_tokens,
        )
        write_json(folder / "deployment.json", asdict(measured))

    dependencies = {
        **inputs.model_inputs(),
        "device": config.device,
        "adapter": adapter and adapter_digest(adapter),
        "data.test": fingerprint(shown),
    }
    return run.stage(f"deployment/{method}/seed{seed}", dependencies, work)
