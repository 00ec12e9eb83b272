"""torch wrappers around a model keep its names, masks and training unchanged."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.func import functional_call, grad
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.checkpoint import checkpoint

import sparsewright as sparse
from helpers.cases import ALGORITHMS, attach, every_algorithm, step_once
from helpers.support import assert_pruned, assert_same, batch, make_mlp, masks_of, train

pytestmark = [  # torch's compiler triggers this warning itself
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
]
every_storage = pytest.mark.parametrize("storage", ["masked", "compressed"])


@pytest.fixture
def process_group():
    """Create a process group of one process."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def ddp(model):
    return nn.parallel.DistributedDataParallel(model)


def compiled(model):
    return torch.compile(model, backend="eager")


def layers_compiled(model):
    for index in (0, 2):
        model[index] = torch.compile(model[index], backend="eager")
    return model


def layers_checkpointed(model):
    for index in (0, 2):
        model[index] = checkpoint_wrapper(model[index])
    return model


WRAPPERS = {
    "compile": compiled,
    "DistributedDataParallel": ddp,
    "compile of DistributedDataParallel": lambda model: compiled(ddp(model)),
    "DistributedDataParallel of compile": lambda model: ddp(compiled(model)),
    "DataParallel": nn.DataParallel,
    "AveragedModel": AveragedModel,
    "layers compiled": layers_compiled,
    "layers checkpointed": layers_checkpointed,
    "DistributedDataParallel of layers compiled": lambda model: ddp(layers_compiled(model)),
}


def start(make, model, storage="masked"):
    """Sparsify a model that may be wrapped already."""
    sparsity = make()
    for algorithm in getattr(sparsity, "algorithms", [sparsity]):
        algorithm.storage = storage
    return attach(lambda: sparsity, model=model)


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@every_algorithm
def test_names_and_masks_of_a_wrapped_model_are_those_of_the_plain_one(make, wrap):
    """Random numbers and filters use plain names, and checkpoints load into the other model."""
    plain, plain_sparsity, plain_optimizer = attach(make)
    model, sparsity, optimizer = attach(make, model=wrap(make_mlp()))
    assert list(sparsity.sparse_params) == ["0.weight", "2.weight"]
    for step in range(1, 5):
        step_once(plain, plain_optimizer, step)
        step_once(model, optimizer, step)
        assert_pruned(sparsity, optimizer)
    assert_same(masks_of(sparsity), masks_of(plain_sparsity))
    for own, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own, other)
    assert sparsity.state_dict() == plain_sparsity.state_dict()
    resumed = make()
    resumed.load_state_dict(sparsity.state_dict())
    resumed.apply(copy.deepcopy(plain))
    assert_same(masks_of(resumed), masks_of(sparsity))


def test_filters_and_messages_see_plain_names():
    inner = nn.ModuleDict({"module": make_mlp(), "head": compiled(nn.Linear(4, 4))})
    model = compiled(nn.ModuleDict({"_orig_mod": nn.DataParallel(inner)}))
    seen = []

    def picks(name, param):
        seen.append(name)
        return param.ndim > 1

    sparsity = sparse.Group([(picks, sparse.Static(0.5))])
    sparsity.apply(model)
    # A user's own module keeps the name `module` or `_orig_mod`.
    names = ["_orig_mod.module.0", "_orig_mod.module.2", "_orig_mod.head"]
    assert seen == [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]
    assert list(sparsity.sparse_params) == [f"{name}.weight" for name in names]
    conversions = sparse.compress(model, only="_orig_mod.*.?.weight", verbose=False)
    assert [(c.name, c.is_compressed) for c in conversions] == [
        ("_orig_mod.module.0.weight", True),
        ("_orig_mod.module.2.weight", True),
        ("_orig_mod.head.weight", False),
    ]


def test_apply_of_a_wrapped_model_and_opting_out_below_a_wrapper():
    model = make_mlp()
    model[0].requires_dense = True
    outer = compiled(AveragedModel(compiled(model)))
    sparsity = sparse.Static(0.5)
    outer.apply(sparsity)
    assert list(sparsity.sparse_params) == ["2.weight"]


class Checkpointed(nn.Sequential):
    """An MLP that runs its layers again in the backward pass."""

    use_reentrant = False

    def forward(self, x):
        for layer in self:
            x = checkpoint(layer, x.requires_grad_(), use_reentrant=self.use_reentrant)
        return x


@every_storage
@pytest.mark.parametrize("use_reentrant", [True, False])
@every_algorithm
def test_activation_checkpointing(make, use_reentrant, storage):
    plain, plain_sparsity, plain_optimizer = start(make, make_mlp(), storage)
    twin = Checkpointed(*make_mlp())
    twin.use_reentrant = use_reentrant
    model, sparsity, optimizer = start(make, twin, storage)
    for step in range(1, 7):
        step_once(plain, plain_optimizer, step)
        step_once(model, optimizer, step)
        assert_same(masks_of(sparsity), masks_of(plain_sparsity))
    # Reentrant checkpoints add up the gradients of the two forward passes in another order.
    torch.testing.assert_close(dict(model.state_dict()), dict(plain.state_dict()))


@every_storage
@every_algorithm
def test_functional_call(make, storage):
    """The model's own parameters train, and gradients of other tensors have no effect."""
    plain, plain_sparsity, plain_optimizer = start(make, make_mlp(), storage)
    model, sparsity, optimizer = start(make, make_mlp(), storage)

    def loss_of(params, x):
        return functional_call(model, params, (x,)).pow(2).mean()

    for step in range(1, 7):
        train(plain, plain_optimizer, 1, step)
        optimizer.zero_grad()
        x, own = batch(step, 5, 8), dict(model.named_parameters())
        loss_of(own, x).backward()
        held = {name: p.grad.clone() for name, p in own.items()}
        others = {name: p.detach().clone().requires_grad_() for name, p in own.items()}
        dense = torch.autograd.grad(loss_of(others, 3 * x), list(others.values()))
        assert all(g.any() for g in dense)
        assert_same({name: p.grad for name, p in own.items()}, held)
        optimizer.step()
        assert_same(masks_of(sparsity), masks_of(plain_sparsity))
    assert_same(dict(model.state_dict()), dict(plain.state_dict()))


@every_storage
def test_func_grad_equals_autograd(storage):
    """For detached parameters, pruned entries have gradients too."""
    model, sparsity, _ = start(lambda: sparse.RigL(sparsity=0.5), make_mlp(), storage)
    params = {name: p.detach() for name, p in model.named_parameters()}
    x = batch(0, 5, 8)

    def loss_of(params):
        return functional_call(model, params, (x,)).pow(2).mean()

    gradients = grad(loss_of)(params)
    assert all(p.grad is None for p in model.parameters())
    loss_of(dict(model.named_parameters())).backward()
    for name, p in model.named_parameters():
        attached = sparsity.get_sparse_params(p)
        if storage == "masked" and attached is not None:
            assert gradients[name][~attached.mask].any()
            gradients[name] = gradients[name] * attached.mask
        torch.testing.assert_close(gradients[name], p.grad)


@every_storage
def test_gradients_for_inputs_do_not_count_as_those_of_the_weight(storage):
    """On an update step, RigL ignores the gradients of adversarial examples."""
    make = ALGORITHMS["rigl in groups"]
    plain, plain_sparsity, plain_optimizer = start(make, make_mlp(), storage)
    model, sparsity, optimizer = start(make, make_mlp(), storage)
    for step in range(1, 6):
        train(plain, plain_optimizer, 1, step)
        x = (50 * batch(step + 9, 5, 8)).requires_grad_()
        torch.autograd.grad(model(x).pow(2).mean(), x)
        torch.autograd.grad(model(x).pow(2).mean(), list(model.parameters()))
        train(model, optimizer, 1, step)
        assert_same(masks_of(sparsity), masks_of(plain_sparsity))


@every_algorithm
def test_an_average_of_changing_masks_is_pruned_by_applying_a_copy_of_the_algorithm(make):
    """An average of pruned weights is zero only where all averaged masks were False."""
    model, sparsity, optimizer = attach(make)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.75))
    for step in range(1, 6):
        step_once(model, optimizer, step)
        average.update_parameters(model)
    before = [p.detach().clone() for p in average.parameters()]
    layers = [(average.module[i], model[i]) for i in (0, 2)]
    is_fixed = isinstance(sparsity, sparse.Static)
    assert any(bool(a.weight[~m.weight_mask].any()) for a, m in layers) is not is_fixed
    copied = copy.deepcopy(sparsity)
    copied.apply(average)
    assert_same(masks_of(copied), masks_of(sparsity))
    assert_pruned(copied)
    masks = dict(
        zip(map(id, (a.weight for a, _ in layers)), masks_of(copied).values(), strict=True)
    )
    for own, was in zip(average.parameters(), before, strict=True):
        assert torch.equal(own, was * masks.get(id(own), True))
    copied.remove()
    assert [name for name, _ in average.named_buffers()] == ["n_averaged"]
    assert_pruned(sparsity, optimizer)


@every_algorithm
def test_stochastic_weight_averaging(make):
    """SWA averages the weights, anneals the learning rate, and recomputes batch statistics."""
    net = nn.Sequential(*make_mlp(), nn.BatchNorm1d(4))
    model, sparsity, optimizer = attach(make, model=net)
    average = AveragedModel(model)
    scheduler = SWALR(optimizer, swa_lr=0.05, anneal_epochs=2)
    expected = []
    for step in range(1, 7):
        step_once(model, optimizer, step)
        if step > 3:
            average.update_parameters(model)
            expected.append(model[0].weight.detach().clone())
            scheduler.step()
        assert_pruned(sparsity, optimizer)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    torch.testing.assert_close(average.module[0].weight, torch.stack(expected).mean(0))
    copied = copy.deepcopy(sparsity)
    copied.apply(average)
    masks = masks_of(sparsity)
    update_bn([batch(step, 16, 8) for step in range(4)], average)
    assert_pruned(copied)
    assert_same(masks_of(sparsity), masks)
    inputs = torch.cat([batch(step, 16, 8) for step in range(4)])
    outputs = average.module[:3](inputs).reshape(4, 16, 4).mean((0, 1))
    torch.testing.assert_close(average.module[3].running_mean, outputs)


def test_the_average_of_a_compressed_run_uses_a_masked_copy():
    """Averaging dense weights is necessary, because values of different masks do not correspond."""
    averages = []
    for storage in ("masked", "compressed"):
        model, _, optimizer = start(ALGORITHMS["set"], make_mlp(), storage)
        twin = make_mlp()
        ALGORITHMS["set"]().apply(twin)
        average = AveragedModel(twin, multi_avg_fn=get_ema_multi_avg_fn(0.75))
        for step in range(1, 6):
            step_once(model, optimizer, step)
            twin.load_state_dict(model.state_dict())
            average.update_parameters(twin)
        averages.append(dict(average.module.state_dict()))
    torch.testing.assert_close(averages[0], averages[1])


# torch 2.9 and 2.10 warn about this on loading.
@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
@every_storage
@every_algorithm
def test_export_of_a_trained_model(make, storage):
    """A program contains the zeros or only live values, and gives equal outputs once loaded."""
    torch.compiler.reset()  # up to torch 2.7, earlier models count toward the same limit
    model, sparsity, optimizer = start(make, make_mlp(), storage)
    for step in range(1, 6):
        step_once(model, optimizer, step)
    x = batch(0, 5, 8)
    with torch.no_grad():
        expected = model.eval()(x)
    file = io.BytesIO()
    torch.export.save(torch.export.export(model, (x,)), file)
    file.seek(0)
    program = torch.export.load(file)
    torch.testing.assert_close(program.module()(x), expected)
    for name, parameter in sparsity.sparse_params.items():
        if storage == "masked":
            weight = program.state_dict[name]
            assert torch.equal(weight != 0, parameter.mask & (parameter.param != 0))
        else:
            values = program.state_dict[name.replace("weight", "values")]
            assert torch.equal(values, parameter.param)
            assert values.numel() == parameter.kept
            assert name not in program.state_dict
    with torch.no_grad():
        parameter.param.mul_(2)
    assert not torch.allclose(program.module()(x), model(x))
