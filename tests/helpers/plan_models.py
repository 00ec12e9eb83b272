"""Models and factories for the tests of `plan`, which copy this file to a user's folder."""

import torch
from torch import nn

import sparsewright as sparse


class Mine(sparse.SET):
    def __init__(self, rate, **options):
        super().__init__(**options)
        if rate > 1:
            raise ValueError(f"rate {rate} is too high")


def mlp():
    print("a factory may print")
    return nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 4))


def with_inputs():
    return mlp(), torch.zeros(8, 10)


def looks_at_numbers():
    model = mlp()
    assert model[0].weight.abs().max().item() > 0
    return model, {"input": torch.zeros(8, 10)}


def huge():
    assert torch.empty(1).is_meta, "128 GB would not fit"
    return nn.Sequential(*(nn.Linear(16384, 65536, bias=False) for _ in range(32)))


def lazy():
    return nn.Sequential(nn.LazyLinear(20)), torch.zeros(8, 10)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(10, 10, bias=False)
        self.body = nn.Linear(10, 10, bias=False)
        self.head = nn.Linear(10, 10, bias=False)
        self.head.weight = self.embed.weight
        self.body.requires_grad_(False)

    def forward(self, x):
        return self.head(self.body(self.embed(x)))


def tied_with_inputs():
    return Tied(), torch.zeros(8, 10)


def compiled():
    return torch.compile(mlp(), backend="eager"), torch.zeros(8, 10)


def averaged():
    return torch.optim.swa_utils.AveragedModel(mlp()), torch.zeros(8, 10)


def thirds():
    return nn.Linear(30, 10)


def broken():
    raise RuntimeError("no such\nweights")


def no_module():
    return 3


ready = nn.Linear(6, 4)
number = 3


def small():
    """Build layers of several shapes; the middle one fits neither 2:4 nor compression."""
    middle = nn.Unflatten(1, (2, 16)), nn.Conv1d(2, 6, 3), nn.Flatten()
    return nn.Sequential(nn.Linear(8, 32), *middle, nn.Linear(84, 4)), torch.zeros(2, 8)


def conv_first():
    layers = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*layers), torch.zeros(2, 3, 6, 6)


def small_with_weights():
    torch.manual_seed(0)
    model, inputs = small()
    assert model[0].weight.abs().max().item() > 0
    return model, inputs


def blocks_of_17():
    return nn.Linear(4, 68), torch.zeros(2, 4)


def many():
    return nn.Sequential(*(nn.Linear(4, 10 * i) for i in range(1, 15)), nn.Linear(6, 10))


def resnet_50():
    from transformers import ResNetConfig, ResNetForImageClassification

    model = ResNetForImageClassification(ResNetConfig(num_labels=1000))
    return model, {"pixel_values": torch.zeros(1, 3, 224, 224)}
