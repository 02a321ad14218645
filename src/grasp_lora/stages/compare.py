"""Two methods of a run side by side, under every metric, with a significance test."""

from collections.abc import Sequence

from grasp_lora.errors import GraspError
from grasp_lora.metrics.significance import Test
from grasp_lora.reporting.results import MethodResult, compare_methods
from grasp_lora.reporting.summary import comparison_table
from grasp_lora.stages.inputs import Inputs
from grasp_lora.stages.results import read_results
from grasp_lora.stages.run_directory import RunDirectory

__all__ = ["compare"]


def compare(inputs: Inputs, run: RunDirectory, methods: Sequence[str], test: Test = "randomisation") -> str:
    """A table of two methods' test loss and metrics, their difference and its p-value.

    The seeds are the config's, as far as they were evaluated.

    Raises:
        GraspError: A method was not evaluated.
    """
    evaluations = {}
    for method in methods:
        stages = [f"eval/{method}/seed{seed}" for seed in inputs.config.seeds]
        evaluations[method] = [stage for stage in stages if (run.path(stage) / "done.json").exists()]
        if not evaluations[method]:
            known = ", ".join(sorted(path.name for path in run.path("eval").glob("*"))) or "none"
            raise GraspError(f"{run.root} has no evaluation of '{method}'; evaluated are: {known}")
    if len(evaluations) < 2:
        raise GraspError(f"'{methods[0]}' cannot be compared with itself")
    first, second = read_results(run, evaluations)
    language = inputs.config.target.language
    comparisons = [
        compare_methods(first, second, metric, language, test=test) for metric in _metrics(first, second)
    ]
    return comparison_table(comparisons, *methods)


def _metrics(first: MethodResult, second: MethodResult) -> list[str]:
    """What both were scored with."""
    other = second.scores[0].get("metrics", {})
    return ["test_loss", *(name for name in first.scores[0].get("metrics", {}) if name in other)]
