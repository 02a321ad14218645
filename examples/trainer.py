"""Learn how much of a merged adapter to prune, then train at that ratio: python trainer.py [MODEL]."""

import sys
import tempfile
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Trainer, TrainingArguments, default_data_collator

from grasp_lora import FixedMaskCallback, GraspCallback, load_backbone, merge_adapters

MODEL = sys.argv[1] if len(sys.argv) == 2 else "packaged:gemma-3-270m"  # or a name on the model hub
OUT = Path(tempfile.mkdtemp(prefix="grasp-"))
CITIES = "Oslo Noruega, Quito Ecuador, Lima Perú, Madrid España, Ankara Turquía, Dakar Senegal"
CITIES += ", Riga Letonia, Doha Catar, Sofia Bulgaria, Nairobi Kenia, Kampala Uganda, Caracas Venezuela"

# Real work has plenty of rows of the source, about 50 of the target, and 16 for the micro-dev.
pairs = [pair.split() for pair in CITIES.split(", ")]
spanish = [{"prompt": f"¿Dónde está {city}?\n", "completion": f"Está en {land}."} for city, land in pairs]
english = [{"prompt": f"Is {city} a city?\n", "completion": f"{city} is a city."} for city, _ in pairs]
train, micro_dev = spanish[:8], spanish[8:]
tokenizer = load_backbone(MODEL).tokenizer


def encode(row):
    prompt = tokenizer(row["prompt"])["input_ids"]
    answer = tokenizer(row["completion"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


def trainer(model, rows):
    settings = {"per_device_train_batch_size": 1, "learning_rate": 1e-4, "num_train_epochs": 2}
    arguments = TrainingArguments(str(OUT / "trainer"), save_strategy="no", report_to="none", **settings)
    encoded = [encode(row) for row in rows]
    return Trainer(model, arguments, default_data_collator, encoded, processing_class=tokenizer)


# 1. An adapter of each language. Where you have adapters, start at 2 with their folders.
for name, rows in {"en": english, "es": train}.items():
    lora = LoraConfig(r=8, lora_alpha=32, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(load_backbone(MODEL).model, lora)
    trainer(model, rows).train()
    model.save_pretrained(OUT / name)

# 2. Their sum: a plain PEFT adapter, which remembers its parts.
merge_adapters({"en": OUT / "en", "es": OUT / "es"}, OUT / "merged")


def merged():
    return PeftModel.from_pretrained(load_backbone(MODEL).model, OUT / "merged", is_trainable=True)


# 3. Learn the ratio while training. What is in memory then is pruned at the ratio of the last round.
learning = trainer(merged(), train)
grasp = GraspCallback(learning, micro_dev, parts=OUT / "merged", every=4)
learning.add_callback(grasp)
learning.train()

# 4. The final run starts again from the merged adapter, at the best ratio.
final = trainer(merged(), train)
final.add_callback(FixedMaskCallback(grasp.result.best_ratio, parts=OUT / "merged"))
final.train()
final.model.save_pretrained(OUT / "final")
print(f"p* = {grasp.result.best_ratio:.3f}; the adapter is in {OUT / 'final'}")
