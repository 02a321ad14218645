"""python -m benchmarks NAME ...: the file of that name here."""

import runpy
import sys
from pathlib import Path

from grasp_lora.errors import GraspError

NAMES = sorted(file.stem for file in Path(__file__).parent.glob("[a-z]*.py"))

if __name__ == "__main__":
    if (asked := sys.argv[1] if len(sys.argv) > 1 else "--help") not in NAMES:
        usage = f"python -m benchmarks {'|'.join(NAMES)} ...: --help after a name says what it measures"
        if asked in ("-h", "--help"):
            print(usage)
            sys.exit()
        sys.exit(f"no benchmark is called {asked}\n{usage}")
    name = sys.argv.pop(1)
    try:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)
    except GraspError as error:
        sys.exit(f"{name}: {error}")
