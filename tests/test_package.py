"""The package as users get it: a wheel, installed where there is no clone."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from tests.helpers.run import write_setting

ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def done(*command, **options):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    made = subprocess.run(
        [*map(str, command)], env=environment, capture_output=True, text=True, check=False, **options
    )
    assert made.returncode == 0, made.stderr
    return made.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that nothing of it is left beside the sources."""
    folder = tmp_path_factory.mktemp("package")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", folder / "src", ignore=ignored)
    done(*PIP, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder / "dist", folder)
    (found,) = (folder / "dist").glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A fresh environment with the wheel; what it depends on is this one's, the clone is not."""
    folder = tmp_path_factory.mktemp("environment")
    done(sys.executable, "-m", "venv", "--without-pip", folder)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")  # whose own .pth are not read
    install = ("install", "-q", "--no-deps", "--no-index", "--ignore-installed", wheel)
    done(*PIP, "--python", folder / "bin/python", *install)
    return folder


def test_the_lowest_versions_are_those_of_the_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    trl = [one for one in extras["dev"] if one.startswith("trl")]  # the one tool that is compared with
    groups = (project["dependencies"], *(extras[name] for name in ("data", "demo", "metrics", "search")), trl)
    asked = {one.name: one for group in groups for one in map(Requirement, group)}
    lines = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert set(pinned) == {name for name, one in asked.items() if ">=" in str(one.specifier)}
    assert [name for name in pinned if not asked[name].specifier.contains(pinned[name])] == []


@pytest.mark.slow
def test_everything_is_in_the_wheel(wheel):
    there = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("grasp_lora/")}
    package = ROOT / "src"
    wanted = {
        path.relative_to(package).as_posix()
        for path in (package / "grasp_lora").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert "grasp_lora/py.typed" in there
    assert wanted == there


@pytest.mark.slow
def test_it_runs_where_there_is_no_clone(installed, tmp_path):
    where = "import grasp_lora; print(grasp_lora.__file__)"
    assert str(installed) in done(installed / "bin/python", "-c", where, cwd=tmp_path)
    grasp = installed / "bin/grasp"
    assert done(grasp, "--version", cwd=tmp_path).startswith("grasp-lora ")
    assert "lora.use_rslora" in done(grasp, "config", "--explain", cwd=tmp_path)
    assert done(grasp, "data", "list", cwd=tmp_path)
    write_setting(tmp_path)
    small = ("methods=[grasp]", "seeds=[42]", "variants={}", "training.epochs=1", "control.every=1")
    done(grasp, "run", "run.yaml", *small, cwd=tmp_path)
    for name in ("final/seed42/adapter_model.safetensors", "report/report.html", "final/seed42/README.md"):
        assert (tmp_path / "runs/tiny" / name).is_file()
