"""Models with arbitrary names of children and parameters."""

import torch
from torch import nn


class Named(nn.Module):
    """A module with the given children and parameters, in the given order."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, torch.Tensor) else part)


def linear(inputs=8, outputs=8):
    return nn.Linear(inputs, outputs, bias=False)


def blocks(count=2):
    return nn.ModuleList(Named(up=linear(8, 16), down=linear(16, 8)) for _ in range(count))


BLOCKS = {f"blocks.{index}.{name}.weight" for index in range(2) for name in ("up", "down")}
