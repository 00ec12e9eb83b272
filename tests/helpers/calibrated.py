"""Models for calibration, and a slow reference of the walk over their blocks."""

import copy

import torch
import transformers
from torch import nn

VOCABULARY = 48
TOKENS = {"bos_token_id": 1, "eos_token_id": 2}


def seeded(make):
    """Return the model that a function makes, in float64 and eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return make().double().eval()


def gpt2(layers=2):
    sizes = {"n_layer": layers, "n_head": 2, "n_embd": 16, "n_positions": 16}
    config = transformers.GPT2Config(vocab_size=VOCABULARY, **sizes, **TOKENS)
    return seeded(lambda: transformers.GPT2LMHeadModel(config))


def llama(layers=2):
    """Return a Llama with grouped-query attention: two heads of queries share keys and values."""
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16,
        **TOKENS,
        num_hidden_layers=layers,
    )
    return seeded(lambda: transformers.LlamaForCausalLM(config))


def mixtral(experts="eager"):
    config = transformers.MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        num_hidden_layers=2,
        **TOKENS,
    )
    config._experts_implementation = experts
    return seeded(lambda: transformers.MixtralForCausalLM(config))


def words(batches=3, padded=True, seed=5):
    """Return batches of token ids.

    If padded, batch i has a sequence of 10 tokens and one of only `7 + i % 3`.
    """
    generator, found = torch.Generator().manual_seed(seed), []
    for index in range(batches):
        ids = torch.randint(VOCABULARY, (2, 10), generator=generator)
        mask = torch.ones_like(ids)
        if padded:
            mask[1, 7 + index % 3 :] = 0
        found.append({"input_ids": ids, "attention_mask": mask})
    return found


class Mixer(nn.Module):
    """A block whose forward pass has positional and keyword arguments, and two outputs."""

    def __init__(self, width, inner):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x, shift, *, scale=1.0, state=None):
        if state is not None:
            state.seen += 1  # as a cache that grows with every block
            scale = scale + state.seen / 10
        change = scale * self.down(torch.tanh(self.up(self.norm(x) + shift)))
        x = x + change if torch.is_grad_enabled() else x.add_(change)  # writes to its input
        return x, {"mean": x.mean()}


def floats(batches=3, seed=1):
    """Return batches `[2, 7, 6]` for `Tower`."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 7, 6, generator=generator, dtype=torch.float64) for _ in range(batches)]


class State:
    """An object that all blocks change."""

    seen = 0


class Tower(nn.Module):
    """A hand-written model: a stack of blocks between layers that belong to no block."""

    def __init__(self, depth=3, width=8, inner=12, has_state=False):
        super().__init__()
        self.stem = nn.Linear(6, width)
        self.blocks = nn.ModuleList(Mixer(width, inner) for _ in range(depth))
        self.norm, self.last = nn.LayerNorm(width), nn.Linear(width, 5)
        self.has_state = has_state

    def forward(self, x, shift=0.5):
        x, shift = self.stem(x), torch.full((), shift, dtype=x.dtype)
        state = State() if self.has_state else None
        for block in self.blocks:
            x, _ = block(x, shift, scale=0.7, state=state)
        return self.last(self.norm(x))


class Images(nn.Module):
    """A small convolutional network with a stride, groups, a dilation and batch norm."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.stages = nn.Sequential(self._stage(1), self._stage(2))
        self.fc = nn.Linear(8, 4)

    def _stage(self, groups):
        first = nn.Conv2d(8, 8, (3, 1), padding="same", dilation=2, groups=groups)
        return nn.Sequential(first, nn.ReLU(), nn.Conv2d(8, 8, 1))

    def forward(self, x):
        x = self.stages(self.norm(self.stem(x)).relu())
        return self.fc(x.mean((2, 3)))


def inputs_of(model, names, batches, forward):
    """Return the inputs of linear layers, `[tokens, features]`, in plain passes over the model."""
    found = {name: [] for name in names}
    handles, mask = [], None
    for name in names:

        def before(module, args, name=name):
            x = args[0].detach()
            found[name].append(x[mask] if mask is not None else x.reshape(-1, x.shape[-1]))

        handles.append(model.get_submodule(name).register_forward_pre_hook(before))
    with torch.no_grad():
        for batch in batches:
            mask = batch["attention_mask"].bool() if isinstance(batch, dict) else None
            forward(model, batch)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(every) for name, every in found.items()}


def matrix(layer):
    """Return the weight of a linear layer as (outputs, inputs), a view."""
    return layer.weight.data.t() if type(layer).__name__ == "Conv1D" else layer.weight.data


def slow_oneshot(model, blocks, batches, forward, prune):
    """Prune a copy of a model block by block, each with plain passes over the whole model.

    Args:
        model: the model.
        blocks: names of the layers of each block.
        batches: the data.
        forward: runs the model on a batch.
        prune: a function `(weight, inputs) -> new weight`.

    Returns:
        The pruned copy.
    """
    model = copy.deepcopy(model)
    for names in blocks:
        inputs = inputs_of(model, names, batches, forward)
        for name in names:
            weight = matrix(model.get_submodule(name))
            weight.copy_(prune(weight.clone(), inputs[name]))
    return model


def keep_best(score, count):
    """Return the mask of the `count` highest scores of each row; ties go to the lower index."""
    order = score.sort(dim=1, descending=True, stable=True).indices[:, :count]
    return torch.zeros_like(score, dtype=torch.bool).scatter_(1, order, True)
