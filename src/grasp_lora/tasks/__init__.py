"""Tasks: rows of files become examples of prompt and target; built-in tasks prepare their own files."""

from grasp_lora.tasks.example import Example as Example
from grasp_lora.tasks.prepare import find_task as find_task
from grasp_lora.tasks.task import Task as Task
from grasp_lora.tasks.task import check_disjoint as check_disjoint
from grasp_lora.tasks.task import load_task as load_task

__all__ = ["Example", "Task", "check_disjoint", "find_task", "load_task"]
