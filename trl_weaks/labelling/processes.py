"""Which of how many processes this is."""

import os

import torch
from accelerate import PartialState


def processes() -> PartialState:
    """accelerate's state; several processes on a machine without accelerator find each other over the CPU.

    Left alone, accelerate starts no backend there, and each process believes that it is the only one.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return PartialState(cpu=True) if several and not torch.accelerator.is_available() else PartialState()
