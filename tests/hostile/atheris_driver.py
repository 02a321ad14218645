"""`python -m tests.hostile.atheris_driver KIND [-runs=N ...]`: the same property under a fuzzer that looks
at the
branches that an input takes. Options are libFuzzer's. `pip install atheris` first.
"""

import logging
import sys
import tempfile
import warnings
from pathlib import Path


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["grasp_lora"]):
        from tests.hostile.kinds import KINDS
        from tests.hostile.run import make_run
        from tests.hostile.trying import Place, Tally, property_of

    warnings.simplefilter("ignore")
    name, *options = sys.argv[1:]
    (kind,) = [kind for kind in KINDS if kind.name == name]
    folder = Path(tempfile.mkdtemp(prefix="hostile-"))
    run = make_run(folder / "run")
    logging.disable(logging.CRITICAL)
    (folder / "place").mkdir()
    place, tally = Place(folder / "place", run, kind), Tally()
    fuzz = property_of(kind, place, tally, 1).hypothesis.fuzz_one_input  # type: ignore[attr-defined]
    atheris.Setup([sys.argv[0], *options], fuzz)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
