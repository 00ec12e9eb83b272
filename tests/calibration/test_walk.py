"""The walk over blocks: later blocks see pruned earlier ones, on real and hand-written models."""

import copy
import logging

import pytest
import torch
from torch import nn

import sparsewright as sparse
from helpers.calibrated import (
    Images,
    Mixer,
    Tower,
    floats,
    gpt2,
    inputs_of,
    keep_best,
    llama,
    matrix,
    mixtral,
    seeded,
    slow_oneshot,
    words,
)

WANDA = {"method": "wanda", "sparsity": 0.5}
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
LLAMA = [
    [
        *(f"model.layers.{index}.self_attn.{name}" for name in ATTENTION),
        *(f"model.layers.{index}.mlp.{name}_proj" for name in ("gate", "up", "down")),
    ]
    for index in range(2)
]
GPT2 = [
    [f"transformer.h.{index}.{name}" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc")]
    + [f"transformer.h.{index}.mlp.c_proj"]
    for index in range(2)
]
TOWER = [["stem"], *([f"blocks.{i}.up", f"blocks.{i}.down"] for i in range(3)), ["last"]]


def by_wanda(weight, x):
    return weight * keep_best(weight.abs() * x.square().sum(0).sqrt(), weight.shape[1] // 2)


def by_magnitude(weight, x):
    kept = weight.numel() - weight.numel() // 2
    best = keep_best(weight.abs().reshape(1, -1), kept)
    return weight * best.reshape(weight.shape)


def with_keywords(model, batch):
    return model(**batch)


def with_tensor(model, batch):
    return model(batch)


def assert_same_weights(model, expected):
    for (name, param), other in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(param != 0, other != 0), name
        assert torch.equal(param, other), name


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("make", "blocks"), [(llama, LLAMA), (gpt2, GPT2)])
def test_transformers(make, blocks, padded):
    model, batches = make(), words(padded=padded)
    expected = slow_oneshot(model, blocks, batches, with_keywords, by_wanda)
    sparsity = sparse.oneshot(model, WANDA, batches)
    assert sorted(sparsity.sparse_params) == sorted(f"{n}.weight" for b in blocks for n in b)
    assert_same_weights(model, expected)


@pytest.mark.parametrize("has_state", [False, True])
def test_a_hand_written_stack(has_state):
    """Blocks have several arguments and outputs, write to their input, and may share a cache."""
    model, batches = seeded(lambda: Tower(has_state=has_state)), floats()
    expected = slow_oneshot(model, TOWER, batches, with_tensor, by_wanda)
    sparsity = sparse.oneshot(model, {**WANDA, "param_filter": lambda n, p: p.ndim == 2}, batches)
    assert len(sparsity.sparse_params) == 8
    assert_same_weights(model, expected)


def count_calls(model):
    counts = {}
    for name, module in model.named_modules():

        def before(module, args, name=name):
            counts[name] = counts.get(name, 0) + 1

        module.register_forward_pre_hook(before)
    return counts


def test_each_block_runs_twice_and_the_model_once_for_each_stack():
    """A block runs for its statistics and for the next inputs; one more pass finds the blocks."""
    model, batches = seeded(lambda: Tower(depth=6)), floats(batches=2)
    counts = count_calls(model)
    sparse.oneshot(model, {**WANDA, "param_filter": ["*.up.weight", "*.down.weight"]}, batches)
    assert counts["stem"] == 1 + 2
    # The pass that finds the inputs of block 0 ends before the hook that counts.
    assert {counts[f"blocks.{index}"] for index in range(5)} == {1 + 2 * 2}
    assert counts["blocks.5"] == 1 + 2


class Numbered(nn.Module):
    """Blocks that receive their own number, which no earlier block received."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(NumberedBlock() for _ in range(3))

    def forward(self, x):
        for index, block in enumerate(self.layers):
            x = block(x, index)
        return x


class NumberedBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x, index):
        return x + torch.tanh(self.fc(x) * (index + 1))


class Listed(nn.Module):
    """Blocks that add to a list, so its items are no arguments of the first block."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(ListedBlock() for _ in range(3))

    def forward(self, x):
        seen = []
        for block in self.layers:
            x = block(x, seen)
        return x


class ListedBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x, seen):
        seen.append(len(seen))
        return x + torch.tanh(self.fc(x) * len(seen))


class Writing(nn.Module):
    """Blocks that write to a tensor which all of them receive."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(WritingBlock() for _ in range(3))

    def forward(self, x):
        bias = x.new_zeros(6)
        for block in self.layers:
            x = block(x, bias)
        return x


class WritingBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x, bias):
        bias.copy_((bias + torch.arange(6)) ** 2 % 7)  # another order of features in each block
        return torch.tanh(self.fc(x * bias))


class Residual(nn.Module):
    """The model adds the residual, so the input of a block is not the output of the one before."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3))

    def forward(self, x):
        for block in self.layers:
            x = x + block(x)
        return x


@pytest.mark.parametrize(
    ("make", "layer"), [(Numbered, "fc"), (Listed, "fc"), (Writing, "fc"), (Residual, "0")]
)
def test_blocks_whose_arguments_do_not_only_come_from_the_block_before(make, layer):
    model, batches = seeded(make), floats()
    blocks = [[f"layers.{index}.{layer}"] for index in range(3)]
    expected = slow_oneshot(model, blocks, batches, with_tensor, by_wanda)
    sparse.oneshot(model, WANDA, batches)
    assert_same_weights(model, expected)


class Repeated(nn.Module):
    """A block that runs several times, as in ALBERT, between two that run once."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(NumberedBlock() for _ in range(3))

    def forward(self, x):
        x = self.layers[0](x, 0)
        for _ in range(3):
            x = self.layers[1](x, 0)
        return self.layers[2](x, 0)


def test_a_block_that_runs_several_times():
    model, batches = seeded(Repeated), floats()
    blocks = [[f"layers.{index}.fc"] for index in range(3)]
    expected = slow_oneshot(model, blocks, batches, with_tensor, by_wanda)
    sparse.oneshot(model, WANDA, batches)
    assert_same_weights(model, expected)


class Backwards(nn.Module):
    """Blocks that run in another order than they are stored."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(NumberedBlock() for _ in range(3))

    def forward(self, x):
        for block in reversed(self.layers):
            x = block(x, 0)
        return x


def test_blocks_are_pruned_in_order_of_execution():
    model, batches = seeded(Backwards), floats()
    blocks = [[f"layers.{index}.fc"] for index in (2, 1, 0)]
    expected = slow_oneshot(model, blocks, batches, with_tensor, by_wanda)
    sparse.oneshot(model, WANDA, batches)
    assert_same_weights(model, expected)


def test_weights_tied_between_layers_see_the_inputs_of_both():
    model = seeded(lambda: nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)))
    model[2].weight = model[0].weight
    (batch,) = batches = floats(1)
    first = batch.reshape(-1, 6)
    with torch.no_grad():
        second = torch.tanh(model[0](first))
    expected = by_wanda(model[0].weight.data.clone(), torch.cat([first, second]))
    sparsity = sparse.oneshot(model, WANDA, batches, blocks=[model])
    assert list(sparsity.sparse_params) == ["0.weight"]
    assert torch.equal(model[2].weight, expected)


def test_tied_embeddings_and_the_head_stay_dense(caplog):
    model = gpt2()
    assert model.lm_head.weight is model.transformer.wte.weight
    before = model.lm_head.weight.detach().clone()
    with caplog.at_level(logging.INFO, "sparsewright"):
        sparsity = sparse.oneshot(model, WANDA, words())
    assert torch.equal(model.lm_head.weight, before)
    assert len(sparsity.sparse_params) == 8
    messages = [record.getMessage() for record in caplog.records]
    assert "transformer.wte.weight stays dense: it is an embedding" in messages
    assert messages[-1].startswith("oneshot: 8 sparse weights, 3,072 of 6,144 entries kept")


@pytest.mark.parametrize(
    ("experts", "dtype"), [("eager", torch.float64), ("grouped_mm", torch.float32)]
)
def test_experts(experts, dtype):
    """The experts of a layer are matrices of one weight; each sees the tokens routed to it."""
    model, batches = mixtral(experts).to(dtype), words(padded=False)
    slow = mixtral("eager").to(dtype)
    names = [f"self_attn.{name}" for name in ATTENTION]
    for block in slow.model.layers:
        unpadded = [(batch["input_ids"],) for batch in batches]
        inputs = inputs_of(block, names, unpadded, lambda _, batch: slow(*batch))
        rows = routed(slow, block, batches)
        for name in names:
            weight = block.get_submodule(name).weight.data
            weight.copy_(by_wanda(weight.clone(), inputs[name]))
        for param, every in rows.items():
            stack = getattr(block.mlp.experts, param)
            for index, x in enumerate(every):
                stack.data[index] = by_wanda(stack.data[index], x)
    sparsity = sparse.oneshot(model, WANDA, batches)
    stacks = [name for name in sparsity.sparse_params if "experts" in name]
    assert len(stacks) == 4
    for name in stacks:
        param = sparsity.sparse_params[name].param
        assert bool(((param != 0).sum(2) == param.shape[2] // 2).all()), name
    for (name, param), other in zip(model.named_parameters(), slow.parameters(), strict=True):
        same = ((param != 0) == (other != 0)).double().mean()
        assert float(same) > (0.999 if dtype == torch.float64 else 0.99), name


def routed(model, block, batches):
    """Return the inputs of each expert, from the router's choice and the experts' own formula."""
    experts, found = block.mlp.experts, []
    handle = experts.register_forward_pre_hook(lambda module, args: found.append(args))
    with torch.no_grad():
        for batch in batches:
            model(**batch)
    handle.remove()
    number = experts.gate_up_proj.shape[0]
    up, down = [[] for _ in range(number)], [[] for _ in range(number)]
    for x, index, _ in found:
        for expert in range(number):
            own = x.reshape(-1, x.shape[-1])[(index == expert).any(-1)]
            gate, value = (own @ experts.gate_up_proj[expert].T).chunk(2, -1)
            up[expert].append(own)
            down[expert].append(torch.nn.functional.silu(gate) * value)
    join = lambda every: [torch.cat(each) for each in every]  # noqa: E731
    return {"gate_up_proj": join(up), "down_proj": join(down)}


class Experts(nn.Module):
    """A mixture of experts as a list of layers, of which the last one is never chosen."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(6, 3)
        self.experts = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

    def forward(self, x):
        choice = (self.gate(x)[..., :2] > 0).long().argmax(-1)
        out = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            chosen = choice == index
            if bool(chosen.any()):
                out[chosen] = expert(x[chosen])
        return out


def test_an_expert_without_tokens_is_ranked_by_magnitude(caplog):
    model, batches = seeded(Experts), floats()
    config = {"sparsity": 0.5, "param_filter": "experts.*.weight"}
    before = copy.deepcopy(model)
    with caplog.at_level(logging.WARNING, "sparsewright"):
        sparse.oneshot(model, {"method": "wanda", **config}, batches, blocks=[model])
    (record,) = caplog.records
    assert record.getMessage() == (
        "no calibration data reached experts.2.weight, so |w| ranks these weights; use more "
        "batches, or exclude them with param_filter"
    )
    weight = before.experts[2].weight.detach()
    assert torch.equal(model.experts[2].weight, weight * keep_best(weight.abs(), 3))


def test_images():
    """A convolution is a linear layer on patches."""
    model = seeded(Images)
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(2, 3, 9, 9, generator=generator).double() for _ in range(2)]
    sparsity = sparse.oneshot(model, {**WANDA, "param_filter": lambda n, p: p.ndim > 1}, batches)
    names = ["stem", "stages.0.0", "stages.0.2", "stages.1.0", "stages.1.2", "fc"]
    assert list(sparsity.sparse_params) == [f"{name}.weight" for name in names]
    for name, p in sparsity.sparse_params.items():
        rows = p.mask.flatten(1)
        assert bool((rows.sum(1) == (rows.shape[1] + 1) // 2).all()) or rows.shape[1] % 2, name


def test_an_encoder_layer_of_torch():
    """Attention multiplies with its weights itself; the fused encoder layer is not used."""
    make = lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)  # noqa: E731
    model = seeded(lambda: nn.TransformerEncoder(make(), 2, enable_nested_tensor=False))
    batches = [torch.randn(2, 5, 8, dtype=torch.float64) for _ in range(3)]
    weight = model.layers[0].self_attn.in_proj_weight.detach().clone()
    x = torch.cat(batches).reshape(-1, 8)
    was_fused = torch.backends.mha.get_fastpath_enabled()
    sparsity = sparse.oneshot(model, WANDA, batches)
    assert torch.backends.mha.get_fastpath_enabled() == was_fused
    assert len(sparsity.sparse_params) == 8
    assert torch.equal(model.layers[0].self_attn.in_proj_weight, by_wanda(weight, x))


def test_magnitude_needs_no_data():
    model = llama()
    names = [name for block in LLAMA for name in block]
    before = {name: matrix(model.get_submodule(name)).clone() for name in names}
    sparse.oneshot(model, {"method": "magnitude", "sparsity": 0.5})
    for name in names:
        assert torch.equal(matrix(model.get_submodule(name)), by_magnitude(before[name], None))


def test_the_same_call_gives_the_same_bits():
    first, second = llama().float(), llama().float()
    for model in (first, second):
        sparse.oneshot(model, {"method": "sparsegpt", "sparsity": 0.5}, words())
    assert_same_weights(first, second)


def test_a_forward_function_and_positional_masks():
    model, batches = llama(), words()
    expected = slow_oneshot(model, LLAMA, batches, with_keywords, by_wanda)
    pairs = [(batch["input_ids"], batch["attention_mask"]) for batch in batches]
    by_keyword, by_place = copy.deepcopy(model), copy.deepcopy(model)
    run = lambda model, pair: model(pair[0], attention_mask=pair[1])  # noqa: E731
    sparse.oneshot(by_keyword, WANDA, pairs, forward=run)
    sparse.oneshot(by_place, WANDA, pairs)
    assert_same_weights(by_keyword, expected)
    assert_same_weights(by_place, expected)


@pytest.mark.parametrize("blocks", ["blocks.*", ["blocks.0", "blocks.[12]"]])
def test_given_blocks(blocks):
    model, batches = seeded(Tower), floats()
    own = copy.deepcopy(model)
    sparse.oneshot(own, WANDA, batches)
    sparse.oneshot(model, WANDA, batches, blocks=blocks)
    assert_same_weights(model, own)


def test_the_whole_model_as_one_block():
    model, batches = seeded(Tower), floats()
    names = [[name for block in TOWER for name in block]]
    expected = slow_oneshot(model, names, batches, with_tensor, by_wanda)
    config = {**WANDA, "param_filter": lambda name, param: param.ndim == 2}
    sparse.oneshot(model, config, batches, blocks=[model])
    assert_same_weights(model, expected)


def test_hooks_of_the_user_run_once_for_each_call():
    model, batches = seeded(Tower), floats()
    for block in model.blocks:
        block.register_forward_pre_hook(lambda module, args: (args[0] * 1.5, *args[1:]))
        block.register_forward_hook(lambda module, args, output: (output[0] - 1, output[1]))
    expected = slow_oneshot(model, TOWER, batches, with_tensor, by_wanda)
    sparse.oneshot(model, WANDA, batches)
    assert_same_weights(model, expected)


def test_many_layers_without_a_stack_are_named(caplog):
    layers = [each for _ in range(17) for each in (nn.Linear(4, 4), nn.Tanh())]
    model, batch = nn.Sequential(*layers), torch.randn(9, 4)
    with caplog.at_level(logging.WARNING, "sparsewright"):
        sparse.oneshot(model, WANDA, [batch])
    assert caplog.records[0].getMessage() == (
        "Sequential has no stack of blocks, so each of its 17 layers is calibrated in a pass over "
        "the model; pass blocks=, a glob such as 'encoder.layers.*' or a list of modules, to "
        "calibrate several layers together"
    )


def test_mixer_is_what_the_tests_say():
    x = torch.zeros(1, 1, 8)
    with torch.no_grad():
        out, _ = Mixer(8, 12)(x, torch.tensor(1.0))
    assert out is x
