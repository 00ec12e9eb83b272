"""Models on the meta device: Llama shapes, or your own module."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsewright.core.filters import default_sparse_param_filter
from sparsewright.layers import kind_of
from sparsewright.session.roles import Picker
from sparsewright.session.walk import named_weights
from tools.cluster.memory import Weight


@dataclass(frozen=True)
class Shape:
    """Shape of a decoder-only transformer; `gated` MLPs have three matrices instead of two."""

    layers: int
    width: int
    hidden: int
    heads: int
    kv_heads: int
    vocab: int
    gated: bool = True
    tied: bool = False


# The published configurations of Llama 3.2 1B, Llama 2 7B and Llama 2 70B.
SHAPES = {
    "1b": Shape(16, 2048, 8192, 32, 8, 128_256, tied=True),
    "7b": Shape(32, 4096, 11_008, 32, 32, 32_000),
    "70b": Shape(80, 8192, 28_672, 64, 8, 32_000),
}


class Decoder(nn.Module):
    """A transformer of a given shape, without rotary embeddings, which have no weights."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocab, shape.width)
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width)
        self.lm_head = nn.Linear(shape.width, shape.vocab, bias=False)
        if shape.tied:
            self.lm_head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Map int64 tokens `[batch, tokens]` to logits `[batch, tokens, vocab]`."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.norm(x))


class _Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, width = shape, shape.width
        kv_width = width // shape.heads * shape.kv_heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.out = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.k, self.v = (nn.Linear(width, kv_width, bias=False) for _ in range(2))
        self.up = nn.Linear(width, shape.hidden, bias=False)
        self.gate = nn.Linear(width, shape.hidden, bias=False) if shape.gated else None
        self.down = nn.Linear(shape.hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y, size = self.norm1(x), self.shape.width // self.shape.heads
        q, k, v = (layer(y).unflatten(-1, (-1, size)) for layer in (self.q, self.k, self.v))
        attended = nn.functional.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, enable_gqa=True
        )
        x = x + self.out(attended.transpose(1, 2).flatten(-2))
        y = self.norm2(x)
        if self.gate is None:
            return x + self.down(nn.functional.gelu(self.up(y)))
        return x + self.down(nn.functional.silu(self.gate(y)) * self.up(y))


def weights_of(
    model: nn.Module, picks: Callable[[str, Tensor], bool] | None = None
) -> list[Weight]:
    """Return each parameter of a model once, marked sparse by the filter (None: the default)."""
    picks, seen, weights = picks or default_sparse_param_filter, set(), []
    picker = Picker(model, [picks])
    for name, owner, param_name, param, reason in named_weights(model):
        if id(param) not in seen:
            seen.add(id(param))
            kind = kind_of(owner) if param_name == "weight" else None
            sparse = not reason and picker.first(name, param) is not None
            weights.append(Weight(name, tuple(param.shape), sparse, kind))
    return weights


def build(name: str) -> nn.Module:
    """Build a model on the meta device: one of `SHAPES`, or your own `module:factory`."""
    with torch.device("meta"):
        if name in SHAPES:
            return Decoder(SHAPES[name])
        module, found, factory = name.partition(":")
        if not found:
            raise SystemExit(f"--model must be {', '.join(SHAPES)} or module:factory, got {name!r}")
        return getattr(importlib.import_module(module), factory)()
