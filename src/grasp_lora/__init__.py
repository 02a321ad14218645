"""GRASP LoRA: learn how much of a merged LoRA adapter to prune."""

__version__ = "0.1.0"
