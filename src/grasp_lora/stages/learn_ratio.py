"""Stage 3: learn the prune ratio p* (GRASP Sec. 3.3)."""

from pathlib import Path

from grasp_lora.stages.inputs import Inputs
from grasp_lora.stages.learning import LearningRun
from grasp_lora.stages.run_directory import RunDirectory, write_json

__all__ = ["learn_ratio"]


def learn_ratio(inputs: Inputs, run: RunDirectory, method: str = "grasp") -> Path:
    """Fine-tune the merged adapter with controller rounds in between, into `learn_stage`.

    "grasp" and its variants learn with the Gaussian policy, "random" probes as many ratios drawn evenly.

    Leaves `rounds.jsonl`, `timings.jsonl` and `ratio.json` with p*. The weights are not kept: the final
    run starts from the merged adapter (Sec. 3.4).
    """
    learning = LearningRun(inputs, run, method)

    def work(folder: Path) -> None:
        title = "learn ratio" if method == "grasp" else f"learn ratio ({method})"
        result = learning.train(folder, title).result
        ratio = {"p": result.best_ratio, "reward": result.best_reward, "rule": result.rule}
        write_json(folder / "ratio.json", {**ratio, "rounds": len(result.rounds)})

    return run.stage(inputs.learn_stage(method), learning.dependencies(), work)
