"""What of an input counts: whatever a result depends on, and nothing else."""

import dataclasses
import json

import pytest
from tests.helpers.models import random_adapter, tiny_llama
from tests.helpers.run import write_setting

from grasp_lora.lm.training import Training
from grasp_lora.merging import Part, write_parts
from grasp_lora.tasks.task import load_task
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.inputs import Behind, Bill, Encoder, Model, Rows
from grasp_lora.workspace.records import DevLosses, LearnedRatio, Pruned
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.stage import Stage, Work, fingerprint


def write(resources, folder, **given):
    (folder / "out.txt").write_text("x")


WRITE = Work(write)


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "run", Resources())


@pytest.mark.parametrize(
    ("one", "changes"),
    [
        (Model("a/b", "main", "float32", "cpu"), {"name": "a/c", "revision": "v2", "dtype": "bfloat16"}),
        (Encoder("a/b", 9, True), {"name": "a/c", "layer": 8, "rescale": False}),
    ],
)
def test_each_field_counts(run, one, changes):
    for name, value in changes.items():
        assert dataclasses.replace(one, **{name: value}).fingerprint(run) != one.fingerprint(run)


def test_the_device_counts_by_its_number_format_only(run):
    model = Model("a/b", None, "float32", "cpu")
    assert dataclasses.replace(model, device="auto").fingerprint(run) == model.fingerprint(run)
    assert Model("a/b", device="cpu").fingerprint(run)["dtype"] == "float32"


def test_how_it_is_loaded_counts_where_it_is_said(run):
    model = Model("a/b", None, "float32")
    assert model.fingerprint(run).keys() == {"name", "revision", "files", "dtype"}  # as runs had it before
    for name, value in {"quantization": "nf4", "attention": "eager"}.items():
        assert dataclasses.replace(model, **{name: value}).fingerprint(run) == {
            **model.fingerprint(run),
            name: value,
        }
    assert dataclasses.replace(model, device_map="auto").fingerprint(run) == model.fingerprint(run)


def test_a_later_setting_counts_once_it_is_set(run):
    known = fingerprint(Training(), run)
    assert not known.keys() & {"gradient_checkpointing", "torch_compile"}
    assert fingerprint(Training(torch_compile=True), run) == {**known, "torch_compile": True}


def test_a_large_file_counts_by_what_is_in_its_middle(run, tmp_path):
    (tmp_path / "m").mkdir()
    content = bytearray(2**23)
    (tmp_path / "m/model.safetensors").write_bytes(content)
    before = Model(str(tmp_path / "m")).fingerprint(run)
    content[2**22 + 5] = 1
    (tmp_path / "m/model.safetensors").write_bytes(content)
    assert Model(str(tmp_path / "m")).fingerprint(run) != before


def test_an_adapter_counts_with_its_parts_and_its_ratio(run, tmp_path):
    folder = random_adapter(tiny_llama(), tmp_path / "a", seed=0, target_modules=["q_proj"], r=2)
    digests = {run.resources.adapter_digest(folder)}
    write_parts(folder, {"x": (Part("en", 0, 2),)})
    digests.add(run.resources.adapter_digest(folder))
    Pruned(0.5).write(folder)
    digests.add(run.resources.adapter_digest(folder))
    Pruned(0.6).write(folder)
    assert len(digests | {run.resources.adapter_digest(folder)}) == 4


def test_a_bill_is_another_when_its_stage_was_made_again(run):
    stage = Stage("a", WRITE, {})
    run.make(stage)
    before = Bill((stage,)).fingerprint(run)
    done = json.loads((run.path("a") / "done.json").read_text())
    (run.path("a") / "done.json").write_text(json.dumps(done | {"seconds": 77.0}))
    assert Bill((stage,)).fingerprint(run) != before
    assert Bill((stage,)).resolve(run)["a"]["seconds"] == 77.0


def test_what_lies_behind_an_adapter(run, tmp_path):
    task = load_task(write_setting(tmp_path) / "task.yaml")

    def stage(name, steps, **given):
        made = Stage(name, WRITE, given)
        run.make(made)
        done = json.loads((run.path(name) / "done.json").read_text())
        (run.path(name) / "done.json").write_text(json.dumps(done | {"steps": steps}))
        return made

    source = stage("source", 100, train=Rows(task, "en", "train"))
    few = stage("few", 30, train=Rows(task, "ar", "train", 3), dev=Rows(task, "ar", "dev", 2), start=source)
    search = stage("search", 7, rows=Rows(task, "ar", "dev"), micro_dev=Rows(task, "ar", "micro_dev"))
    tried = stage("tried", 9, train=Rows(task, "ar", "train", 2), start=source)
    given = {"start": few, "ratio": search, "after": tried}
    last = stage("last", 20, train=Rows(task, "ar", "train", 5), **given)
    line = ["few", "last", "source"]
    assert Behind(last, task, "ar").resolve(run) == {
        "steps": 50,  # what trained the adapter on Arabic rows
        "choosing_steps": 9,
        "labels": {"train": 5, "dev": 4, "micro_dev": 4},  # the most of each split
        "folds": 0,
        "made_by": line,
    }
    english = {"steps": 100, "choosing_steps": 0, "labels": {"train": 12}, "folds": 0, "made_by": line}
    assert Behind(last, task, "en").resolve(run) == english
    nothing = {"steps": 0, "choosing_steps": 0, "labels": {}, "folds": 0}
    other = task.model_copy(update={"name": "another task of the same language"})
    assert Behind(last, other, "ar").resolve(run) == nothing | {"made_by": line}
    for made in (None, tmp_path):
        assert Behind(made, task, "ar").resolve(run) == nothing | {"made_by": []}


@pytest.mark.parametrize(
    ("by_epoch", "best", "averaged", "steps", "unmoved"),
    [
        ([3.0, 2.0, 1.0], 2, 0, 7, False),  # the last epoch: all steps, be it a short one
        ([3.0, 1.0, 2.0], 1, 0, 5, False),  # five rows, one a step
        ([1.0, 2.0, 3.0], 0, 0, 0, True),
        ([1.0], 0, 2, 7, False),
    ],
)
def test_steps_after_the_epoch_that_was_kept_are_not_behind_the_adapter(
    run, tmp_path, by_epoch, best, averaged, steps, unmoved
):
    task = load_task(write_setting(tmp_path) / "task.yaml")
    given = {"train": Rows(task, "ar", "train", 5), "dev": Rows(task, "ar", "dev", 3)}
    made = Stage("final", WRITE, {**given, "training": Training(max_steps=7)})
    run.make(made)
    assert "unmoved" not in Behind(made, task, "ar").resolve(run)  # without a step nothing could move
    done = json.loads((run.path("final") / "done.json").read_text())
    (run.path("final") / "done.json").write_text(json.dumps(done | {"steps": 7}))
    assert Behind(made, task, "ar").resolve(run)["steps"] == 7  # no dev chose
    DevLosses(by_epoch, best, averaged).write(run.path("final"))
    found = Behind(made, task, "ar").resolve(run)
    assert (found["steps"], found["choosing_steps"]) == (steps, 0)
    assert found.get("unmoved") == (["final"] if unmoved else None)


def test_of_several_points_only_the_chosen_one_made_the_adapter(run, tmp_path):
    task = load_task(write_setting(tmp_path) / "task.yaml")
    points = {}
    for p, steps in ((0.1, 5), (0.2, 7)):
        points[p] = Stage(f"p{p}", WRITE, {"train": Rows(task, "ar", "train")})
        run.make(points[p])
        done = json.loads((run.path(f"p{p}") / "done.json").read_text())
        (run.path(f"p{p}") / "done.json").write_text(json.dumps(done | {"steps": steps}))
    best = Stage("best", WRITE, {"points": points})
    run.make(best)
    LearnedRatio(0.2).write(run.path("best"))
    found = Behind(best, task, "ar").resolve(run)
    assert (found["steps"], found["choosing_steps"], found["made_by"]) == (7, 5, ["best", "p0.2"])


def test_more_training_rows_than_the_split_has_come_from_the_pool(run, tmp_path, caplog):
    folder = write_setting(tmp_path)
    (folder / "pool.jsonl").write_text(
        "".join(f'{{"text": "more {i}", "title": "m{i}"}}\n' for i in range(5))
    )
    text = (folder / "task.yaml").read_text()
    (folder / "task.yaml").write_text(text.replace("ar: {train", "ar: {pool: pool.jsonl, train"))
    task = load_task(folder / "task.yaml")
    whole = Rows(task, "ar", "train").resolve(run)
    assert len(whole) == 8
    assert Rows(task, "ar", "train", 3).resolve(run) == whole[:3]
    more = Rows(task, "ar", "train", 10).resolve(run)
    assert more[:8] == whole
    assert [example.target for example in more[8:]] == ["m0", "m1"]
    with caplog.at_level("INFO", logger="grasp_lora"):
        assert len(Rows(task, "ar", "train", 99).resolve(run)) == 13
        assert len(Rows(task, "en", "train", 99).resolve(run)) == 12
    assert "ar has 13 training rows, not 99" in caplog.text
    assert "en has 12 training rows, not 99" in caplog.text
    assert len(Rows(task, "ar", "dev", 99).resolve(run)) == 4
