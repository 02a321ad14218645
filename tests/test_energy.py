"""Energy: files laid out as Linux's powercap has them, and a stand-in for NVML, which wants a GPU."""

import sys
import time
from types import SimpleNamespace

import pytest

from grasp_lora import energy
from grasp_lora.cost import Cost, measure


@pytest.fixture
def rapl(tmp_path, monkeypatch):
    """Two packages; the parts of one are counted in it."""
    monkeypatch.setattr(energy, "RAPL", tmp_path)

    def write(**joules):
        for name, value in joules.items():
            folder = tmp_path / f"intel-rapl:{name[1:].replace('_', ':')}"
            if not folder.exists():
                folder.mkdir()
                (folder / "max_energy_range_uj").write_text("100000000\n")
            (folder / "new").write_text(f"{int(value * 1e6)}\n")
            (folder / "new").replace(folder / "energy_uj")  # never half written

    write(p0=10, p0_0=5, p1=90)
    return write


def test_joules_of_all_packages_over_the_counters_end(rapl):
    with measure() as cost:
        rapl(p0=13.5, p0_0=7, p1=2)  # the second one began again after 100
    assert cost.cpu_joules == pytest.approx(3.5 + 12)
    assert cost.gpu_joules is None


def test_a_counter_that_begins_again_twice_is_read_in_between(rapl, monkeypatch):
    reads, read = [], energy.package_counters

    def counted():
        reads.append(read())
        return reads[-1]

    monkeypatch.setattr(energy, "package_counters", counted)
    monkeypatch.setattr(energy, "SAMPLE_SECONDS", 0.001)
    meter = energy.Meter()
    for joules in (80, 30, 95, 20):
        rapl(p0=joules)
        seen, give_up = len(reads), time.monotonic() + 60
        while len(reads) < seen + 2 and time.monotonic() < give_up:  # the second began after the change
            time.sleep(0.001)
    assert meter.stop() == {"cpu": pytest.approx(70 + 50 + 65 + 25)}


def test_nothing_is_said_where_nothing_can_be_read(rapl, tmp_path, monkeypatch):
    (tmp_path / "intel-rapl:1/energy_uj").write_text("")
    assert energy.package_counters() == {}
    with measure() as cost:
        rapl(p0=20)
    assert (cost.cpu_joules, cost.gpu_joules) == (None, None)
    rapl(p1=1)
    with measure() as cost:  # unreadable at its end
        (tmp_path / "intel-rapl:1/energy_uj").unlink()
    assert cost.cpu_joules is None
    monkeypatch.setattr(energy, "RAPL", tmp_path / "none")
    with measure() as cost:
        pass
    assert cost.cpu_joules is None


def test_the_gpu_in_use_is_asked(monkeypatch, rapl):
    asked = []

    def used(handle):
        asked.append(handle)
        return 5_000 * len(asked)  # millijoules

    nvml = SimpleNamespace(
        nvmlInit=lambda: asked.clear(),
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=used,
    )
    cuda = SimpleNamespace(
        is_available=lambda: True,
        current_device=lambda: 1,
        get_device_properties=lambda i: SimpleNamespace(uuid=f"of-{i}"),
        reset_peak_memory_stats=lambda: None,
        max_memory_allocated=lambda: 0,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    with measure() as cost:
        pass
    assert cost.gpu_joules == 5.0
    assert set(asked) == {"GPU-of-1"}
    nvml.nvmlDeviceGetTotalEnergyConsumption = None  # an old GPU does not tell
    with measure() as cost:
        pass
    assert cost.gpu_joules is None


def test_what_is_not_known_of_one_piece_is_not_known_of_all():
    known, unknown = Cost(cpu_joules=2.0, gpu_joules=3.0), Cost(cpu_joules=1.0)
    assert Cost.together([known, known]).gpu_joules == 6.0
    both = Cost.together([known, unknown])
    assert (both.cpu_joules, both.gpu_joules) == (3.0, None)
    assert Cost.together([]).cpu_joules is None
