"""The config tree: defaults of the papers, inheritance, overrides, and errors that name the key."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from grasp_lora.config.tree import Config
from grasp_lora.errors import GraspError
from grasp_lora.executors.settings import Executor
from grasp_lora.experiment import read_config as load_config
from grasp_lora.settings import FolderName

SMALL = "name: x\nbackbone: some/model\ntask: handbook\nsource: {language: en}\ntarget: {language: ar}\n"
CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def write(tmp_path):
    def write(text, name="run.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], {}),
        (["executor=ray"], {"where": "ray"}),
        (["executor=ray", "executor.jobs=2"], {"where": "ray", "jobs": 2}),
        (["executor.jobs=2", "executor=ray"], {"where": "ray", "jobs": 2}),
        (["executor.address=auto", "executor.gpus=0.5"], {"where": "ray", "address": "auto", "gpus": 0.5}),
    ],
)
def test_an_executor_by_its_name_and_its_keys(write, overrides, expected):
    assert load_config(write(SMALL), overrides).executor == Executor(**expected)
    written = write(f"{SMALL}executor: ray\n")
    assert load_config(written, overrides).executor == Executor(**{"where": "ray", **expected})


@pytest.mark.parametrize("value", ["slurm", "{jobs: 0}", "{where: local, address: auto}", "3"])
def test_an_executor_that_there_is_not(write, value):
    with pytest.raises(GraspError, match="executor"):
        load_config(write(SMALL), [f"executor={value}"])


def test_a_config_that_is_read_again_is_the_same_to_the_letter(write):
    config = load_config(write(SMALL))
    assert repr(load_config(config)) == repr(config)  # 32 and 32.0 make other files


def test_defaults_are_table_7(write):
    config = load_config(write(SMALL))
    training, control = config.training, config.control
    assert (training.epochs, training.batch_size, training.learning_rate) == (10, 1, 1e-4)
    assert (config.lora.r, config.lora.alpha, config.lora.dropout) == (8, 32, 0.05)
    assert config.lora.target_modules == ("q_proj", "v_proj")
    assert (control.p_min, control.p_max, control.p_init, control.every) == (0.10, 0.80, 0.40, 10)
    assert (control.candidates, control.micro_dev, control.d_max) == (3, 16, 0.10)
    assert (control.eta, control.beta, control.tau) == (0.05, 0.05, 0.01)
    assert config.max_length == 2200


def test_stages_inherit_what_they_do_not_set(write):
    text = SMALL + "training: {epochs: 4, learning_rate: 1e-5}\nlearn: {training: {epochs: 2}}\n"
    config = load_config(write(text), ["target.training.weight_decay=0.1"])
    assert (config.source.training.epochs, config.final.training.learning_rate) == (4, 1e-5)
    assert (config.learn.training.epochs, config.learn.training.learning_rate) == (2, 1e-5)
    assert (config.target.training.epochs, config.target.training.weight_decay) == (4, 0.1)


def test_overrides_win_and_are_typed(write):
    config = load_config(write(SMALL), ["control.every=5", "seeds=[1, 2]", "control.eta=1e-3", "name=y"])
    assert (config.control.every, config.seeds, config.control.eta, config.name) == (5, (1, 2), 1e-3, "y")


def test_extends(write):
    write(SMALL + "control: {every: 5, tau: 0.02}\n", "base.yaml")
    config = load_config(write("extends: base.yaml\nname: child\ncontrol: {every: 7}\n"))
    assert (config.name, config.control.every, config.control.tau) == ("child", 7, 0.02)
    with pytest.raises(GraspError, match="extends itself"):
        load_config(write("extends: loop.yaml\n", "loop.yaml"))


def test_the_dump_reads_back_as_the_same_config(write):
    config = load_config(write(SMALL), ["runs=/somewhere", "training.epochs=3"])
    assert Config.model_validate(yaml.safe_load(config.dump())) == config


def test_inline_task_paths_are_relative_to_the_file(write, tmp_path):
    task = (
        "task: {name: t, prompt: '{a}', target: b, languages: {en: {train: en.csv}, ar: {train: ar.csv}}}\n"
    )
    config = load_config(write(SMALL.replace("task: handbook\n", task)))
    assert config.task.languages["en"]["train"] == tmp_path / "en.csv"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("contorl: {every: 5}", "contorl: unknown key; near it: control"),
        ("control: {evry: 5}", "control.evry: unknown key; near it: control.every"),
        ("select: curve", "select: unknown key; near it: select_by, control.select"),
        ("qqqqqq: 1", "qqqqqq: unknown key$"),
        ("seeds: 5", "seeds: Input should be a list (got 5)"),
        ("seeds: []", "seeds: List should have at least 1 item"),
        ("control: {p_max: 1.5}", "control.p_max"),
        ("control: {p_init: 0.9}", "p_min <= p_init <= p_max"),
        ("seeds: none", "seeds"),
        ("dtype: int8", "dtype"),
        ("training: {learning_rate: fast}", "learning_rate"),
        ("target: {language: no}", "stands twice"),
        ("methods: []", "methods"),
        ("name: ../up", "name: it names a folder"),
        ("name: ..", "name: it names a folder"),
        ("name: .", "name: it names a folder"),
        ("methods: [merge, grsp]", "no method is called 'grsp'; there are cross_validate,"),
        ("methods: 3", "methods is 'all' or a list"),
    ],
)
def test_faults_name_the_key(write, extra, message):
    text = SMALL if not extra.startswith("name") else SMALL.replace("name: x\n", "")
    with pytest.raises(GraspError, match=re.escape(message).replace(r"\$", "$")):
        load_config(write(text + extra))


def test_all_faults_in_one_message(write):
    with pytest.raises(GraspError) as error:
        load_config(write("name: x\ntask: handbook\ncontrol: {K: 3}\nsource: {language: no}\n"))
    for line in (
        "backbone: missing",
        "target.language: missing",
        "control.K: unknown key",
        "source.language",
    ):
        assert line in str(error.value)


@pytest.mark.parametrize("override", ["control.every", "=3", "control.every=[1"])
def test_bad_override(write, override):
    with pytest.raises(GraspError, match=override.split("=")[0] or "key=value"):
        load_config(write(SMALL), [override])


def test_same_language_twice(write):
    with pytest.raises(GraspError, match="are called 'en'"):
        load_config(write(SMALL.replace("language: ar", "language: en")))


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("grid=[0.1,0.10004]", "same to four decimals"),
        ("seeds=[]", "seeds"),
        ("seeds=[42,42]", "twice"),
        ("seeds=[-1]", "seeds"),
        ("optuna.p_min=0.9", "p_min <= p_max"),
        ("combine.weights={en: 1.0}", r"a weight for each of \['ar', 'en'\]"),
        ("merge_prune.unit=module", "threshold"),
        ("merge_prune.thresholds=[0.1]", "threshold"),
        ("methods=[merge,grasp,merge]", "methods names merge twice"),
    ],
)
def test_settings_that_do_not_go_together(write, override, complaint):
    with pytest.raises(GraspError, match=complaint) as error:
        load_config(write(SMALL), [override])
    assert "max_length" not in str(error.value)  # not the whole config with it


@pytest.mark.parametrize("path", sorted([*CONFIGS.glob("*.yaml"), *CONFIGS.glob("matrix/*.yaml")]), ids=str)
def test_the_configs_that_come_along_are_valid_and_survive_a_dump(path, tmp_path):
    config = load_config(path)
    (tmp_path / "dumped.yaml").write_text(config.dump(), encoding="utf-8")
    assert load_config(tmp_path / "dumped.yaml") == config


def test_all_means_every_method_and_a_variant_fills_up_from_control(tmp_path):
    config = load_config(
        CONFIGS / "demo.yaml", ["methods=all", "control.beta=0.2", "variants={a: {tau: 0.3}}"]
    )
    assert {"zero_shot", "ties", "lorahub", "optuna", "merge_prune", "grasp", "rank_check"} <= set(
        config.methods
    )
    assert (config.variants["a"].beta, config.variants["a"].tau, config.control.tau) == (0.2, 0.3, 0.01)
    for name in ("grasp", "a/b", "", ".."):
        with pytest.raises(GraspError, match="variant"):
            load_config(CONFIGS / "demo.yaml", [f"variants={{'{name}': {{}}}}"])


@pytest.mark.hostile("names of runs, adapters and languages that are paths", "refused")
def test_a_language_is_no_path(write):
    for language in ("../x", ".."):
        with pytest.raises(GraspError, match=r"source\.language: it names a folder"):
            load_config(write(SMALL), [f"source.language={language}"])


def test_an_empty_mapping_empties_what_it_replaces(write):
    write(SMALL + "variants: {a: {tau: 0.3}, b: {}}\ncontrol: {every: 5}\n", "base.yaml")
    assert load_config(write("extends: base.yaml\nvariants: {}\n")).variants == {}
    assert load_config(write("extends: base.yaml\n"), ["variants={}"]).variants == {}
    assert load_config(write("extends: base.yaml\ncontrol: {}\n")).control.every == 10
    assert set(load_config(write("extends: base.yaml\nvariants: {c: {}}\n")).variants) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("override", "generated"),
    [
        ("evaluation={}", 4),
        ("evaluation.test_examples=9", 4),
        ("evaluation.metrics=[rougeL]", None),
        ("evaluation.metrics=task", None),
        ("evaluation={metrics: [rougeL], generate: 4}", 4),
        ("evaluation={generate: null}", None),
    ],
)
def test_metrics_are_of_all_answers_unless_told_otherwise(write, override, generated):
    assert load_config(write(SMALL), [override]).evaluation.generate == generated


def test_faults_name_keys_and_no_kinds(write):
    """Pydantic names the kinds that a value may be of as if they were keys."""
    with pytest.raises(GraspError) as error:
        load_config(
            write(SMALL.replace("handbook", "{name: x, prompt: 'a', target: b, languages: {en: {}}}"))
        )
    assert str(error.value).splitlines()[1:] == [
        "  task: the prompt template 'a\\n' has no {field}: all prompts would be the same"
    ]
    with pytest.raises(GraspError) as error:
        load_config(write(SMALL.replace("handbook", "{nam: x}") + "training: {epochs: 0}\n"))
    faults = [line.split(":")[0].strip() for line in str(error.value).splitlines()[1:]]
    assert faults == [
        *(f"task.{n}" for n in ("name", "prompt", "target", "languages", "nam")),
        "training.epochs",
    ]


@pytest.mark.parametrize("name", ["en.partial", "x.replaced-1", "tensorboard", "checkpoint-3"])
@pytest.mark.hostile("names of runs, adapters and languages that are paths", "refused")
def test_names_of_what_may_be_removed_are_taken(name):
    folder_name = TypeAdapter(FolderName)
    with pytest.raises(ValidationError, match="give another name"):
        folder_name.validate_python(name)
    for other in (f"{name}x", f"x{name}x", "partial", "checkpoint"):
        assert folder_name.validate_python(other) == other


def test_a_variant_is_a_folder_too(write):
    with pytest.raises(GraspError, match="give another name"):
        load_config(write(SMALL), ["variants={x.partial: {}}"])
