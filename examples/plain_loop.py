"""GRASP in a plain PyTorch loop, with a reward of your own: python plain_loop.py [MODEL].

Any number that you can compute from the model will do as a reward. Here it is the mean probability of the
right next word, which is no loss at all.
"""

import sys
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from grasp_lora import GraspController, load_backbone, merge_adapters, read_parts
from grasp_lora.control.masked import MaskedAdapter
from grasp_lora.control.units import Pruning, adapter_parameters

MODEL = sys.argv[1] if len(sys.argv) == 2 else "packaged:gemma-3-270m"  # or a name on the model hub
OUT = Path(tempfile.mkdtemp(prefix="grasp-"))
WORDS = {"en": "mon tue wed thu fri sat sun mon tue wed", "es": "lun mar mie jue vie sab dom lun mar mie"}

tokenizer = load_backbone(MODEL).tokenizer
device = load_backbone(MODEL).model.device


def batches(language):
    """Three words as a text; the labels are all of its tokens."""
    words = WORDS[language].split()
    texts = [" ".join(words[i : i + 3]) for i in range(len(words) - 2)]
    encoded = [tokenizer(text, return_tensors="pt").to(device) for text in texts]
    return [{**one, "labels": one["input_ids"]} for one in encoded]


def optimizer_of(model):
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)


def train(model, data, after_step=lambda: None, optimizer=None):
    optimizer = optimizer or optimizer_of(model)
    model.train()
    for batch in data * 2:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        after_step()


for language in WORDS:
    lora = LoraConfig(r=8, lora_alpha=32, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(load_backbone(MODEL).model, lora)
    train(model, batches(language))
    model.save_pretrained(OUT / language)
merge_adapters({language: OUT / language for language in WORDS}, OUT / "merged")
parts = read_parts(OUT / "merged")


def merged():
    return PeftModel.from_pretrained(load_backbone(MODEL).model, OUT / "merged", is_trainable=True)


rows, held_out = batches("es")[:5], batches("es")[5:]


def reward(model):  # it is called in eval mode, without gradients
    right = []
    for batch in held_out:
        logits = model(input_ids=batch["input_ids"]).logits[0, :-1].float()
        right.append(logits.softmax(-1).gather(1, batch["input_ids"][0, 1:, None]).mean())
    return torch.stack(right)  # one number for each example: then a round knows how sure it is


# The learning run. Make the controller before the first step.
model = merged()
optimizer = optimizer_of(model)
controller = GraspController(model, optimizer, reward, parts=parts, every=2)
train(model, rows, controller.after_optimizer_step, optimizer)
p = controller.result.best_ratio
controller.close()

# The final run, from the merged adapter again, under one mask.
model = merged()
masked = MaskedAdapter(adapter_parameters(model), Pruning(parts))
masked.commit(p)
train(model, rows, masked.zero_pruned)
masked.close()
model.save_pretrained(OUT / "final")
print(f"p* = {p:.3f}; the adapter is in {OUT / 'final'}")
