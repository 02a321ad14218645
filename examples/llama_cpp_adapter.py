"""A run's adapter in llama.cpp: exported, converted to GGUF, and compared with PEFT token by token.

    python examples/llama_cpp_adapter.py runs/titles-ar/final/seed42 --config runs/titles-ar/config.yaml

Prompts and answers of the task's test rows are read by both (teacher forcing), and at each position the most
likely next tokens are compared: at least 95 % must be the same. llama.cpp and its converters come in the
source package of llama-cpp-python, which is downloaded and built once into --work (a C++ compiler and cmake;
about ten minutes on two cores). Not part of the tests.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import torch

from grasp_lora.experiment import start
from grasp_lora.lm.adapters import load_adapter
from grasp_lora.lm.backbone import load_backbone
from grasp_lora.lm.encoding import encode
from grasp_lora.workspace.exporting import export

ENOUGH = 0.95
PACKAGE = "llama-cpp-python"

# Runs in the environment that has llama.cpp: files in, the most likely next tokens out.
READ_BY_LLAMA_CPP = """
import json, sys
import llama_cpp
base, adapter, texts, out = sys.argv[1:]
model = llama_cpp.Llama(base, lora_path=adapter or None, n_ctx=512, logits_all=True, verbose=False)
found = []
for ids in json.load(open(texts)):
    model.reset()
    model.eval(ids)
    found.append([int(row.argmax()) for row in model.scores[: len(ids)]])
json.dump(found, open(out, "w"))
"""


def main() -> int:
    """Prints how often PEFT and llama.cpp agree; 1 where that is too rarely."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("adapter", type=Path, help="a PEFT adapter's folder")
    parser.add_argument("--config", type=Path, required=True, help="of the run: backbone and test rows")
    parser.add_argument("--work", type=Path, default=Path("llama_cpp"), help="where all of it is kept")
    parser.add_argument("--prompts", type=int, default=50)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)

    x = start(given.config)
    source = unpacked(given.work)
    python = built(given.work)
    base, adapter = given.work / "base.gguf", given.work / "adapter.gguf"
    if not base.exists():
        convert(source, "convert_hf_to_gguf.py", x.model.path, "--outtype", "f32", "--outfile", base)
    exported = given.work / "adapter"
    if not exported.exists():
        print(*export(given.adapter, exported, loader="llama.cpp", base=x.config.backbone), sep="\n")
    convert(source, "convert_lora_to_gguf.py", "--base", x.model.path, "--outfile", adapter, exported)

    backbone = load_backbone(x.config.backbone, dtype="float32")
    rows = x.task.examples(x.config.target.language, "test", given.prompts)
    texts = [list(encode(row, backbone.tokenizer, x.limits).input_ids) for row in rows]
    (given.work / "texts.json").write_text(json.dumps(texts))
    adapted = load_adapter(backbone.model, given.adapter, trainable=False)
    ours = [most_likely(adapted, ids) for ids in texts]
    with adapted.disable_adapter():
        bare = [most_likely(adapted, ids) for ids in texts]
    theirs = read_by_llama_cpp(python, given.work, base, adapter)
    without = read_by_llama_cpp(python, given.work, base, "")
    agreement = same(ours, theirs)
    print(f"{len(texts)} prompts, {sum(map(len, texts))} positions")
    print(f"the same most likely token in PEFT and llama.cpp, with the adapter: {agreement:.2%}")
    print(f"the bare base model in both: {same(bare, without):.2%}")
    print(f"what the adapter changes, in PEFT: {1 - same(ours, bare):.2%} of the positions")
    return 0 if agreement >= ENOUGH else 1


def unpacked(work: Path) -> Path:
    """llama.cpp's own tree, in the source package."""
    if not list(work.glob("llama_cpp_python-*.tar.gz")):
        how = ["download", "--no-binary", PACKAGE, "--no-deps", "-d", str(work), PACKAGE]
        subprocess.run([sys.executable, "-m", "pip", *how], check=True)
    (package,) = work.glob("llama_cpp_python-*.tar.gz")
    folder = work / package.name.removesuffix(".tar.gz")
    if not folder.exists():
        with tarfile.open(package) as archive:
            archive.extractall(work, filter="data")
    return folder / "vendor" / "llama.cpp"


def built(work: Path) -> Path:
    """The interpreter of an environment of its own that has llama.cpp; built the first time."""
    python = work / "venv" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(work / "venv")], check=True)
    if subprocess.run([str(python), "-c", "import llama_cpp"], capture_output=True).returncode:
        (package,) = work.glob("llama_cpp_python-*.tar.gz")
        parts = ("LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_TOOLS", "LLAMA_BUILD_SERVER")
        options = " ".join(f"-D{part}=OFF" for part in ("LLAVA_BUILD", *parts))
        subprocess.run(
            ["nice", "-n", "10", str(python), "-m", "pip", "install", str(package)],
            env={**os.environ, "CMAKE_ARGS": options},
            check=True,
        )
    return python


def convert(source: Path, script: str, *arguments: object) -> None:
    """One of llama.cpp's converters, with the `gguf` package of the same tree."""
    subprocess.run(
        [sys.executable, str(source / script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(source / "gguf-py")},
        check=True,
    )


@torch.no_grad()
def most_likely(model: torch.nn.Module, ids: list[int]) -> list[int]:
    """The most likely next token at each position."""
    found: list[int] = model(torch.tensor([ids])).logits[0].argmax(-1).tolist()
    return found


def read_by_llama_cpp(python: Path, work: Path, base: Path, adapter: Path | str) -> list[list[int]]:
    """The same by llama.cpp."""
    files = (base, adapter, work / "texts.json", work / "found.json")
    subprocess.run([str(python), "-c", READ_BY_LLAMA_CPP, *map(str, files)], check=True)
    found: list[list[int]] = json.loads((work / "found.json").read_text())
    return found


def same(one: list[list[int]], other: list[list[int]]) -> float:
    """The share of equal tokens."""
    pairs = [pair for a, b in zip(one, other, strict=True) for pair in zip(a, b, strict=True)]
    return sum(a == b for a, b in pairs) / len(pairs)


if __name__ == "__main__":
    sys.exit(main())
