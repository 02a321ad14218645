"""Generated tokens a second: batches of the product, and `model.generate` example by example.

    python -m benchmarks generation                    # Gemma 3 270M, 32 prompts, 32 tokens each, in turns

Greedy, with the backbone's own cache. No answer ends early, so that both ways make as many tokens.
"""

import argparse
import statistics
from typing import Any

import torch
from benchmarks._common import keep, positive, seconds, spread, table

from grasp_lora.data.find import find_task
from grasp_lora.lm.backbone import load_backbone
from grasp_lora.lm.batches import batches_by_tokens
from grasp_lora.lm.encoding import Limits, encode_prompt
from grasp_lora.lm.generation import generate_ids


def measured(given: argparse.Namespace) -> dict[str, list[float]]:
    """Tokens a second of both ways, once a turn."""
    loaded = load_backbone(given.backbone)
    limits = Limits(given.tokens, given.new, given.budget)
    task = find_task("handbook")
    prompts = [
        encode_prompt(one, loaded.tokenizer, given.tokens - given.new, limits.prompt_format)
        for one in task.examples("ar", "test", given.prompts)
    ]

    def batched() -> None:
        for rows in batches_by_tokens([len(p) + given.new for p in prompts], given.budget):
            some = [prompts[i] for i in rows]
            generate_ids(loaded.model, loaded.tokenizer, some, given.new, min_new_tokens=given.new)

    @torch.no_grad()
    def one_by_one() -> None:
        model: Any = loaded.model
        for prompt in prompts:
            ids = torch.tensor([prompt], device=model.device)
            model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False,
                max_new_tokens=given.new, min_new_tokens=given.new, pad_token_id=0,
            )  # fmt: skip

    made = len(prompts) * given.new
    found: dict[str, list[float]] = {"batches": [], "one by one": []}
    for _ in range(given.repeats):
        found["batches"] += [made / s for s in seconds(batched, 1, warmup=0)]
        found["one by one"] += [made / s for s in seconds(one_by_one, 1, warmup=0)]
    return found


def render(run: dict[str, Any]) -> str:
    """A run as Markdown."""
    found, how = run["tokens_per_s"], run["how"]
    ratio = statistics.median(a / b for a, b in zip(found["batches"], found["one by one"], strict=True))
    rows = [[name, spread(values, 1, 1)] for name, values in found.items()]
    said = ", ".join(f"{key} {value}" for key, value in how.items())
    return f"{said}\n\n{table(['', 'tokens/s'], rows)}\n\nRatio, the median of the turns': {ratio:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="packaged:gemma-3-270m")
    parser.add_argument("--prompts", type=positive, default=32)
    parser.add_argument("--tokens", type=positive, default=256, help="of a prompt and its answer at most")
    parser.add_argument("--new", type=positive, default=32, help="tokens of each answer")
    parser.add_argument("--budget", type=positive, default=4096, help="tokens of one batch")
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument(
        "--out", default="generation", metavar="NAME", help="of the files in benchmarks/results"
    )
    given = parser.parse_args()
    how = {key: value for key, value in vars(given).items() if key not in ("out", "repeats")}
    keep(given.out, "Generation", {"how": how, "tokens_per_s": measured(given)}, render)


if __name__ == "__main__":
    main()
