"""GRASP in TRL's SFTTrainer: python trl_sft.py [MODEL]. It needs `pip install trl`."""

import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from trl import SFTConfig, SFTTrainer

from grasp_lora import FixedMaskCallback, GraspCallback, load_backbone, merge_adapters

MODEL = sys.argv[1] if len(sys.argv) == 2 else "packaged:gemma-3-270m"  # or a name on the model hub
OUT = Path(tempfile.mkdtemp(prefix="grasp-"))
NUMBERS = "one uno, two dos, three tres, four cuatro, five cinco, six seis, seven siete, eight ocho"

pairs = [pair.split() for pair in NUMBERS.split(", ")]
english = [{"prompt": f"after {a} comes", "completion": f" {b}"} for (a, _), (b, _) in zip(pairs, pairs[1:])]
spanish = [{"prompt": f"tras {a} viene", "completion": f" {b}"} for (_, a), (_, b) in zip(pairs, pairs[1:])]
train, micro_dev = spanish[:4], spanish[4:]
tokenizer = load_backbone(MODEL).tokenizer


def trainer(model, rows, lora=None):
    settings = {"per_device_train_batch_size": 1, "num_train_epochs": 2, "learning_rate": 1e-4}
    settings["bf16"] = torch.cuda.is_available()  # TRL wants it, and without a GPU it is an error
    arguments = SFTConfig(str(OUT / "sft"), save_strategy="no", report_to="none", **settings)
    data = Dataset.from_list(rows)
    return SFTTrainer(model, arguments, train_dataset=data, processing_class=tokenizer, peft_config=lora)


for name, rows in {"en": english, "es": train}.items():
    lora = LoraConfig(r=8, lora_alpha=32, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapter = trainer(load_backbone(MODEL).model, rows, lora)
    adapter.train()
    adapter.model.save_pretrained(OUT / name)
merge_adapters({"en": OUT / "en", "es": OUT / "es"}, OUT / "merged")


def merged():
    return PeftModel.from_pretrained(load_backbone(MODEL).model, OUT / "merged", is_trainable=True)


learning = trainer(merged(), train)
grasp = GraspCallback(learning, micro_dev, parts=OUT / "merged", every=2)
learning.add_callback(grasp)
learning.train()

final = trainer(merged(), train)
final.add_callback(FixedMaskCallback(grasp.result.best_ratio, parts=OUT / "merged"))
final.train()
final.model.save_pretrained(OUT / "final")
print(f"p* = {grasp.result.best_ratio:.3f}; the adapter is in {OUT / 'final'}")
