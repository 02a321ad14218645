"""Every test runs offline, with its own cache, on one thread, unless the environment says otherwise."""

import os
import tempfile

import pytest
from hypothesis import settings

# Set before torch or a Hugging Face library is imported, and inherited by the commands that tests start.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A slow machine is not a bug, and CI must not fail on an example that nobody can repeat.
settings.register_profile("grasp", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("grasp")


def pytest_configure(config: pytest.Config) -> None:
    # xdist's workers inherit the variable, so all of them share one cache and convert a model once.
    if "GRASP_CACHE" not in os.environ:
        cache = tempfile.TemporaryDirectory(prefix="grasp-lora-tests-", ignore_cleanup_errors=True)
        os.environ["GRASP_CACHE"] = cache.name
        config.add_cleanup(cache.cleanup)
