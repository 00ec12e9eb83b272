"""Structures on GPT-2, in which transformers' `Conv1D` stores weights as (in, out)."""

import copy

import pytest
import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

import sparsewright as sparse

STRUCTURES = {
    "2:4": "2:4",
    "tiles": {"type": "n_m", "n": 2, "m": 4, "transposable": True},
    "equal fan-in": "fan_in",
    "ablation": {"type": "fan_in", "ablate": 0.3, "exempt": "*.mlp.*"},
    "groups of inputs": {"type": "groups", "inputs": 4},
    "groups of outputs": {"type": "groups", "outputs": 8},
    "blocks": {"type": "block", "shape": [8, 2]},
    "outputs": {"type": "channel", "axis": 0},
    "inputs": {"type": "channel", "axis": 1},
}
RISING = {"type": "cubic", "init": 0.1, "final": 0.5, "begin": 0, "end": 3}
UPDATES = 5


def gpt2():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"n_layer": 1, "n_head": 2, "n_embd": 16, "vocab_size": 32, "n_positions": 16}
        tokens = {"bos_token_id": 1, "eos_token_id": 2, "loss_type": "ForCausalLM"}
        config = transformers.GPT2Config(
            **sizes, **tokens, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
        )
        return transformers.GPT2LMHeadModel(config).double()


def with_linear_layers(model):
    """Return a copy of a model in which each `Conv1D` is the `nn.Linear` that computes the same."""
    model = copy.deepcopy(model)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, Conv1D):
            linear = nn.Linear(*layer.weight.shape, dtype=torch.float64)
            linear.weight.data, linear.bias.data = layer.weight.data.T.clone(), layer.bias.data
            above, _, last = name.rpartition(".")
            setattr(model.get_submodule(above), last, linear)
    return model


def masks_after_each_step(model, config):
    sparsity = sparse.configure(config)
    sparsity.apply(model)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    sparsity.apply(optimizer)
    generator, found = torch.Generator().manual_seed(1), []
    for _ in range(UPDATES):
        words = torch.randint(32, (4, 8), generator=generator)
        optimizer.zero_grad()
        model(input_ids=words, labels=words).loss.backward()
        optimizer.step()
        found.append({name: p.mask.clone() for name, p in sparsity.sparse_params.items()})
    return found


@pytest.mark.parametrize("algorithm", ["rigl", "gmp"])
@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)
def test_masks_are_those_of_linear_layers_transposed(algorithm, structure):
    level = {"sparsity": RISING if algorithm == "gmp" else 0.5, "init_method": "topk"}
    config = {"algorithm": algorithm, **level, "update": 1, "structure": structure}
    model = gpt2()
    linear = masks_after_each_step(with_linear_layers(model), config)
    conv1d = masks_after_each_step(model, config)
    assert len(conv1d[-1]) == 4
    for own, expected in zip(conv1d, linear, strict=True):
        assert list(own) == list(expected)
        for name, mask in own.items():
            assert torch.equal(mask, expected[name].T), name


def test_two_of_four_inputs_are_kept():
    masks = masks_after_each_step(gpt2(), {"algorithm": "set", "structure": "2:4", "update": 1})
    for name, mask in masks[-1].items():
        rows = mask.T.reshape(-1, 4)
        assert (rows.sum(1) == 2).all(), name
        assert not (mask.reshape(-1, 4).sum(1) == 2).all(), name
