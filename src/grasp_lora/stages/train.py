"""An adapter is trained: a language's own, a merged one under a mask, or one on other rows."""

from grasp_lora.workspace.about import about_training
from grasp_lora.workspace.passes import passes_of_training
from grasp_lora.workspace.stage import Work
from grasp_lora.workspace.training import fine_tune, mask_stays

__all__ = ["TRAIN"]

TRAIN = Work(fine_tune, ready=mask_stays, passes=passes_of_training, about=about_training, resumes=True)
