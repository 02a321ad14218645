"""A run with a model of each family, its prompts plain and in a chat template."""

import pytest
import torch
from tests.helpers.models import MORE_TINY_MODELS, TINY_MODELS
from tests.helpers.run import write_setting
from tests.helpers.tokenizer import tiny_chat_tokenizer

from grasp_lora.cli.main import main
from grasp_lora.experiment import run
from grasp_lora.lm.adapters import load_adapter
from grasp_lora.lm.backbone import load_backbone
from grasp_lora.workspace.records import Done

FAMILIES = {**TINY_MODELS, **MORE_TINY_MODELS}
SETTINGS = {
    "methods": ["grasp"],
    "seeds": [42],
    "variants": {},
    "training.epochs": 1,
    "evaluation": {"generate": 2, "metrics": ["rouge1"], "deployment": False},
}


def made(folder, name, prompt_format):
    build, modules = FAMILIES[name]
    setting = write_setting(folder, model=build(), tokenizer=tiny_chat_tokenizer())
    own = {"prompt_format": prompt_format, "lora.target_modules": modules}
    return setting, run(setting / "run.yaml", runs=str(folder / "runs"), **SETTINGS, **own)


@pytest.mark.slow
@pytest.mark.parametrize("prompt_format", ["plain", "chat"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_run(tmp_path, name, prompt_format):
    setting, done = made(tmp_path, name, prompt_format)
    (row,) = done.rows
    assert len(row.answers) == 2
    inputs = Done.read(done.folder / "adapters/en").inputs
    assert inputs.get("limits.prompt_format") == (None if prompt_format == "plain" else "chat")
    # The losses are those of the conversation as the tokenizer writes it, one row at a time.
    backbone = load_backbone(str(setting / "backbone"))
    adapted = load_adapter(backbone.model, done.folder / row.adapter, trainable=False)
    rows = [line.prompt for line in row.answers]
    for prompt, answer, loss in zip(rows, row.answers, row.test_losses, strict=False):
        text = f"<bos>{prompt}{answer.references[0]}<eos>"
        if prompt_format == "chat":
            text = f"<bos><user>{prompt.strip()}<end><model>{answer.references[0]}<end>"
        ids = backbone.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        targets = len(answer.references[0]) + 1
        with torch.no_grad():
            logits = adapted(ids).logits[0, -targets - 1 : -1]
        assert torch.nn.functional.cross_entropy(logits, ids[0, -targets:]).item() == pytest.approx(
            loss, rel=1e-4
        )


def test_what_a_run_of_chats_tells_of_its_adapter(tmp_path, capsys, monkeypatch):
    """The card and the screen say how the adapter is asked, `generate` and `data show` do it."""
    setting, done = made(tmp_path, "llama", "chat")
    card = (done.folder / "adapters/en/README.md").read_text(encoding="utf-8")
    config = str(setting / "run.yaml")
    overrides = [
        f"runs={tmp_path / 'runs'}",
        "prompt_format=chat",
        *(f"{k}={v}" for k, v in SETTINGS.items()),
    ]
    overrides += ["lora.target_modules=[q_proj,v_proj]"]
    assert main(["run", config, *overrides]) == 0
    screen = capsys.readouterr().out
    for code in (card, screen):
        assert 'messages = [{"role": "user", "content": prompt.strip()}]' in code
        assert "tokenizer(prompt" not in code
    code = screen[screen.index("from peft") :].split("\n\n")[0].split("\nNote")[0]
    exec("\n".join(line.removeprefix("    ") for line in code.replace("{text}", "ab 7").splitlines()), {})
    answer = capsys.readouterr().out.strip()
    assert main(["generate", str(done.folder), "ab 7"]) == 0
    assert capsys.readouterr().out.strip() == answer
    adapter = str(done.folder / done.rows[0].adapter)
    assert main(["generate", adapter, "say ab 7", "--raw", "--chat", "--max-new-tokens", "6"]) == 0
    assert capsys.readouterr().out.strip() == answer
    (tmp_path / "chat.yaml").write_text(
        (setting / "run.yaml").read_text(encoding="utf-8") + "prompt_format: chat\n", encoding="utf-8"
    )
    assert main(["data", "show", str(tmp_path / "chat.yaml")]) == 0
    assert "<bos><user>say " in (shown := capsys.readouterr().out)
    assert "<end><model>--> " in shown
