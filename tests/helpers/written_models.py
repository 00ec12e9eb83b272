"""Small models with the layers and names of nanoGPT, timm's ConvNeXt and torchvision's ResNet."""

import torch
from torch import nn


class NanoAttention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)


class NanoMLP(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)


class NanoBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), NanoAttention(width)
        self.ln_2, self.mlp = nn.LayerNorm(width), NanoMLP(width)


class NanoGPT(nn.Module):
    """The layers of nanoGPT under its names; the context length equals the width."""

    def __init__(self, vocabulary=65, width=32, is_tied=True):
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(vocabulary, width),
                "wpe": nn.Embedding(width, width),
                "h": nn.ModuleList(NanoBlock(width) for _ in range(2)),
                "ln_f": nn.LayerNorm(width),
            }
        )
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        if is_tied:
            self.transformer.wte.weight = self.lm_head.weight


class ConvNeXtBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width, 1, 1), 1e-6))
        self.conv_dw = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.GroupNorm(1, width)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Conv2d(width, 4 * width, 1), "fc2": nn.Conv2d(4 * width, width, 1)}
        )


class ConvNeXtStage(nn.Module):
    def __init__(self, inputs, width):
        super().__init__()
        self.downsample = nn.Sequential(nn.GroupNorm(1, inputs), nn.Conv2d(inputs, width, 2, 2))
        self.blocks = nn.Sequential(ConvNeXtBlock(width), ConvNeXtBlock(width))


class ConvNeXt(nn.Module):
    """The layers of a ConvNeXt under timm's names."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.GroupNorm(1, 8))
        self.stages = nn.Sequential(ConvNeXtStage(8, 16), ConvNeXtStage(16, 32))
        self.head = nn.ModuleDict({"norm": nn.GroupNorm(1, 32), "fc": nn.Linear(32, 10)})


class BasicBlock(nn.Module):
    def __init__(self, inputs, width):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)


class ResNet(nn.Module):
    """The layers of a ResNet under torchvision's names."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 8))
        self.layer2 = nn.Sequential(BasicBlock(8, 16), BasicBlock(16, 16))
        self.fc = nn.Linear(16, 10)


class Distiller(nn.Module):
    """A trained student network and a frozen teacher network."""

    def __init__(self):
        super().__init__()
        self.student, self.teacher = ResNet(), ResNet().requires_grad_(False)
