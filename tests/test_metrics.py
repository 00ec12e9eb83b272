"""Metrics for any logger: values, logging steps, and TensorBoard files that read back."""

import builtins
import re
import warnings

import pytest
import torch
from torch import nn
from torch.optim import SGD

import sparsewright as sparse
from helpers.support import backward, batch, make_mlp, train
from sparsewright.errors import MissingPackageError, OptionError, OptionTypeError
from sparsewright.metrics import TensorBoard, log_metrics


def run(sparsity, every=1):
    """Train a sparsified model; return it, the optimizer and the list of logged scalars."""
    model = make_mlp()
    optimizer = SGD(model.parameters(), 0.1)
    sparsity.apply(model)
    sparsity.apply(optimizer)
    logged = []

    def log(scalars, step):
        logged.append((step, scalars))

    return model, optimizer, logged, log_metrics(sparsity, log, every=every)


def two_algorithms():
    """Return a sparsified model, a Group with one algorithm per layer, and an optimizer."""
    model = make_mlp()
    group = sparse.Group([("0.*", sparse.Static(0.5)), ("2.*", sparse.Static(0.5))])
    group.apply(model)
    return model, group, SGD(model.parameters(), 0.1)


def test_one_call_a_step_with_levels_and_norms():
    sparsity = sparse.Static(0.75)
    model, optimizer, logged, _ = run(sparsity)
    backward(model)
    norms = [model[i].weight.grad.norm().item() for i in (0, 2)]
    optimizer.step()
    ((step, scalars),) = logged
    assert step == 1
    assert scalars == {
        "sparsity/0.weight/target": 0.75,
        "sparsity/0.weight/actual": 0.75,
        "sparsity/0.weight/grad_norm": pytest.approx(norms[0]),
        "sparsity/2.weight/target": 0.75,
        "sparsity/2.weight/actual": 0.75,
        "sparsity/2.weight/grad_norm": pytest.approx(norms[1]),
        "sparsity/target": 0.75,
        "sparsity/actual": 0.75,
        "sparsity/grad_norm": pytest.approx((norms[0] ** 2 + norms[1] ** 2) ** 0.5),
    }
    assert all(type(value) is float for value in scalars.values())


def test_norm_on_an_update_step_is_of_the_gradient_that_the_optimizer_saw():
    model, optimizer, logged, _ = run(sparse.SET(1.0, sparsity=0.75, update=1))
    backward(model)
    norm = model[0].weight.grad.norm().item()
    optimizer.step()
    assert logged[0][1]["sparsity/0.weight/grad_norm"] == pytest.approx(norm)
    assert model[0].weight.grad.norm().item() < 0.9 * norm


def test_totals_of_a_structure_that_rounds_down():
    """Of 8 and of 4 blocks, a level of 0.7 keeps 2 and 1; ERK asks for other levels per layer."""
    block = {"type": "block", "shape": [4, 4]}
    model, optimizer, logged, _ = run(sparse.Static(0.7, structure=block))
    train(model, optimizer, 1)
    scalars = logged[0][1]
    assert scalars["sparsity/target"] == pytest.approx(0.7)
    assert scalars["sparsity/0.weight/actual"] == scalars["sparsity/actual"] == 0.75
    model, optimizer, logged, _ = run(sparse.Static(0.7, distribution="erk", structure=block))
    train(model, optimizer, 1)
    scalars = logged[0][1]
    assert scalars["sparsity/0.weight/target"] > 0.7 > scalars["sparsity/2.weight/target"]
    # ERK's budget prunes floor(0.7 * 128) = 89 and floor(0.7 * 64) = 44 of 192 entries.
    assert scalars["sparsity/target"] == pytest.approx(133 / 192)
    assert scalars["sparsity/actual"] >= scalars["sparsity/target"]


def test_target_follows_the_schedule_and_actual_the_mask():
    sparsity = sparse.GMP({"type": "linear", "init": 0.0, "slope": 0.1}, {"freq": 2, "start": 2})
    model, optimizer, logged, _ = run(sparsity)
    train(model, optimizer, 5)
    name = "sparsity/0.weight"
    targets = [scalars[f"{name}/target"] for _, scalars in logged]
    assert targets == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    actual = [scalars[f"{name}/actual"] for _, scalars in logged]
    assert actual == [0.0, *[26 / 128] * 2, *[52 / 128] * 2]
    assert actual[-1] == 1 - model[0].weight_mask.sum().item() / 128


def test_churn_is_there_when_a_mask_was_updated():
    sparsity = sparse.RigL(0.25, sparsity=0.5, update={"freq": 3, "start": 3})
    model, optimizer, logged, _ = run(sparsity)
    updates = {}
    sparsity.register_mask_update_hook(lambda update: updates.update({update.name: update}))
    train(model, optimizer, 6)
    steps = [step for step, scalars in logged if "sparsity/0.weight/churn" in scalars]
    assert steps == [3, 6]
    first, last = updates["0.weight"], updates["2.weight"]
    assert first.dropped == first.grown > 0
    scalars = logged[5][1]
    assert scalars["sparsity/0.weight/churn"] == 2 * first.grown / 64
    assert scalars["sparsity/churn"] == 2 * (first.grown + last.grown) / (64 + 32)


def test_every_so_many_steps_the_last_update_counts():
    sparsity = sparse.SET(0.25, sparsity=0.5, update={"freq": 3, "start": 3})
    model, optimizer, logged, _ = run(sparsity, every=4)
    train(model, optimizer, 16)
    assert [step for step, _ in logged] == [4, 8, 12, 16]
    assert all("sparsity/0.weight/churn" in scalars for _, scalars in logged)
    model, optimizer, logged, _ = run(sparse.SET(sparsity=0.5, update={"steps": [1]}), every=4)
    train(model, optimizer, 8)
    assert ["sparsity/churn" in scalars for _, scalars in logged] == [True, False]


def test_a_group_makes_one_call_a_step():
    first, second = sparse.Static(0.5), sparse.SET(sparsity=0.75, update=1)
    group = sparse.Group({"0.weight": first, "2.weight": second})
    model, optimizer, logged, handle = run(group)
    train(model, optimizer, 2)
    assert [step for step, _ in logged] == [1, 2]
    scalars = logged[-1][1]
    assert scalars["sparsity/0.weight/actual"] == 0.5
    assert scalars["sparsity/2.weight/actual"] == 0.75
    assert scalars["sparsity/actual"] == pytest.approx(1 - (64 + 16) / (128 + 64))
    assert "sparsity/0.weight/churn" not in scalars
    assert "sparsity/2.weight/churn" in scalars
    handle.remove()
    train(model, optimizer, 1)
    assert len(logged) == 2


def test_several_optimizers_report_what_they_step():
    model, sparsity = make_mlp(), sparse.SET(sparsity=0.5, update={"freq": 2})
    sparsity.apply(model)
    first, second = SGD(model[0].parameters(), 0.1), SGD(model[2].parameters(), 0.1)
    logged = []
    log_metrics(sparsity, lambda scalars, step: logged.append((step, scalars)))
    for optimizer in (first, second):
        sparsity.apply(optimizer)
    for _ in range(2):
        backward(model)
        first.step()
        second.step()
    names = [
        {name.split("/")[1] for name in scalars if "/target" in name[9:]} for _, scalars in logged
    ]
    assert [step for step, _ in logged] == [1, 1, 2, 2]
    assert names == [{"0.weight"}, {"2.weight"}] * 2
    assert ["sparsity/churn" in scalars for _, scalars in logged] == [False, False, True, True]


def test_an_update_waits_for_the_optimizer_that_is_logged():
    """With every=2, a logged step of the first optimizer keeps an update of the second."""
    model, sparsity = make_mlp(), sparse.SET(sparsity=0.5, update={"steps": [1]})
    sparsity.apply(model)
    first, second = SGD(model[0].parameters(), 0.1), SGD(model[2].parameters(), 0.1)
    sparsity.apply(first)
    sparsity.apply(second)
    logged = []
    log_metrics(sparsity, lambda scalars, step: logged.append(scalars), every=2)
    backward(model)
    for optimizer in (first, second, first, second):
        optimizer.step()
    assert ["sparsity/2.weight/churn" in scalars for scalars in logged] == [False, True]


def test_equal_names_in_two_algorithms_do_not_collide():
    def is_narrow(name, param):
        return name.endswith("weight") and 16 in param.shape

    group = sparse.Group([(is_narrow, sparse.Static(0.5)), ("*weight", sparse.Static(0.75))])
    models = [make_mlp(hidden=hidden) for hidden in (16, 32)]
    for model in models:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            group.apply(model)
    optimizer = SGD([p for model in models for p in model.parameters()], 0.1)
    group.apply(optimizer)
    logged = []
    log_metrics(group, lambda scalars, step: logged.append(scalars))
    optimizer.step()
    levels = {name: value for name, value in logged[0].items() if name.endswith("/actual")}
    del levels["sparsity/actual"]
    assert levels == {
        **{f"sparsity/{layer}.weight/actual": 0.5 for layer in (0, 2)},
        **{f"sparsity/{layer}.weight#2/actual": 0.75 for layer in (0, 2)},
    }
    assert not [name for name in logged[0] if "grad_norm" in name]


def test_compressed_weights_log_the_same():
    logs = []
    for storage in ("masked", "compressed"):
        sparsity = sparse.SET(sparsity=0.5, update=2)
        sparsity.storage = storage
        model, optimizer, logged, _ = run(sparsity)
        train(model, optimizer, 4)
        logs.append(logged)
    for (step, masked), (other, compressed) in zip(*logs, strict=True):
        assert step == other
        assert masked == pytest.approx(compressed, rel=1e-4)


def test_no_norm_is_computed_between_logged_steps():
    model, optimizer, logged, _ = run(sparse.Static(0.5), every=5)
    norms = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            norms.append("vector_norm" in str(func))
            return func(*args, **(kwargs or {}))

    for step in range(1, 6):
        backward(model)
        with Watch():
            optimizer.step()
        assert any(norms) == (step == 5)
    assert len(logged) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (0.5, print, 1),
            OptionTypeError,
            "sparsity must be a SparsityAlgorithm; got 0.5 (float).",
        ),
        (
            (sparse.Static(0.5), "wandb", 1),
            OptionTypeError,
            "log must be a function (scalars, step); got 'wandb' (str).",
        ),
        ((sparse.Static(0.5), print, 0), OptionError, "every must be an integer >= 1; got 0."),
        (
            (sparse.Static(0.5), print, 2.0),
            OptionTypeError,
            "every must be an integer >= 1; got 2.0 (float).",
        ),
    ],
)
def test_wrong_arguments(arguments, error, message):
    sparsity, log, every = arguments
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        log_metrics(sparsity, log, every=every)


def test_tensorboard_files_read_back(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sparsity = sparse.RigL(sparsity=0.5, update=2)
    model, optimizer, logged, _ = run(sparsity)
    with TensorBoard(tmp_path) as log:
        log_metrics(sparsity, log)
        train(model, optimizer, 4)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    for tag in events.Tags()["scalars"]:
        read = [(event.step, event.value) for event in events.Scalars(tag)]
        wrote = [(step, scalars[tag]) for step, scalars in logged if tag in scalars]
        assert [step for step, _ in read] == [step for step, _ in wrote], tag
        values = [[value for _, value in pairs] for pairs in (read, wrote)]
        assert values[0] == pytest.approx(values[1]), tag
    assert set(events.Tags()["scalars"]) == set().union(*(scalars for _, scalars in logged))


def test_tensorboard_forgets_what_is_trained_again(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, steps, value in ((None, range(1, 6), 1.0), (4, range(4, 8), 2.0)):
        with TensorBoard(tmp_path, start=start) as log:
            for step in steps:
                log({"loss": value}, step)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    read = [(event.step, event.value) for event in events.Scalars("loss")]
    assert read == [*((step, 1.0) for step in (1, 2, 3)), *((step, 2.0) for step in (4, 5, 6, 7))]


def test_without_tensorboard_the_error_names_the_extra(monkeypatch, tmp_path):
    real = builtins.__import__

    def refuse(name, *rest):
        if name == "torch.utils.tensorboard":
            raise ModuleNotFoundError("No module named 'tensorboard'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingPackageError, match=r"sparsewright\[tensorboard\]"):
        TensorBoard(tmp_path)


def test_the_loop_stays_as_it_is():
    """Logging changes no weight, even if the log function changes its arguments."""
    weights = []
    for log in (False, True):
        model, sparsity = make_mlp(), sparse.RigL(sparsity=0.5, update=2)
        optimizer = SGD(model.parameters(), 0.1)
        sparsity.apply(model)
        sparsity.apply(optimizer)
        if log:
            log_metrics(sparsity, lambda scalars, step: scalars.clear())
        train(model, optimizer, 5)
        weights.append(model(batch(0, 5, 8)))
    assert torch.equal(*weights)


def test_steps_do_not_go_back_and_totals_are_of_all():
    model, sparsity = (
        make_mlp(),
        sparse.SET(sparsity={"type": "linear", "init": 0.5, "slope": 0.01}, update=1),
    )
    sparsity.apply(model)
    fast, slow = (SGD(model[i].parameters(), 0.1) for i in (0, 2))
    sparsity.apply(fast)
    sparsity.apply(slow)
    calls = []
    log_metrics(sparsity, lambda scalars, step: calls.append((step, scalars)))
    for step in range(6):
        backward(model, step)
        fast.step()
        if step % 3 == 2:
            slow.step()
    assert [step for step, _ in calls] == [1, 2, 3, 3, 4, 5, 6, 6]
    kept = [p.kept for p in sparsity.sparse_params.values()]
    assert calls[-1][1]["sparsity/actual"] == pytest.approx(1 - sum(kept) / 192)


def test_a_group_is_logged_after_its_last_algorithm_in_whatever_order():
    model, group, optimizer = two_algorithms()
    group[1].apply(optimizer)
    group[0].apply(optimizer)
    calls = []
    log_metrics(group, lambda scalars, step: calls.append(scalars))
    for step in range(3):
        optimizer.zero_grad()
        backward(model, step)
        norms = [float(model[i].weight.grad.norm()) for i in (0, 2)]
        optimizer.step()
        logged = [calls[-1][f"sparsity/{i}.weight/grad_norm"] for i in (0, 2)]
        assert logged == pytest.approx(norms)
    assert len(calls) == 3


def test_an_algorithm_that_is_updated_by_hand_does_not_hold_up_the_others():
    model, group, optimizer = two_algorithms()
    group[1].autoupdate = False
    group.apply(optimizer)
    names = []
    log_metrics(group, lambda scalars, step: names.append(sorted(scalars)[-1]))
    train(model, optimizer, 1)
    group[1].update(optimizer)
    assert names == ["sparsity/target", "sparsity/target"]


def test_norms_of_short_numbers_do_not_overflow():
    model = nn.Linear(1000, 1000, bias=False).half()
    sparsity = sparse.Static(0.5)
    sparsity.apply(model)
    optimizer = SGD(model.parameters(), 0.0)
    sparsity.apply(optimizer)
    calls = []
    log_metrics(sparsity, lambda scalars, step: calls.append(scalars))
    model.weight.grad = torch.full_like(model.weight, 100.0)
    optimizer.step()
    assert calls[0]["sparsity/grad_norm"] == pytest.approx(100 * 500_000**0.5, rel=1e-3)


def test_an_algorithm_that_joined_later_does_not_hold_up_the_others():
    model, group, optimizer = two_algorithms()
    group[0].apply(optimizer)
    train(model, optimizer, 1)
    group[1].apply(optimizer)
    steps = []
    log_metrics(group, lambda scalars, step: steps.append((step, len(scalars))), every=4)
    train(model, optimizer, 6)
    assert [step for step, _ in steps] == [4]
