"""Trial steps on toys show which optimizer state follows the mask."""

import logging
from functools import partial

import pytest
import pytorch_optimizer
import torch
from torch import nn

import sparsewright as sparse
from helpers.support import assert_pruned, make_mlp, train
from sparsewright.storage import probe as probing
from sparsewright.storage.states import kinds_of, why_not_step_values

ADAM = {"exp_avg", "exp_avg_sq"}
# For each optimizer: its options, state with one entry for each connection, and other state.
TORCH = {
    "SGD": ({"lr": 0.1, "momentum": 0.9, "nesterov": True}, {"momentum_buffer"}, set()),
    "Adam": ({"amsgrad": True}, ADAM | {"max_exp_avg_sq"}, set()),
    "AdamW": ({}, ADAM, set()),
    "Adamax": ({}, {"exp_avg", "exp_inf"}, set()),
    "NAdam": ({}, ADAM, set()),
    "RAdam": ({}, ADAM, set()),
    "Adagrad": ({"initial_accumulator_value": 0.1}, {"sum"}, set()),
    "Adadelta": ({}, {"square_avg", "acc_delta"}, set()),
    "RMSprop": (
        {"momentum": 0.5, "centered": True},
        {"square_avg", "momentum_buffer", "grad_avg"},
        set(),
    ),
    "Rprop": ({}, {"prev", "step_size"}, set()),
    "ASGD": ({}, {"ax"}, set()),
    "LBFGS": ({}, set(), {"d", "old_dirs", "old_stps", "prev_flat_grad"}),
    "Adafactor": ({}, set(), {"row_var", "col_var"}),
    "Muon": ({}, {"momentum_buffer"}, set()),
}
OTHERS = {
    "SOAP": ({}, {"exp_avg"}, {"exp_avg_sq", "GG", "Q"}),
    "Shampoo": (
        {},
        {"momentum_buffer"},
        {"pre_cond_0", "pre_cond_1", "inv_pre_cond_0", "inv_pre_cond_1"},
    ),
    "Kron": ({}, {"momentum_buffer"}, {"Q"}),
    "Lion": ({}, {"exp_avg"}, set()),
    "ScheduleFreeAdamW": ({}, {"z", "exp_avg_sq"}, set()),
    "ScheduleFreeSGD": ({}, {"z"}, set()),
    "Prodigy": ({}, {"p0", "s", "exp_avg", "exp_avg_sq"}, set()),
    "CAME": (
        {},
        {"exp_avg"},
        {"exp_avg_sq_row", "exp_avg_sq_col", "exp_avg_res_row", "exp_avg_res_col"},
    ),
    "AdaBelief": ({}, {"exp_avg", "exp_avg_var"}, set()),
    "SPlus": ({}, {"momentum", "ema"}, {"sides", "q_sides"}),
    # Ranger centralizes gradients, so all entries depend on each other.
    "Ranger": ({}, ADAM | {"slow_buffer"}, set()),
    "AdaHessian": ({}, {"exp_avg", "exp_hessian_diag_sq", "hessian"}, set()),
}
CASES = [(torch.optim, name, *row) for name, row in TORCH.items()]
CASES += [(pytorch_optimizer, name, *row) for name, row in OTHERS.items()]
every_optimizer = pytest.mark.parametrize(
    ("package", "name", "options", "entries", "others"), CASES, ids=[case[1] for case in CASES]
)


def make(package, name, options, weight):
    if not hasattr(package, name):  # Muon is new in torch 2.9
        pytest.skip(f"{package.__name__} has no {name}")
    return getattr(package, name)([weight], **options)


def names(paths):
    return {path[0] for path in paths}


@every_optimizer
def test_what_is_found_out(package, name, options, entries, others):
    weight = nn.Parameter(torch.ones(16, 16))
    optimizer = make(package, name, options, weight)
    before = str(optimizer.state_dict())  # Adagrad has state before the first step
    generator, threads = torch.get_rng_state(), torch.get_num_threads()
    kinds = kinds_of(optimizer, weight)
    assert kinds.why_not_known == ""
    assert names(kinds.entries) == entries
    assert names(kinds.others) == others
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.get_num_threads() == threads
    assert torch.equal(weight, torch.ones(16, 16))
    assert str(optimizer.state_dict()) == before
    assert bool(why_not_step_values(optimizer, weight, 2)) == (bool(others) or name in DIFFER)


DIFFER = ("Muon", "Ranger")


def train_square(optimizer, weight, mask=None):
    """Train a matrix for 15 steps; if a mask is given, apply it to the matrix and its gradients."""

    def loss_of(noise):
        loss = ((weight * noise).sum() + weight.square().sum()) / 12
        (weight.grad,) = torch.autograd.grad(loss, weight, create_graph=True)
        if mask is not None:
            weight.grad = weight.grad * mask
        return loss.detach()

    generator = torch.Generator().manual_seed(2)
    for _ in range(15):
        noise = torch.randn(weight.shape, generator=generator)
        loss_of(noise)
        optimizer.step(partial(loss_of, noise))
        if mask is not None:
            with torch.no_grad():
                weight *= mask
    weight.grad = None  # otherwise the gradient keeps its graph alive


@every_optimizer
def test_a_square_weight_trains_as_with_masks_by_hand(package, name, options, entries, others):
    """Pruning entries and leaving other state unchanged equals applying the mask by hand."""
    weights = []
    for by_hand in (False, True):
        torch.manual_seed(0)
        model = nn.Module()
        model.weight = nn.Parameter(torch.randn(12, 12))
        sparsity = sparse.Static(0.5, seed=1)
        sparsity.apply(model)
        mask = model.weight_mask.clone()
        optimizer = make(package, name, options, model.weight)
        if by_hand:
            sparsity.remove()
            train_square(optimizer, model.weight, mask)
        else:
            sparsity.apply(optimizer)
            train_square(optimizer, model.weight)
            for key in entries:
                assert not optimizer.state[model.weight][key][~mask].any(), key
        weights.append(model.weight.detach().clone())
    if name != "SPlus":  # it takes signs of rotated moments, so rounding can change a whole step
        torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-5)


def test_state_that_appears_late_is_left_alone_until_it_is_zero(caplog):
    class Late(torch.optim.SGD):
        """Add state at the hundredth step."""

        def step(self, closure=None):
            super().step(closure)
            for group in self.param_groups:
                for p in group["params"]:
                    state = self.state[p]
                    state["n"] = state.get("n", 0) + 1
                    if state["n"] >= 100:
                        state.setdefault("late", torch.ones_like(p))

    model, sparsity = make_mlp(), sparse.Static(0.5)
    sparsity.apply(model)
    optimizer = Late(model.parameters(), 0.01)
    sparsity.apply(optimizer)
    train(model, optimizer, 101)
    with caplog.at_level(logging.WARNING, "sparsewright"):
        for parameter in sparsity.sparse_params.values():
            parameter.mask = parameter.mask
    assert (
        "Late: its state 'late' has the weight's shape, but trial steps did not show whether it "
        "follows the mask, so it is not pruned." in caplog.text
    )
    assert (
        "If it has one entry for each connection, set entrywise_state = ('late', ...) on the "
        "optimizer" in caplog.text
    )
    late = optimizer.state[model[0].weight]["late"]
    assert bool(late.all())
    mask = sparsity.sparse_params["0.weight"].mask
    late *= mask
    sparsity.sparse_params["0.weight"].mask = mask & torch.ones_like(mask).tril()
    assert not late[~sparsity.sparse_params["0.weight"].mask].any()


def test_an_optimizer_names_its_entries_itself():
    class Declared(torch.optim.Adam):
        entrywise_state = ("exp_avg",)

    model, sparsity = make_mlp(), sparse.Static(0.5)
    sparsity.apply(model)
    optimizer = Declared(model.parameters(), 0.01)
    train(model, optimizer, 1)
    for key in ("exp_avg", "exp_avg_sq"):
        optimizer.state[model[0].weight][key].fill_(1.0)
    sparsity.apply(optimizer)
    state, off = optimizer.state[model[0].weight], ~sparsity.sparse_params["0.weight"].mask
    assert not state["exp_avg"][off].any()
    assert bool(state["exp_avg_sq"].all())


def test_what_cannot_be_tried_is_not_known():
    class Asks(torch.optim.SGD):
        def __init__(self, params, model):
            super().__init__(params, 0.1)
            self.model = model

    model = make_mlp()
    kinds = kinds_of(Asks(model.parameters(), model), model[0].weight)
    why = "its option 'model' is a Sequential, which trial steps could change"
    assert kinds == probing.StateKinds(why_not_known=why)


@pytest.mark.parametrize("shape", [(24,), (16, 16), (6, 4, 3), (8, 8, 3, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_weights_of_any_kind(shape, dtype):
    weight = nn.Parameter(torch.ones(shape, dtype=dtype))
    kinds = kinds_of(torch.optim.Adam([weight]), weight)
    assert names(kinds.entries) == ADAM
    assert kinds.keeps_zero


def test_a_schedule_that_begins_at_zero_hides_nothing():
    weight = nn.Parameter(torch.ones(8, 8))
    optimizer = pytorch_optimizer.SOAP([weight], lr=0.0)
    assert "exp_avg_sq" in names(kinds_of(optimizer, weight).others)


def test_sparse_adam_is_refused():
    model, sparsity = make_mlp(), sparse.Static(0.5)
    sparsity.apply(model)
    with pytest.raises(sparse.errors.AttachError, match=r"SparseAdam: .*use Adam"):
        sparsity.apply(torch.optim.SparseAdam(model.parameters()))
    assert not sparsity.session.followed


class Lookup(nn.Module):
    """An embedding of another class, with sparse tensors as gradients."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(10, 4))

    def forward(self, index):
        return nn.functional.embedding(index, self.weight, sparse=True)


def test_a_gradient_that_is_a_sparse_tensor_is_made_dense():
    model, sparsity = Lookup(), sparse.RigL(sparsity=0.5, update=2)
    sparsity.apply(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    sparsity.apply(optimizer)
    for _ in range(4):
        optimizer.zero_grad()
        for _ in range(2):
            model(torch.tensor([1, 2, 2])).square().sum().backward()
        optimizer.step()
        assert_pruned(sparsity, optimizer)
