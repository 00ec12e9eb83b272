"""Recipe `charlm`: a small character-level GPT trained on plain text.

The default text is the language reference that ships with CPython (`pydoc_data.topics`, 465 kB),
so the recipe downloads nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pydoc_data.topics
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsewright.errors import ConfigError, OptionError
from sparsewright.formats.read_file import read_regular
from sparsewright.recipes.sections import LoopSettings, OptimizerSettings, option
from sparsewright.recipes.task import Recipe, Task, keyed_generator, rigl_section


@dataclass(frozen=True)
class TextSettings:
    """Section `data`: the text, and the fraction of it that is held out."""

    text: str | None = option(None)
    validation: float = option(0.1, least=0.01, most=0.5)

    def __post_init__(self) -> None:
        if self.text is not None:  # a run can be resumed from any directory
            object.__setattr__(self, "text", os.path.abspath(self.text))


@dataclass(frozen=True)
class GPTSettings:
    """Section `model`: the size of the transformer."""

    layers: int = option(2, least=1, most=1000)
    width: int = option(128, least=1, most=2**16)
    heads: int = option(4, least=1, most=1000)
    context: int = option(64, least=2, most=2**16)
    dropout: float = option(0.0, least=0.0, most=0.9)

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise OptionError("model.heads", self.heads, f"a divisor of model.width = {self.width}")


def distance_bias(heads: int, context: int) -> Tensor:
    """Return the ALiBi bias `[heads, context, context]` that lowers the scores of distant keys.

    The bias is slope * (key's position - query's position) for keys up to the query, and -inf for
    keys after the query. The heads' slopes are 1, 1/4, 1/16, ...

    >>> distance_bias(2, 3)[1]
    tensor([[ 0.0000,    -inf,    -inf],
            [-0.2500,  0.0000,    -inf],
            [-0.5000, -0.2500,  0.0000]])
    """
    places = torch.arange(context)
    offset = places - places[:, None]
    slopes = 4.0 ** -torch.arange(heads)
    bias = slopes[:, None, None] * offset
    return bias.masked_fill(offset > 0, -math.inf)


class Attention(nn.Module):
    """Causal self-attention that maps `[batch, context, width]` to the same shape."""

    bias: Tensor

    def __init__(self, size: GPTSettings) -> None:
        super().__init__()
        self.heads, self.dropout = size.heads, size.dropout
        self.register_buffer("bias", distance_bias(size.heads, size.context), persistent=False)
        self.qkv = nn.Linear(size.width, 3 * size.width)
        self.proj = nn.Linear(size.width, size.width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix every position with the positions before it."""
        batch, context, width = x.shape
        qkv = self.qkv(x).view(batch, context, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        bias = self.bias[:, :context, :context]
        mixed = F.scaled_dot_product_attention(query, key, value, bias, dropout_p=dropout)
        joined: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, context, width))
        return joined


class Block(nn.Module):
    """One pre-norm transformer block: attention, then an MLP with four times the width."""

    def __init__(self, size: GPTSettings) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(size.width)
        self.attention = Attention(size)
        self.mlp_norm = nn.LayerNorm(size.width)
        self.mlp = nn.Sequential(
            nn.Linear(size.width, 4 * size.width),
            nn.GELU(approximate="tanh"),
            nn.Linear(4 * size.width, size.width),
        )
        self.dropout = nn.Dropout(size.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both residual branches."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        mixed: Tensor = x + self.dropout(self.mlp(self.mlp_norm(x)))
        return mixed


class GPT(nn.Module):
    """Decoder-only transformer that maps characters to logits over the vocabulary."""

    def __init__(self, size: GPTSettings, vocabulary: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, size.width)
        self.blocks = nn.Sequential(*(Block(size) for _ in range(size.layers)))
        self.final_norm = nn.LayerNorm(size.width)
        self.lm_head = nn.Linear(size.width, vocabulary, bias=False)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim > 1:
                ends_branch = name.endswith(("proj.weight", "mlp.2.weight"))
                scale = math.sqrt(2 * size.layers) if ends_branch else 1.0
                nn.init.normal_(parameter, std=0.02 / scale)

    def forward(self, characters: Tensor) -> Tensor:
        """Return logits `[batch, context, vocabulary]` for the next character at every position.

        Args:
            characters: indices into the vocabulary, `[batch, context]`.
        """
        x = self.blocks(self.token_embedding(characters))
        logits: Tensor = self.lm_head(self.final_norm(x))
        return logits


def read_text(settings: TextSettings) -> str:
    """Read the text for training and validation.

    Raises:
        ConfigError: the file cannot be read, or is not UTF-8.
    """
    if settings.text is None:
        topics = pydoc_data.topics.topics
        return "\n\n".join(topics[name] for name in sorted(topics))
    path = Path(settings.text)
    try:
        return read_regular(path).decode("utf-8")
    except OSError as error:
        raise ConfigError(path, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(path, f"not UTF-8 text: byte {error.start} is invalid") from error


def encode(text: str) -> tuple[Tensor, list[str]]:
    """Convert characters to indices `[length]` (int64) into the sorted vocabulary; return both.

    >>> encode("abca")
    (tensor([0, 1, 2, 0]), ['a', 'b', 'c'])
    """
    vocabulary = sorted(set(text))
    index = {character: i for i, character in enumerate(vocabulary)}
    return torch.tensor([index[character] for character in text]), vocabulary


def make_task(data: TextSettings, model: GPTSettings, loop: LoopSettings) -> Task:
    """Read the text and make the task.

    Raises:
        ConfigError: the text cannot be read, or the training part or the held-out part is not
            longer than the context.
    """
    text = read_text(data)
    characters, vocabulary = encode(text)
    split = round(len(characters) * (1 - data.validation))
    train, held_out = characters[:split], characters[split:]
    if min(len(train), len(held_out)) <= model.context:
        sizes = f"{len(train)} characters for training and {len(held_out)} held out"
        raise ConfigError(data.text, f"{sizes}; both must exceed the context of {model.context}")
    window = torch.arange(model.context + 1)

    def make_model() -> nn.Module:
        torch.manual_seed(loop.seed)
        return GPT(model, len(vocabulary))

    def batch(step: int) -> tuple[Tensor, Tensor]:
        generator = keyed_generator(loop.seed, step)
        last = len(train) - model.context
        starts = torch.randint(last, (loop.batch_size, 1), generator=generator)
        drawn = train[starts + window]
        return drawn[:, :-1], drawn[:, 1:]

    def loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    def evaluate(network: nn.Module) -> dict[str, float]:
        count = (len(held_out) - 1) // model.context
        inputs = held_out[: count * model.context].view(count, -1)
        targets = held_out[1 : count * model.context + 1].view(count, -1)
        parts = zip(torch.split(inputs, 64), torch.split(targets, 64), strict=True)
        total = sum(loss(network, x, y).item() * len(x) for x, y in parts)
        return {"loss": total / count}

    return Task(
        make_model,
        batch,
        loss,
        evaluate,
        unit="tokens",
        units_per_step=loop.batch_size * model.context,
        fingerprint=hashlib.sha256(text.encode()).hexdigest(),
        metadata={"vocabulary": json.dumps(vocabulary)},
    )


def outline(data: TextSettings, model: GPTSettings, loop: LoopSettings) -> tuple[nn.Module, Tensor]:
    """Make a new model for the text, and a batch of inputs for it (zeros).

    Raises:
        ConfigError: the text cannot be read.
    """
    network = GPT(model, len(set(read_text(data))))
    return network, torch.zeros(loop.batch_size, model.context, dtype=torch.int64)


RECIPE = Recipe(
    data=TextSettings(),
    model=GPTSettings(),
    optimizer=OptimizerSettings(),
    loop=LoopSettings(),
    sparsity=lambda loop: rigl_section(loop, level=0.9, updates=22),
    make_task=make_task,
    outline=outline,
)
