"""A sparse model that is found, copied, pickled, pruned further, or given another algorithm."""

import copy
import gc
import logging
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

import sparsewright as sparse
from helpers.lives import MAKE, assert_sparse, level_of, masks
from helpers.support import make_mlp, train
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
    with pytest.raises(AttachError, match=r"several algorithms \(Static, RigL\); pass a submodule"):
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
    with pytest.warns(
        SparsityWarning, match="Sequential has no sparse weights; nothing was removed"
    ):
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
    expected = rf"{names[0]} already sparsifies it; call apply\(model, replace=True\) to hand"
    with pytest.raises(AttachError, match=rf"{expected} .* over to (this )?{names[1]}$"):
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
        assert done.stderr.count("already sparse and were left unchanged") == count


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_a_pruned_model_without_masks_is_told(make, caplog):
    model = make_mlp()
    sparse.Static(0.75, seed=1).apply(model)
    sparse.remove(model)
    sparsity = make(0.5)
    with caplog.at_level(logging.WARNING, "sparsewright"):
        sparsity.apply(model)
    told = [text for text in caplog.messages if "keep many entries that are already zero" in text]
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
    assert not [text for text in caplog.messages if "are already zero" in text]


@pytest.mark.parametrize("call", [sparse.find, sparse.remove])
def test_only_modules_have_algorithms(call):
    message = f"^the argument of {call.__name__} must be a Module; got <SGD>"
    with pytest.raises(OptionTypeError, match=message):
        call(SGD(make_mlp().parameters(), 0.1))
