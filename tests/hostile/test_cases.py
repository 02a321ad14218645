"""Named cases that have no other place; `pytest -m hostile` runs these and those that have."""

import gzip
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.helpers.adapter_checks import assert_equals_active_together, edit_config, usual_pair
from tests.helpers.models import random_adapter, tiny_llama
from tests.helpers.tokenizer import tiny_tokenizer
from tests.hostile.run import make_run
from transformers import LlamaConfig, LlamaForCausalLM

from grasp_lora import merge_adapters
from grasp_lora.config.loading import load_config
from grasp_lora.control.masked import MaskedAdapter
from grasp_lora.control.units import adapter_parameters
from grasp_lora.data.card import Card, load_card
from grasp_lora.data.prepare import prepare_card
from grasp_lora.errors import GraspError
from grasp_lora.lm.adapters import load_adapter
from grasp_lora.lm.backbone import load_backbone
from grasp_lora.lm.encoding import Limits
from grasp_lora.merging import read_parts
from grasp_lora.merging.inspect import inspect_adapter
from grasp_lora.tasks.example import Example
from grasp_lora.workspace.inputs import Model
from grasp_lora.workspace.leftovers import leftovers, remove
from grasp_lora.workspace.private import private_things
from grasp_lora.workspace.resources import Resources

pytestmark = pytest.mark.filterwarnings("ignore:::peft", "ignore:::transformers")
WEIGHTS = "adapter_model.safetensors"
READ = {
    "inspect": lambda folder, out: inspect_adapter(folder),
    "merge": lambda folder, out: merge_adapters({"one": folder}, out),
    "load": lambda folder, out: load_adapter(tiny_llama(), folder, trainable=False),
}


@pytest.fixture
def adapter(tmp_path):
    return usual_pair(tmp_path)["source"]


@pytest.fixture
def model(tmp_path):
    tiny_llama().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


IMPORTS = [
    ("auto_mapping", {"base_model_class": "system", "parent_library": "os"}),
    ("auto_mapping", {"base_model_class": "LlamaForCausalLM", "parent_library": "transformers_evil"}),
    ("auto_mapping", {"base_model_class": "x", "parent_library": "transformers.models..os"}),
    ("auto_mapping", {"base_model_class": "a.b", "parent_library": "transformers"}),
    ("auto_mapping", "os"),
    ("megatron_core", "planted"),
    ("megatron_core", "megatron_evil.core"),
    ("megatron_config", {"tensor_model_parallel_size": 1}),
]
OPENS = [
    ("corda_config", {"cache_file": "x.pt"}),
    ("corda_config", {"covariance_file": "x.pt"}),
    ("prompt_tuning_init_state_dict_path", "x.bin"),
]


@pytest.mark.hostile("keys that make PEFT import a module", "refused unless it is transformers' own")
@pytest.mark.parametrize("reader", READ)
@pytest.mark.parametrize(("key", "value"), IMPORTS + OPENS, ids=str)
def test_a_config_imports_and_opens_nothing(adapter, tmp_path, monkeypatch, reader, key, value):
    (tmp_path / "planted.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    edit_config(adapter, **{key: value})
    with pytest.raises(
        GraspError, match=r"adapter_config\.json sets (auto_mapping|megatron_core|\w+_(file|path)) to"
    ):
        READ[reader](adapter, tmp_path / "out")
    assert "planted" not in sys.modules


@pytest.mark.parametrize("reader", READ)
def test_what_peft_itself_writes_is_read(adapter, tmp_path, reader):
    library = "transformers.models.llama.modeling_llama"
    mapping = {"base_model_class": "LlamaForCausalLM", "parent_library": library}
    edit_config(adapter, auto_mapping=mapping, megatron_core="megatron.core")
    READ[reader](adapter, tmp_path / "out")


@pytest.mark.hostile("patterns of modules that take for ever", "refused")
@pytest.mark.parametrize("reader", READ)
@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(?x)(a+) # c\n+$", "(.|.)*x", "(a|aa)" * 12 + "$", ".*.*.*.*.*x", "(", "x" * 2000]
)
def test_patterns_that_take_for_ever(adapter, tmp_path, reader, pattern):
    for change in ({"rank_pattern": {pattern: 2}}, {"target_modules": pattern}):
        edit_config(adapter, rank_pattern={}, target_modules=["q_proj"])
        edit_config(adapter, **change)
        with pytest.raises(GraspError, match=r"no regular expression|take for ever"):
            READ[reader](adapter, tmp_path / "out")


@pytest.mark.hostile("weights that are NaN or infinite", "refused when read, never saved")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("reader", ["inspect", "merge"])
def test_weights_that_are_not_finite_are_not_read(adapter, tmp_path, reader, value):
    tensors = load_file(adapter / WEIGHTS)
    next(iter(tensors.values()))[0, 0] = value
    save_file(tensors, adapter / WEIGHTS)
    with pytest.raises(GraspError, match="holds values that are not finite: train it again"):
        READ[reader](adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.hostile(
    "an adapter that is all zeros", "inspected and merged like any other; pruned once it was trained"
)
def test_an_adapter_of_zeros(adapter, tmp_path):
    save_file(
        {name: torch.zeros_like(t) for name, t in load_file(adapter / WEIGHTS).items()}, adapter / WEIGHTS
    )
    assert all(one.zeros == one.entries and one.norm == 0.0 for one in inspect_adapter(adapter).modules)
    merge_adapters({"zeros": adapter, "other": tmp_path / "target"}, tmp_path / "out")
    assert_equals_active_together(
        tiny_llama, {"zeros": adapter, "other": tmp_path / "target"}, tmp_path / "out"
    )
    masked = MaskedAdapter(adapter_parameters(load_adapter(tiny_llama(), adapter, trainable=True)))
    masked.commit(0.5)
    assert len(masked.pending) == len(masked.units)  # nothing was trained yet: pruned once it was
    assert all(mask.all() for mask in masked.masks().values())


@pytest.mark.hostile("ranks of 1 and 256", "merged exactly, pruned by parts")
@pytest.mark.parametrize("ranks", [(1, 1), (1, 256), (256, 256)])
def test_small_and_large_ranks(tmp_path, ranks):
    pair = {}
    for seed, r in enumerate(ranks):
        folder, settings = tmp_path / f"{seed}", {"target_modules": ["q_proj"], "r": r, "lora_alpha": r}
        pair[f"r{seed}"] = random_adapter(tiny_llama(), folder, seed=seed, **settings)
    merge_adapters(pair, tmp_path / "out")
    assert_equals_active_together(tiny_llama, pair, tmp_path / "out")
    (parts, *_) = read_parts(tmp_path / "out").values()
    assert [part.stop - part.start for part in parts] == list(ranks)


@pytest.mark.hostile(
    "a config that names a rank that its tensors have not", "refused before room is made for it"
)
@pytest.mark.parametrize("change", [{"r": 10**9}, {"rank_pattern": {"q_proj": 10**12}}], ids=str)
@pytest.mark.parametrize("reader", READ)
def test_a_rank_that_takes_all_memory(adapter, tmp_path, reader, change):
    edit_config(adapter, **change)
    with pytest.raises(GraspError, match=r"the config says rank|its config names rank"):
        READ[reader](adapter, tmp_path / "out")


def lying(content: bytes, what: str) -> bytes:
    (size,) = struct.unpack("<Q", content[:8])
    header, values = json.loads(content[8 : 8 + size]), content[8 + size :]
    name = next(name for name in header if name != "__metadata__")
    start, stop = header[name]["data_offsets"]
    if what in LENGTHS:
        return struct.pack("<Q", LENGTHS[what]) + content[8:]
    header[name] |= {
        "offsets beyond the end": {"data_offsets": [start, 2**40]},
        "offsets the wrong way round": {"data_offsets": [stop, start]},
        "a shape that does not fit": {"shape": [2**40, 2]},
        "a shape that overflows": {"shape": [2**63, 2**63]},
        "a type that there is not": {"dtype": "F7"},
        "a type of another size": {"dtype": "F64"},
    }[what]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + values


LENGTHS = {"a length beyond the end": 2**62, "a length that overflows": 2**64 - 1, "a length of 0": 0}
LIES = [
    *LENGTHS, "offsets beyond the end", "offsets the wrong way round", "a shape that does not fit",
    "a shape that overflows", "a type that there is not", "a type of another size",
]  # fmt: skip


@pytest.mark.hostile("safetensors with a header that lies", "refused, no memory is taken for it")
@pytest.mark.parametrize("reader", READ)
@pytest.mark.parametrize("what", LIES)
def test_a_header_that_lies(adapter, tmp_path, reader, what):
    path = adapter / WEIGHTS
    path.write_bytes(lying(path.read_bytes(), what))
    with pytest.raises(GraspError, match=r"cannot be read|holds no adapter"):
        READ[reader](adapter, tmp_path / "out")


@pytest.mark.hostile("safetensors with a header that lies", "refused, no memory is taken for it")
@pytest.mark.parametrize("what", LIES)
def test_a_backbones_header_that_lies(model, what):
    path = model / "model.safetensors"
    path.write_bytes(lying(path.read_bytes(), what))
    with pytest.raises(GraspError, match="cannot load the backbone"):
        load_backbone(str(model))


@pytest.mark.hostile("a vocabulary larger than the embedding", "refused where a text has such a token")
def test_a_token_without_a_row_of_the_embedding(model):
    small = LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(small).save_pretrained(model)
    backbone = load_backbone(str(model), device="cpu")
    limits = Limits(40, 6)
    with pytest.raises(GraspError, match="embeds 20 tokens"):
        Resources().encode([Example("1", "z\n", "a")], backbone, limits)
    (known,) = Resources().encode([Example("1", "a", "b")], backbone, limits)  # the tokenizer may have more
    assert max(known.input_ids) < 20
    with pytest.raises(GraspError, match=r"makes the token \d+ of a text, and the backbone embeds 20 tokens"):
        Resources().encode([Example("1", "z9\n", "z")], backbone, limits)


PATHS = ["../x", "..", ".", ".hidden", "/tmp/x", "a/b", "a\\b", "", "a\0b", "x\n", "~", "C:\\x"]


@pytest.mark.hostile("names of runs, adapters and languages that are paths", "refused")
@pytest.mark.parametrize("name", PATHS, ids=repr)
@pytest.mark.parametrize("key", ["name", "source.name", "source.language", "target.language"])
def test_a_name_is_no_path(tmp_path, key, name):
    config = {
        "name": "x",
        "backbone": "b",
        "task": "t",
        "source": {"language": "en"},
        "target": {"language": "ar"},
    }
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(config))
    with pytest.raises(GraspError, match=f"{key.replace('.', '[.]')}: it names a folder"):
        load_config(path, {key: name})


@pytest.mark.hostile("names of runs, adapters and languages that are paths", "refused")
@pytest.mark.parametrize("name", [name for name in PATHS if name not in ("", "C:\\x")] + ["C:\\x"], ids=repr)
def test_a_cards_names_are_no_paths(tmp_path, name):
    """They are the folders that are written: of the card in the cache, of a language in that."""
    (tmp_path / "card.yaml").write_text(json.dumps({"extends": "jsonl", "name": name}))
    with pytest.raises(GraspError, match=r"name: .*it names a folder"):
        load_card(tmp_path / "card.yaml")
    (tmp_path / "card.yaml").write_text(
        json.dumps({"extends": "jsonl", "name": "own", "languages": {name: {}}})
    )
    with pytest.raises(GraspError, match=r"languages: .*the language .* names a folder"):
        load_card(tmp_path / "card.yaml")


@pytest.mark.hostile("names of runs, adapters and languages that are paths", "refused")
def test_names_in_a_merge_are_text(adapter, tmp_path):
    """They are keys of parts.json, and no file is called so."""
    names = {"../../x": adapter, "/abs": tmp_path / "target"}
    merge_adapters(names, tmp_path / "in" / "out")
    (parts, *_) = read_parts(tmp_path / "in" / "out").values()
    assert [part.name for part in parts] == [*names]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "source", "target"]


@pytest.mark.hostile("templates that reach for attributes", "refused, or plain text")
@pytest.mark.parametrize("prompt", ["{text.__class__}", "{text[0]}", "{text!r}", "{text:>99}", "{0}", "{}"])
def test_a_template_has_columns_only(tmp_path, prompt):
    (tmp_path / "card.yaml").write_text(json.dumps({"extends": "jsonl", "name": "own", "prompt": prompt}))
    (tmp_path / "en.jsonl").write_text('{"text": "a", "target": "b"}\n' * 3)
    with pytest.raises(GraspError, match=r"placeholder|missing column"):
        prepare_card(load_card(tmp_path / "card.yaml"), tmp_path / "en.jsonl", tmp_path / "out")


@pytest.mark.hostile("archive bombs", "stopped at a limit")
def test_rows_that_pack_a_thousand_times(tmp_path, monkeypatch):
    monkeypatch.setattr("grasp_lora.data.sources.archives.FREE", 1 << 20)
    with gzip.open(tmp_path / "en.jsonl.gz", "wb") as file:
        for _ in range(40):
            file.write(b'{"text": "a", "target": "b"}\n' * 10_000)
    with pytest.raises(GraspError, match=r"en.jsonl.gz holds more than 100 times its size"):
        prepare_card(any_card(tmp_path), tmp_path, tmp_path / "out")


@pytest.mark.hostile("archive bombs", "stopped at a limit")
def test_rows_that_pack_a_thousand_times_in_a_zip(tmp_path, monkeypatch):
    monkeypatch.setattr("grasp_lora.data.sources.archives.FREE", 1 << 20)
    with zipfile.ZipFile(tmp_path / "en.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("en.jsonl", b'{"text": "a", "target": "b"}\n' * 400_000)
    with pytest.raises(GraspError, match=r"en.zip holds more than 100 times its size"):
        prepare_card(any_card(tmp_path), tmp_path, tmp_path / "out")


def any_card(folder: Path) -> Card:
    (folder / "card.yaml").write_text(json.dumps({"extends": "jsonl", "name": "own"}))
    return load_card(folder / "card.yaml")


CODE = """
import os
from transformers import LlamaConfig, LlamaForCausalLM

os.environ["RAN"] = "yes"


class OwnConfig(LlamaConfig):
    model_type = "own"


class Own(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.mark.hostile("code that comes with a model", "not run unless the config of that run says so")
def test_code_of_a_model_is_not_run(model, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setenv("RAN", "no")
    config = json.loads((model / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"},
    }
    (model / "config.json").write_text(json.dumps(config))
    (model / "own.py").write_text(CODE)
    with pytest.raises(GraspError, match=r"trust_remote_code: true in the config lets it run"):
        load_backbone(str(model), device="cpu")
    assert os.environ["RAN"] == "no"
    load_backbone(str(model), device="cpu", trust_remote_code=True)
    assert os.environ["RAN"] == "yes"


def test_only_where_it_is_on_it_is_an_input_of_a_stage(model):
    off, on = (Model(str(model), trust_remote_code=trusted).fingerprint(None) for trusted in (False, True))
    assert set(on) - set(off) == {"trust_remote_code"}


LOAD = """
from grasp_lora.lm.backbone import load_backbone
for revision in (None, "v2", "2" * 40):
    print(load_backbone("some/model", device="cpu", revision=revision).commit)
"""


@pytest.mark.hostile("a backbone's revision", "can be pinned; the commit is recorded in done.json")
def test_the_commit_of_a_backbone(model, tmp_path):
    """From a cache as the hub's library leaves it: branches and tags are names of commits."""
    cached = tmp_path / "hub/models--some--model"
    (cached / "refs").mkdir(parents=True)
    for name, commit in (("main", "1" * 40), ("v2", "2" * 40)):
        (cached / "refs" / name).write_text(commit)
        shutil.copytree(model, cached / "snapshots" / commit)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = subprocess.run([sys.executable, "-c", LOAD], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["1" * 40, "2" * 40, "2" * 40], done.stderr
    assert load_backbone(str(model), device="cpu").commit is None


@pytest.mark.hostile("symlinks out of the run's folder", "followed to stages alone; nothing there is changed")
def test_clean_stays_in_the_run(tmp_path):
    run, outside = tmp_path / "run", tmp_path / "outside"
    for folder in (run, outside / "x.partial", outside / "x.replaced-1"):
        folder.mkdir(parents=True)
        (folder / "done.json").write_text("{}")
        (folder / "train_log.jsonl").write_text("{}")
        os.utime(folder, (0, 0))
    (run / "config.yaml").write_text("name: x")
    for name in ("x.partial", "x.replaced-1", "tensorboard"):
        (run / name).symlink_to(outside / name.replace("tensorboard", "x.partial"))
    (run / "up").symlink_to("..")
    (run / "a.partial").mkdir()
    (run / "a.partial/rounds.jsonl").symlink_to(outside / "x.partial/train_log.jsonl")
    os.utime(run / "a.partial/rounds.jsonl", (0, 0), follow_symlinks=False)
    os.utime(run / "a.partial", (0, 0))
    found = leftovers(run, logs=True)
    assert [one.path.name for one in found if remove(one)] == ["a.partial"]
    assert sorted(path.name for path in outside.rglob("*.jsonl")) == ["train_log.jsonl"] * 2


@pytest.mark.hostile(
    "tokens and user names in cards, env.json, reports", "none is written, none is published"
)
def test_no_names_and_tokens_in_what_a_run_shows(tmp_path, monkeypatch):
    token = "hf_" + "abcdefgh" * 4
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("USER", "jane.doe")
    monkeypatch.setenv("LOGNAME", "jane.doe")
    run = make_run(tmp_path / "home/jane.doe/work")
    shown = [run / "env.json", *run.rglob("README.md"), *(p for p in run.glob("report/**/*") if p.is_file())]
    assert len(shown) > 20
    for path in shown:
        text = path.read_bytes().decode(errors="replace")
        assert "jane.doe" not in text, path
        assert token not in text, path
    for path in (run / "env.json", *run.rglob("README.md")):
        assert private_things(path.read_text(encoding="utf-8")) == [], path
