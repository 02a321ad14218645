"""Adapters added up exactly, from their files alone: no base model, whatever their ranks and scalings.

python examples/merge_files.py merged en=adapters/en ar=OWNER/NAME@REVISION
"""

import sys
from pathlib import Path

from grasp_lora import merge_adapters

out, *named = sys.argv[1:]
merge_adapters(dict(one.split("=", 1) for one in named), Path(out))
print(f"{out}/ is their sum, a plain PEFT adapter")
