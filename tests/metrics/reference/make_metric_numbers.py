"""Makes metric_numbers.json: what the official implementations say about texts.json and answers.json.

    python tests/metrics/reference/make_metric_numbers.py MLQA/mlqa_evaluation_v1.py

The argument is the evaluation script of github.com/facebookresearch/MLQA (commit 5ef5c73). BLEU and chrF
come from sacreBLEU's command, ROUGE from rouge-score's. The latter reads ASCII words only, so each token is
written as `w` and a number; the tokens are made here without the package under test.
"""

import csv
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ipadic
import MeCab

HERE = Path(__file__).parent
SEED = 7
BLEU = {"ar": "intl", "en": "13a", "ja": "ja-mecab", "zh": "zh"}


def run(command: str, folder: Path) -> str:
    name, *arguments = shlex.split(command)
    module = {"sacrebleu": ["sacrebleu"], "rouge": ["rouge_score.rouge"]}[name]
    done = subprocess.run(
        [sys.executable, "-m", *module, *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "SACREBLEU_SEED": str(SEED)},
    )
    return done.stdout


def tokens(text: str, language: str) -> list[str]:
    if language == "ja":
        pieces = MeCab.Tagger(f"{ipadic.MECAB_ARGS} -Owakati").parse(text.lower()).split()
        return [piece for piece in pieces if any(letter.isalnum() for letter in piece)]
    if language == "zh":
        return re.findall("[a-z0-9]+|[\u4e00-\u9fff]", text.lower())
    return re.findall(r"[^\W_]+", text.lower())


def overlap(language: str, texts: dict[str, list[str]], folder: Path) -> dict[str, Any]:
    for side in ("predictions", "references"):
        plain = "".join(f"{text}\n" for text in texts[side])
        (folder / f"{language}.{side}").write_text(plain, encoding="utf-8")
    ids: dict[str, str] = {}
    for side in ("predictions", "references"):
        words = [
            [ids.setdefault(token, f"w{len(ids)}") for token in tokens(text, language)]
            for text in texts[side]
        ]
        (folder / f"{language}.{side}.w").write_text("".join(f"{' '.join(line)}\n" for line in words))
    sacrebleu = f"sacrebleu {language}.references -i {language}.predictions -b -w 8"
    commands = {
        "bleu": f"{sacrebleu} -m bleu -tok {BLEU[language]}",
        "chrf": f"{sacrebleu} -m chrf",
        "rouge": f"rouge --target_filepattern {language}.references.w --prediction_filepattern "
        f"{language}.predictions.w --output_filename {language}.csv --noaggregate",
    }
    found: dict[str, Any] = {"commands": commands}
    found |= {name: float(run(commands[name], folder)) for name in ("bleu", "chrf")}
    run(commands["rouge"], folder)
    rows = list(csv.DictReader((folder / f"{language}.csv").open()))
    found |= {
        name: [round(100 * float(row[f"{name}-F"]), 4) for row in rows]
        for name in ("rouge1", "rouge2", "rougeL")
    }
    return found


def paired(texts: dict[str, dict[str, list[str]]], folder: Path) -> dict[str, Any]:
    """Two systems on all languages' texts; of four answers the second has one perfect and one empty."""
    lines = {
        side: [text for language in sorted(texts) for text in texts[language][side]]
        for side in ("predictions", "references")
    }
    pairs = enumerate(zip(lines["predictions"], lines["references"], strict=True))
    lines["second"] = [(given, wanted, given, "")[index % 4] for index, (given, wanted) in pairs]
    for side, rows in lines.items():
        (folder / f"all.{side}").write_text("".join(f"{text}\n" for text in rows), encoding="utf-8")
    command = (
        "sacrebleu all.references -i all.predictions all.second -m bleu chrf -tok intl -f text "
        "--paired-ar --paired-ar-n 400"
    )
    p_values = map(float, re.findall(r"\(p = ([0-9.]+)\)", run(command, folder)))
    return {
        "command": f"SACREBLEU_SEED={SEED} {command}",
        **dict(zip(("bleu", "chrf"), p_values, strict=True)),
    }


def answers(script: Path) -> list[dict[str, Any]]:
    spec = importlib.util.spec_from_file_location("mlqa", script)
    assert spec is not None
    assert spec.loader is not None
    official = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(official)

    def best(measure: Any, language: str, given: str, wanted: list[str]) -> float:
        return 100.0 * official.metric_max_over_ground_truths(measure, given, wanted, language)

    return [
        {
            "language": language,
            "prediction": given,
            "references": wanted,
            "normalized": official.normalize_answer(given, language),
            "em": best(official.exact_match_score, language, given, wanted),
            "f1": best(official.f1_score, language, given, wanted),
        }
        for language, given, wanted in json.loads((HERE / "answers.json").read_text(encoding="utf-8"))
    ]


def main() -> None:
    texts = json.loads((HERE / "texts.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        numbers: dict[str, Any] = {
            language: overlap(language, sides, Path(folder)) for language, sides in texts.items()
        }
        numbers["paired"] = paired(texts, Path(folder))
    numbers["answers"] = answers(Path(sys.argv[1]))
    text = json.dumps(numbers, indent=1, ensure_ascii=False) + "\n"
    (HERE / "metric_numbers.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
