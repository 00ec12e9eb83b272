"""One model, one algorithm, many lives: found, replaced, copied, pickled, pruned further."""

import copy
import gc
import logging
import pickle
import subprocess
import sys
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim import SGD, Adam

import sparsewright as sparse
from helpers.support import assert_pruned, backward, make_mlp, train
from sparsewright.errors import AttachError, OptionTypeError, SparsityWarning

ELSEWHERE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "sparsewright":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
import torch
model = torch.load(sys.argv[1], weights_only=False)
print(model(torch.ones(1, 8)).sum().item(), *model.state_dict())
model.load_state_dict(model.state_dict())
"""
MAKE = {
    "static": lambda level: sparse.Static(level),
    "topk": lambda level: sparse.Static(level, init_method="topk"),
    "rigl": lambda level: sparse.RigL(sparsity=level, update=2),
    "group": lambda level: sparse.Group({"*.weight": sparse.SET(sparsity=level, update=2)}),
    "compressed": lambda level: sparse.Static(level, storage="compressed"),
    "shadowed": lambda level: sparse.STE(level),
    "erk": lambda level: sparse.Static(level, distribution="erk"),
    "2:4": lambda level: sparse.Static(structure="2:4"),
}


def masks(model):
    state = model.state_dict()
    return {key: value.clone() for key, value in state.items() if key.endswith("_mask")}


def assert_sparse(sparsity, *optimizers):
    """Compressed weights have nothing off their masks."""
    if sparsity.storage == "compressed":
        assert all(p.param.numel() == p.kept for p in sparsity.sparse_params.values())
    else:
        assert_pruned(sparsity, *optimizers)


def level_of(sparsity):
    parameters = sparsity.sparse_params.values()
    return 1 - sum(p.kept for p in parameters) / sum(p.shape.numel() for p in parameters)


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_an_algorithm_that_nobody_holds_is_found_on_its_model(make):
    model = make_mlp()
    make(0.5).apply(model)
    gc.collect()
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    found = sparse.find(model)
    assert found is sparse.find(model[0])
    found.apply(optimizer)
    train(model, optimizer, 3)
    assert found.step == 3
    assert_sparse(found, optimizer)
    assert sparse.find(nn.Sequential(model, nn.ReLU())) is found
    assert sparse.find(make_mlp()) is None
    assert sparse.find(copy.deepcopy(model)) is None


def test_two_algorithms_of_one_model_are_found_in_its_parts():
    model = make_mlp()
    first, second = sparse.Static(0.5), sparse.RigL(sparsity=0.5)
    first.apply(model[0])
    second.apply(model[2])
    with pytest.raises(AttachError, match=r"it has several algorithms \(Static, RigL\)"):
        sparse.find(model)
    assert [sparse.find(model[0]), sparse.find(model[2])] == [first, second]


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_remove_needs_no_algorithm(make):
    model = make_mlp()
    before = list(model.state_dict())
    make(0.5).apply(model)
    optimizer = SGD(model.parameters(), 0.1)
    sparse.find(model).apply(optimizer)
    twin = copy.deepcopy(model)
    for each in (model, twin):
        sparse.remove(each)
        assert list(each.state_dict()) == before
        assert all(type(layer) is nn.Linear for layer in (each[0], each[2]))
        assert not any("_sparse_sites" in vars(module) for module in each.modules())
        assert sparse.find(each) is None
    train(model, optimizer, 2)
    assert model[0].weight.count_nonzero() > 64
    with pytest.warns(SparsityWarning, match="the Sequential has no sparse weight"):
        sparse.remove(model)


@pytest.mark.parametrize("second", MAKE.values(), ids=MAKE)
@pytest.mark.parametrize("first", MAKE.values(), ids=MAKE)
def test_another_algorithm_is_refused_or_replaces_the_first(first, second):
    model, one, other = make_mlp(), first(0.5), second(0.5)
    one.apply(model)
    optimizer = Adam(model.parameters())
    one.apply(optimizer)
    train(model, optimizer, 1)
    before, names = masks(model), (type(one).__name__, type(other).__name__)
    expected = f"{names[0]} has it"
    with pytest.raises(AttachError, match=rf"{expected}.*apply\(model, replace=True\)"):
        other.apply(model)
    assert sparse.find(model) is one
    assert not other.is_attached
    other.apply(model, replace=True)
    assert sparse.find(model) is other
    assert not one.is_attached
    if not {first, second} & {MAKE["erk"], MAKE["2:4"]}:
        assert all(map(torch.equal, masks(model).values(), before.values()))
    other.apply(optimizer)
    train(model, optimizer, 2)
    assert (one.step, other.step) == (1, 2)
    assert_sparse(other)


def test_replace_takes_off_what_the_new_one_does_not_pick():
    model, one = make_mlp(), sparse.Static(0.5)
    one.apply(model)
    other = sparse.Group({"0.weight": sparse.RigL(sparsity=0.75)})
    other.apply(model, replace=True)
    assert list(masks(model)) == ["0.weight_mask"]
    assert not one.sparse_params


def test_a_failed_replacement_leaves_the_first_as_it_was():
    model, one = make_mlp(), sparse.Static(0.5)
    one.apply(model)
    before = masks(model)
    with pytest.raises(sparse.errors.ShapeError):
        sparse.Group({"*": sparse.Static(structure="2:3")}).apply(model, replace=True)
    assert sparse.find(model) is one
    assert all(map(torch.equal, masks(model).values(), before.values()))


@pytest.mark.parametrize("level", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("way", ["copied", "pickled", "replaced"])
@pytest.mark.parametrize("make", [*MAKE.values()][:7], ids=[*MAKE][:7])
def test_a_sparse_model_gets_the_new_level_and_keeps_its_mask(make, way, level):
    model = make_mlp(inputs=32, hidden=64, outputs=16)
    sparse.Static(0.5, init_method="topk").apply(model)
    before = masks(model)
    twin = {
        "copied": copy.deepcopy,
        "pickled": lambda model: pickle.loads(pickle.dumps(model)),
        "replaced": lambda model: model,
    }[way](model)
    sparsity = make(level)
    sparsity.apply(twin, replace=way == "replaced")
    assert abs(level_of(sparsity) - level) < 0.01
    for key, mask in masks(twin).items():
        smaller, larger = (mask, before[key]) if level >= 0.5 else (before[key], mask)
        if make is not MAKE["erk"]:
            assert bool((larger | ~smaller).all()), key
    for parameter in sparsity.sparse_params.values():
        assert parameter.is_compressed or not parameter.param.detach()[~parameter.mask].any()


def test_pruning_further_keeps_the_largest():
    model = make_mlp()
    sparse.Static(0.5).apply(model)
    twin = copy.deepcopy(model)
    sparse.Static(0.75).apply(twin)
    weight, mask = model[0].weight.abs(), model[0].weight_mask
    kept = twin[0].weight_mask
    assert int(kept.sum()) == 32
    assert weight[kept].min() >= weight[mask & ~kept].max()


def test_gradual_pruning_starts_from_the_mask_that_is_there():
    model = make_mlp()
    sparse.Static(0.5).apply(model)
    start = masks(model)
    rising = {"type": "cubic", "init": 0.0, "final": 0.9, "begin": 0, "end": 8}
    sparsity = sparse.GMP(rising, update=2)
    sparsity.apply(model, replace=True)
    assert all(map(torch.equal, masks(model).values(), start.values()))
    optimizer = SGD(model.parameters(), 0.1)
    sparsity.apply(optimizer)
    train(model, optimizer, 8)
    assert [p.kept for p in sparsity.sparse_params.values()] == [12, 6]


def test_a_resumed_copy_keeps_its_mask():
    model, rising = make_mlp(), {"type": "linear", "init": 0.8, "slope": -0.1}
    sparsity = sparse.SET(sparsity=rising, update=2)
    sparsity.apply(model)
    optimizer = SGD(model.parameters(), 0.1)
    sparsity.apply(optimizer)
    train(model, optimizer, 3)
    twin, again = copy.deepcopy(model), sparse.SET(sparsity=rising, update=2)
    again.load_state_dict(sparsity.state_dict())
    again.apply(twin)
    assert all(map(torch.equal, masks(model).values(), masks(twin).values()))


@pytest.mark.parametrize("optimized", [False, True])
def test_a_whole_model_in_a_file_loads_where_the_library_is_not(tmp_path, optimized):
    model, sparsity = make_mlp(), sparse.RigL(sparsity=0.5, update=2)
    sparsity.apply(model)
    if optimized:
        optimizer = SGD(model.parameters(), 0.1)
        sparsity.apply(optimizer)
        train(model, optimizer, 3)
    torch.save(model, tmp_path / "model.pt")
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "model.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    total, *keys = done.stdout.split()
    assert float(total) == pytest.approx(model(torch.ones(1, 8)).sum().item(), abs=1e-6)
    assert keys == list(model.state_dict())


class Fake(nn.Linear):
    """A layer that a tool puts in the place of a linear one, with the same Parameters."""

    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias


@pytest.mark.parametrize("is_held", [False, True])
@pytest.mark.parametrize("make", [MAKE[name] for name in ("static", "rigl", "group", "shadowed")])
def test_a_replaced_layer_with_the_same_weight_is_followed(make, is_held):
    model, sparsity = make_mlp(), make(0.5)
    sparsity.apply(model)
    before, held = masks(model), [model[0]] if is_held else []
    model[0] = Fake(model[0])
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    sparsity.apply(optimizer)
    assert list(masks(model)) == list(before)
    assert torch.equal(masks(model)["0.weight_mask"], before["0.weight_mask"])
    assert not any("weight_mask" in dict(layer.named_buffers()) for layer in held)
    train(model, optimizer, 4)
    assert_sparse(sparsity, optimizer)
    assert list(sparsity.sparse_params) == ["0.weight", "2.weight"]
    loaded = make_mlp(seed=5).state_dict()
    model.load_state_dict(loaded, strict=False)
    assert_sparse(sparsity, optimizer)


def test_a_layer_that_is_replaced_while_training_is_followed():
    model, sparsity = make_mlp(), sparse.RigL(sparsity=0.5, update=2)
    sparsity.apply(model)
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    sparsity.apply(optimizer)
    train(model, optimizer, 3)
    model[2] = Fake(model[2])
    sparsity.apply(SGD(model.parameters(), 0.1))
    assert list(masks(model)) == ["0.weight_mask", "2.weight_mask"]


@pytest.mark.parametrize("steps", [None, 0, 1, 2])
def test_a_weight_that_moves_into_a_parametrization_is_followed(steps):
    model, sparsity = make_mlp(), sparse.RigL(sparsity=0.5, update=2)
    sparsity.apply(model)
    optimizer = SGD(model.parameters(), 0.1)
    if steps is None:
        parametrizations.spectral_norm(model[0])
        sparsity.apply(optimizer)
    else:
        sparsity.apply(optimizer)
        train(model, optimizer, steps)
        parametrizations.spectral_norm(model[0])
    train(model, optimizer, 4)
    assert sparsity.step == 4 + (steps or 0)
    assert_sparse(sparsity, optimizer)
    assert "0.parametrizations.weight.original_mask" in model.state_dict()


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_a_new_head_takes_the_place_of_the_old_one(make):
    model, sparsity = make_mlp(), make(0.5)
    sparsity.apply(model)
    old = model[2]
    model[2] = nn.Linear(16, 8)
    with pytest.warns(SparsityWarning, match="already, left as they are: 0.weight"):
        sparsity.apply(model)
    assert {name: p.shape[0] for name, p in sparsity.sparse_params.items()} == {
        "0.weight": 16,
        "2.weight": 8,
    }
    if not isinstance(old, sparse.nn.SparseLinear):
        assert "weight_mask" not in old.state_dict()
    optimizer = SGD(model.parameters(), 0.1)
    sparsity.apply(optimizer)
    train(model, optimizer, 3)
    assert_sparse(sparsity, optimizer)


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_a_new_model_lets_the_old_one_go(make):
    sparsity, alive, found = make(0.5), [], []
    for _ in range(3):
        model = make_mlp()
        sparsity.apply(model)
        optimizer = SGD(model.parameters(), 0.1)
        sparsity.apply(optimizer)
        assert sparsity.step == 0
        assert list(sparsity.sparse_params) == ["0.weight", "2.weight"]
        found.append(masks(model))
        train(model, optimizer, 3)
        assert_sparse(sparsity, optimizer)
        alive.append(weakref.ref(model))
    gc.collect()
    assert [each() is not None for each in alive] == [False, False, True]
    assert all(torch.equal(found[0][key], found[2][key]) for key in found[0])


def test_parts_of_a_model_that_was_put_together_for_apply_stay():
    actor, critic, sparsity = make_mlp(1), make_mlp(2), sparse.RigL(sparsity=0.5, update=2)
    sparsity.apply(nn.ModuleList([actor, critic]))
    gc.collect()
    sparsity.apply(make_mlp(3))
    assert [*masks(actor), *masks(critic)] == ["0.weight_mask", "2.weight_mask"] * 2
    optimizer = SGD([*actor.parameters(), *critic.parameters()], 0.1)
    sparsity.apply(optimizer)
    for step in range(3):
        optimizer.zero_grad()
        backward(actor, step)
        backward(critic, step)
        optimizer.step()
    assert not actor[0].weight[~actor[0].weight_mask].any()
    assert not critic[2].weight[~critic[2].weight_mask].any()


class Shared(nn.Module):
    def __init__(self, weight=None):
        super().__init__()
        self.encoder, self.out = nn.Linear(8, 8, bias=False), nn.Linear(8, 4)
        if weight is not None:
            self.encoder.weight = weight

    def forward(self, x):
        return self.out(self.encoder(x))


def test_a_weight_of_two_models_has_one_mask():
    actor = Shared()
    critic, sparsity = Shared(actor.encoder.weight), sparse.RigL(sparsity=0.5, update=2)
    sparsity.apply(actor)
    sparsity.apply(critic)
    assert list(sparsity.sparse_params) == ["encoder.weight", "out.weight", "out.weight#2"]
    assert int((actor.encoder.weight == 0).sum()) == 32
    critic.load_state_dict(Shared().state_dict())
    assert int((actor.encoder.weight == 0).sum()) == 32
    with pytest.raises(AttachError, match=r"encoder.weight: RigL has it"):
        sparse.Static(0.5).apply(Shared(actor.encoder.weight))


def test_warnings_are_shown_each_time_a_cell_runs():
    code = compile("sparsity.apply(model)", "<cell>", "exec")
    model, sparsity = make_mlp(), sparse.Static(0.5)
    sparsity.apply(model)
    names = {"model": model, "sparsity": sparsity, "__name__": "__main__"}
    with warnings.catch_warnings(record=True) as told:
        warnings.resetwarnings()
        warnings.filterwarnings("always", category=SparsityWarning, append=True)
        exec(code, names)
        exec(code, names)
    assert [w.filename for w in told] == ["<cell>"] * 2


def test_the_filter_that_shows_each_warning_comes_last():
    program = (
        "import warnings, sparsewright as s; from torch import nn;"
        "m = nn.Sequential(nn.Linear(4, 4)); a = s.Static(0.5); a.apply(m)\n"
        "for _ in range(3): a.apply(m)"
    )
    for flag, count in (("default", 1), ("ignore", 0), (None, 3)):
        options = [] if flag is None else [f"-W{flag}::UserWarning"]
        command = [sys.executable, *options, "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stderr.count("sparsified already") == count


def test_what_is_let_go_is_logged(caplog):
    model, sparsity = make_mlp(), sparse.Static(0.5)
    sparsity.apply(model)
    model[2] = nn.Linear(16, 3)
    with caplog.at_level(logging.INFO, "sparsewright"), pytest.warns(SparsityWarning):
        sparsity.apply(model)
    assert "2.weight left the model; it is no longer sparse" in caplog.messages


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_a_head_that_is_gone_is_no_longer_counted(make):
    model, sparsity = make_mlp(), make(0.5)
    sparsity.apply(model)
    optimizer = SGD(model.parameters(), 0.1)
    sparsity.apply(optimizer)
    train(model, optimizer, 1)
    del model[2]
    assert list(sparsity.sparse_params) == ["0.weight"]
    model.append(nn.Linear(16, 4))
    train(model, optimizer, 3)
    assert_sparse(sparsity, optimizer)


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_a_pruned_model_without_masks_is_told(make, caplog):
    model = make_mlp()
    sparse.Static(0.75, seed=1).apply(model)
    sparse.remove(model)
    sparsity = make(0.5)
    with caplog.at_level(logging.WARNING, "sparsewright"):
        sparsity.apply(model)
    told = [text for text in caplog.messages if "are zero already" in text]
    assert len(told) == 1
    assert "0.weight" in told[0]
    assert "init_method='from_zeros'" in told[0]


@pytest.mark.parametrize("init_method", ["random", "topk", "from_zeros"])
def test_trained_models_and_masks_from_zeros_are_not_told(init_method, caplog):
    model = make_mlp()
    nn.init.zeros_(model[2].weight)
    if init_method == "from_zeros":
        sparse.Static(0.75).apply(model)
        sparse.remove(model)
    with caplog.at_level(logging.WARNING, "sparsewright"):
        sparse.Static(0.5, init_method=init_method).apply(model)
    assert not [text for text in caplog.messages if "are zero already" in text]


@pytest.mark.parametrize("call", [sparse.find, sparse.remove])
def test_only_modules_have_algorithms(call):
    with pytest.raises(OptionTypeError, match=f"the argument of {call.__name__}"):
        call(SGD(make_mlp().parameters(), 0.1))
