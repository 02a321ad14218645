"""Answers side by side: where two methods differ most, and the first examples."""

from collections.abc import Iterator

from grasp_lora.ratios import prunes
from grasp_lora.reporting.blocks import Answered, Block
from grasp_lora.reporting.found import Found, MethodResult

FIRST, MOST = 2, 2  # all are in predictions.jsonl


def blocks(found: Found) -> Iterator[Block]:
    shown = [one for one in found.results if one.rows[0].answers and not one.rows[0].is_point]
    if not shown:
        return
    chosen = _chosen(found, shown)
    count = min(len(one.rows[0].answers) for one in shown)
    for index in range(min(FIRST, count)):
        chosen.setdefault(index, f"Test example {index + 1}.")
    for index, why in chosen.items():
        if index < count:
            asked = shown[0].rows[0].answers[index]
            answers = [(x.title, " ".join(x.rows[0].answers[index].prediction.split())) for x in shown]
            yield Answered(why, asked.prompt, asked.references[0], answers, shown[0].rows[0].target)


def _chosen(found: Found, shown: list[MethodResult]) -> dict[int, str]:
    """Index -> why: examples where the reference differs most from what was not pruned."""
    one = found.compared
    others = [x for x in shown if x is not one]
    other = next((x for x in others if x.p is not None and not prunes(x.p)), next(iter(others), None))
    if other is None or one not in shown:
        return {}
    metric = next((m for m in (*one.metrics, "test_loss") if m in (*other.metrics, "test_loss")), "test_loss")
    pair = [x.by_example(metric) for x in (one, other)]
    if any(score is None for score in pair):
        metric, pair = "test_loss", [x.by_example("test_loss") for x in (one, other)]
    first, second = ((score.examples if score else ()) or () for score in pair)
    sign = -1.0 if metric == "test_loss" else 1.0
    gains = sorted((sign * (a - b), i) for i, (a, b) in enumerate(zip(first, second, strict=False)))
    told = [
        a.prediction.split() != b.prediction.split()
        for a, b in zip(one.rows[0].answers, other.rows[0].answers, strict=False)
    ]
    gains = [gain for gain in gains if gain[1] < len(told) and told[gain[1]]]
    best, worst = gains[::-1][:MOST], gains[:MOST]
    return {
        index: f"Test example {index + 1}: {one.title} is {said} than {other.title}, by "
        f"{abs(gain):.2f} in {metric.replace('_', ' ')}."
        for said, some in (("better", best), ("worse", worst))
        for gain, index in some
        if (gain > 0) == (said == "better") and gain
    }
