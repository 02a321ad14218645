"""Merging LoRA adapters into one plain PEFT adapter (GRASP, Eq. 1, and what it is compared with)."""

from grasp_lora.merging.combinations import PEFT_METHODS, combine_with_peft
from grasp_lora.merging.parts import Part, read_parts, write_parts
from grasp_lora.merging.sum import METHODS, merge_adapters

__all__ = [
    "METHODS",
    "PEFT_METHODS",
    "Part",
    "combine_with_peft",
    "merge_adapters",
    "read_parts",
    "write_parts",
]
