"""Energy counters of the machine: what the processor's packages and the GPU say they have used.

They count the whole device, so whatever else runs on it counts too. Where a device does not tell, or does not
let this user read it, there is no number; nothing is estimated.
"""

import importlib
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["Meter", "gpu_joules", "package_counters"]

RAPL = Path("/sys/class/powercap")
SAMPLE_SECONDS = 30.0  # a package's counter begins again after 2^32 microjoules or more: minutes at full load


class Meter:
    """Joules since `start`, by device: "cpu", "gpu"; only those that tell.

    A package's counter is read from time to time, since it begins again at 0 when it is full.
    """

    def __init__(self) -> None:
        self._joules = 0.0
        self._last = package_counters()
        self._cpu = bool(self._last)
        self._gpu = gpu_joules()
        self._lock, self._ended = threading.Lock(), threading.Event()
        if self._cpu:
            threading.Thread(target=self._watch, daemon=True).start()

    def stop(self) -> dict[str, float]:
        """What was used, and the end of the measurement."""
        self._ended.set()
        return self.read()

    def read(self) -> dict[str, float]:
        """What was used up to now."""
        found: dict[str, float] = {}
        if self._cpu:
            self._sample()
            if self._cpu:  # readable to the end
                found["cpu"] = self._joules
        if self._gpu is not None and (now := gpu_joules()) is not None:
            found["gpu"] = now - self._gpu
        return found

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        with self._lock:
            now = package_counters()
            if now.keys() != self._last.keys():
                self._cpu = False
                return
            for name, (joules, full) in now.items():
                before = self._last[name][0]
                self._joules += joules - before if joules >= before else joules - before + full
            self._last = now


def package_counters() -> Mapping[str, tuple[float, float]]:
    """Joules and where the counter begins again, of each processor package; empty where one cannot be read.

    Linux's powercap, which Intel's and AMD's RAPL are in; often only root may read it.
    """
    found = {}
    try:
        for folder in sorted(RAPL.glob("intel-rapl:*")):
            if folder.name.count(":") == 1:  # a package; its parts are counted in it
                energy, full = ((folder / name).read_text() for name in ("energy_uj", "max_energy_range_uj"))
                found[folder.name] = int(energy) / 1e6, int(full) / 1e6
    except (OSError, ValueError):
        return {}
    return found


def gpu_joules() -> float | None:
    """What the present CUDA device has used since its driver was loaded (NVML); None where it is silent."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    with suppress(Exception):  # NVML's errors have no common base that is there without it
        nvml = _nvml()
        uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
    return None


_ready: list[Any] = []


def _nvml() -> Any:
    nvml = importlib.import_module("pynvml")  # the package nvidia-ml-py
    if nvml not in _ready:
        nvml.nvmlInit()
        _ready.append(nvml)
    return nvml
