"""Adapters added up exactly, from their files alone: no base model, whatever their ranks and scalings.

python examples/merge_files.py merged en=adapters/en ar=OWNER/NAME@REVISION
"""

import sys
from pathlib import Path

from grasp_lora import GraspError, merge_adapters

out, *named = sys.argv[1:] or [""]
pairs = [one.split("=", 1) for one in named]
if out.startswith("-") or any(len(pair) < 2 for pair in pairs) or len(dict(pairs)) < max(len(pairs), 1):
    sys.exit(f"{__doc__}\nA new folder, then adapters, each with a name of its own.")
try:
    merge_adapters(dict(pairs), Path(out))
except GraspError as error:
    sys.exit(str(error))
print(f"{out}/ is their sum, a plain PEFT adapter")
