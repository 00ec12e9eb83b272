"""The Lightning callback, with real trainers."""

import csv
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sparsewright as sparse
from helpers.script_process import run_script
from helpers.support import assert_pruned, assert_same, batch, make_mlp, masks_of
from sparsewright.errors import AttachError, StateError
from sparsewright.integrations.lightning import SparsityCallback

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        # Warnings of Lightning 2.6 with torch 2.13, and its advice for such small runs.
        r"`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning:lightning",
        r".*does not have many workers:lightning.pytorch.utilities.warnings.PossibleUserWarning",
        r"Found keys that are not in the model state dict:UserWarning:lightning",
        r"Checkpoint directory .* exists and is not empty:UserWarning:lightning",
    )
]


class Plain(LightningModule):
    """A module without any code for sparsity."""

    def __init__(self):
        super().__init__()
        self.net = make_mlp()

    def training_step(self, batch, index):
        loss = self.net(batch[0]).pow(2).mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 0.05, weight_decay=0.1)


class Evaluated(Plain):
    def test_step(self, batch, index):
        self.log("test", self.net(batch[0]).pow(2).mean())


class LayersInSetup(Plain):
    """A module that creates its layers in a hook."""

    def __init__(self):
        LightningModule.__init__(self)

    def setup(self, stage):
        if not hasattr(self, "net"):
            self.net = make_mlp()


class LayersInConfigureModel(LayersInSetup):
    setup = LightningModule.setup

    def configure_model(self):
        LayersInSetup.setup(self, "")


class TwoOptimizers(Plain):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self):
        first = torch.optim.SGD(self.net[0].parameters(), 0.1, momentum=0.9)
        return first, torch.optim.Adam(self.net[2].parameters(), 0.01)

    def training_step(self, batch, index):
        first, second = self.optimizers()
        loss = self.net(batch[0]).pow(2).mean()
        first.zero_grad()
        second.zero_grad()
        self.manual_backward(loss)
        first.step()
        if index % 2:
            second.step()


def rigl():
    return sparse.RigL(sparsity=0.5, update=3, seed=1)


def group():
    return sparse.configure(
        [
            {"algorithm": "set", "sparsity": 0.5, "update": 2, "param_filter": "net.0.*"},
            {"algorithm": "rigl", "sparsity": [0.5, 0.75], "update": 3},
        ]
    )


def data():
    return DataLoader(TensorDataset(torch.stack([batch(i, 8) for i in range(24)])), batch_size=4)


def trainer(folder, sparsity, steps, *callbacks, **options):
    return Trainer(
        max_steps=steps,
        callbacks=[SparsityCallback(sparsity), *callbacks],
        default_root_dir=folder,
        **{
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": bool(callbacks),
            **options,
        },
    )


def assert_same_run(first, second):
    """Assert that two pairs (module, sparsity) are bit-identical in all their state."""
    for module, sparsity in (first, second):
        optimizers = module.trainer.optimizers
        assert_pruned(sparsity, *optimizers)
    assert_same(dict(first[0].state_dict()), dict(second[0].state_dict()))
    assert first[1].state_dict() == second[1].state_dict()
    for one, two in zip(first[0].trainer.optimizers, second[0].trainer.optimizers, strict=True):
        assert_same(one.state_dict()["state"], two.state_dict()["state"])


@pytest.mark.parametrize("make", [rigl, group])
@pytest.mark.parametrize(
    ("module", "options"),
    [
        (Plain, {}),
        (Plain, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}),
        (Plain, {"precision": "bf16-mixed"}),
        (Plain, {"precision": "bf16-true"}),
        (LayersInSetup, {}),
        (LayersInConfigureModel, {"precision": "bf16-true"}),
        (TwoOptimizers, {}),
    ],
    ids=lambda value: getattr(value, "__name__", None) or "-".join(value) or "plain",
)
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, make, module, options):
    whole = module(), make()
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    trainer(tmp_path, whole[1], -1, keep, max_epochs=2, **options).fit(whole[0], data())
    state = torch.load(saved := tmp_path / "epoch=0.ckpt", weights_only=True)
    assert state["state_dict"]["net.0.weight_mask"].dtype == torch.bool
    assert not torch.equal(state["state_dict"]["net.0.weight"], whole[0].net[0].weight)

    torch.manual_seed(99)
    resumed = module(), make()
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    trainer(tmp_path, resumed[1], -1, keep, max_epochs=2, **options).fit(
        resumed[0], data(), ckpt_path=saved
    )
    assert resumed[1].step == whole[1].step
    assert_same_run(whole, resumed)


def ste():
    return sparse.configure(
        [
            {"algorithm": "ste", "structure": "2:4", "update": 2, "param_filter": "net.0.weight"},
            {"algorithm": "rigl", "sparsity": 0.5, "distribution": "global", "update": 3},
        ]
    )


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_shadows_are_resumed_too(tmp_path, precision):
    runs = [(Plain(), ste()), (Plain(), ste())]
    for (module, sparsity), start in zip(runs, (None, tmp_path / "epoch=0.ckpt"), strict=True):
        torch.manual_seed(99)
        keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
        run = trainer(tmp_path, sparsity, -1, keep, max_epochs=2, precision=precision)
        run.fit(module, data(), ckpt_path=start)
    (whole, first), (resumed, second) = runs
    assert first.step == second.step == 12
    assert_same(dict(whole.state_dict()), dict(resumed.state_dict()))
    assert_same(first.state_dict(), second.state_dict())
    assert second.algorithms[0].shadows["net.0.weight"].any()
    for one, two in zip(whole.trainer.optimizers, resumed.trainer.optimizers, strict=True):
        assert_same(one.state_dict()["state"], two.state_dict()["state"])


def test_the_steps_that_count_are_those_of_the_optimizer(tmp_path):
    module, sparsity = Plain(), rigl()
    seen = []
    sparsity.register_mask_update_hook(lambda update: seen.append(update.step))
    trainer(tmp_path, sparsity, 7, accumulate_grad_batches=2).fit(module, data())
    assert sparsity.step == 7
    assert sorted(set(seen)) == [3, 6]
    assert vars(module).keys() & {"setup", "configure_model"} == set()
    names = {name for name, _ in module.named_parameters()}
    assert names == {name for name, _ in Plain().named_parameters()}


def test_two_optimizers_count_their_own_steps(tmp_path):
    module, sparsity = TwoOptimizers(), rigl()
    seen = []
    sparsity.register_mask_update_hook(lambda update: seen.append((update.name, update.step)))
    trainer(tmp_path, sparsity, 12).fit(module, data())
    assert_pruned(sparsity, *module.trainer.optimizers)
    assert seen.count(("net.0.weight", 3)) == seen.count(("net.2.weight", 3)) == 1
    first, second = sparsity.state_dict()["steps"]
    assert first == 2 * second == 8


def test_fitting_again_goes_on(tmp_path):
    module, sparsity = Plain(), rigl()
    run = trainer(tmp_path, sparsity, 4)
    run.fit(module, data())
    run.fit_loop.epoch_loop.max_steps = 6
    run.fit(module, data())
    assert sparsity.step == 6
    trainer(tmp_path, sparsity, 3).fit(module, data())
    assert sparsity.state_dict()["steps"] == [9]
    assert_pruned(sparsity, *module.trainer.optimizers)
    assert [f.optimizer for f in sparsity.session.followed] == module.trainer.optimizers


def test_an_algorithm_applied_before_stays_as_it_is(tmp_path):
    module, sparsity = Plain(), sparse.Static(0.5)
    sparsity.apply(module)
    before = masks_of(sparsity)
    trainer(tmp_path, sparsity, 2).fit(module, data())
    assert_same(masks_of(sparsity), before)


def test_what_is_logged(tmp_path):
    logger, sparsity = CSVLogger(tmp_path), rigl()
    run = trainer(tmp_path, sparsity, 7, logger=logger, log_every_n_steps=3)
    run.fit(Plain(), data())
    with (Path(logger.log_dir) / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert any(row["loss"] for row in rows)
    steps = {int(row["step"]) for row in rows if row["loss"]}
    rows = {int(row["step"]): row for row in rows if row["sparsity/actual"]}
    assert rows.keys() == steps == {2, 5}
    for row in rows.values():
        assert float(row["sparsity/net.0.weight/actual"]) == 0.5
        assert float(row["sparsity/net.0.weight/target"]) == 0.5
        assert 0 < float(row["sparsity/net.0.weight/churn"]) <= 0.6
    assert not sparsity._hooks.has("end")


def test_a_second_run_logs_at_its_own_steps(tmp_path):
    module, sparsity = Plain(), rigl()
    trainer(tmp_path, sparsity, 7).fit(module, data())
    logger = CSVLogger(tmp_path)
    trainer(tmp_path, sparsity, 7, logger=logger, log_every_n_steps=3).fit(module, data())
    with (Path(logger.log_dir) / "metrics.csv").open(newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["sparsity/actual"]]
    assert steps == [1, 4]  # the 9th and 12th step of the algorithm


class Fails(Callback):
    """A callback that fails a given number of times in one of its hooks."""

    def __init__(self, hook, times):
        self.times = times
        setattr(self, hook, self.fail)

    def fail(self, *args, **kwargs):
        if self.times:
            self.times -= 1
            raise RuntimeError("as told")


@pytest.mark.parametrize("is_told", [True, False])
def test_a_setup_that_failed_leaves_nothing_behind(tmp_path, is_told):
    def failing(sparsity, times):
        run = trainer(tmp_path, sparsity, 2, Fails("setup", times), enable_checkpointing=False)
        if not is_told:  # callbacks after this one do not see the first exception
            run.callbacks.insert(0, Fails("on_exception", times))
        return run

    module, first = Evaluated(), rigl()
    with pytest.raises(RuntimeError, match="as told"):
        failing(first, 1).fit(module, data())
    assert is_told == ("setup" not in vars(module))
    run = trainer(tmp_path, rigl(), 2)
    run.fit(module, data())
    assert not first.sparse_params
    run.save_checkpoint(path := tmp_path / "last.ckpt")

    dense, evaluating = Evaluated(), failing(rigl(), 2)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="as told"):
            evaluating.test(dense, data(), verbose=False)
    evaluating.test(dense, data(), ckpt_path=path, verbose=False)
    assert_same(dict(dense.state_dict()), dict(module.state_dict()))
    assert not {"setup", "on_load_checkpoint"} & vars(dense).keys()


def test_a_fit_that_fails_stops_logging(tmp_path):
    sparsity, options = rigl(), {"logger": CSVLogger(tmp_path), "log_every_n_steps": 1}
    fails = Fails("on_train_batch_end", 1)
    with pytest.raises(RuntimeError, match="as told"):
        trainer(tmp_path, sparsity, 5, fails, **options).fit(Plain(), data())
    assert sparsity.step == 1
    assert not sparsity._hooks.has("end")


def test_evaluating_sparsifies_only_to_load_a_checkpoint(tmp_path):
    run = trainer(tmp_path, sparsity := rigl(), 4)
    run.fit(trained := Evaluated(), data())
    run.save_checkpoint(path := tmp_path / "last.ckpt")

    dense = Evaluated()
    trainer(tmp_path, rigl(), 1).test(dense, data(), verbose=False)
    assert dense.net[0].weight.all()
    loaded = rigl()
    trainer(tmp_path, loaded, 1).test(dense, data(), ckpt_path=path, verbose=False)
    assert_same(dict(dense.state_dict()), dict(trained.state_dict()))
    assert_same(masks_of(loaded), masks_of(sparsity))

    without = Plain.load_from_checkpoint(path, strict=False, weights_only=True)
    assert torch.equal(without.net[0].weight, trained.net[0].weight)
    assert list(without.state_dict()) == list(Plain().state_dict())


def test_the_state_of_another_algorithm_is_refused(tmp_path):
    run = trainer(tmp_path, sparse.SET(sparsity=0.5), 2)
    run.fit(Plain(), data())
    run.save_checkpoint(path := tmp_path / "last.ckpt")
    with pytest.raises(StateError, match=r"state of RigL: it was saved by 'SET'$"):
        trainer(tmp_path, rigl(), 3).fit(Plain(), data(), ckpt_path=path)


def test_a_strategy_that_shards_weights_is_refused():
    from lightning.pytorch.strategies import FSDPStrategy

    class Sharding:  # the attributes that the callback reads; a real one needs two GPUs
        strategy = FSDPStrategy(accelerator=None)

    with pytest.raises(
        AttachError,
        match=r"FSDPStrategy: it shards weights, .*; use ddp$",
    ):
        SparsityCallback(rigl()).setup(Sharding, nn.Module(), "fit")


DDP = """
import sys
import torch
sys.path[:0] = {folders!r}
from test_lightning import Plain, batch, rigl, trainer
from torch.utils.data import DataLoader, TensorDataset

sparsity = rigl()
rows = TensorDataset(torch.stack([batch(i, 8) for i in range(96)]))
run = trainer(".", sparsity, 10, strategy="ddp", devices=2, log_every_n_steps=1)
module = Plain()
run.fit(module, DataLoader(rows, batch_size=4))
state = dict(module.state_dict())
torch.save({{"state": state, "step": sparsity.step}}, f"rank{{run.global_rank}}.pt")
"""


@pytest.mark.slow
def test_masks_and_weights_are_equal_on_both_ranks(tmp_path):
    """In two processes with half of the data each, RigL scores the averaged gradient."""
    script = DDP.format(folders=[str(Path(__file__).parents[level]) for level in (0, 1)])
    run_script(script, tmp_path)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert first["step"] == second["step"] == 10
    assert_same(first["state"], second["state"])
    start = SparsityCallback(rigl()).sparsity
    start.apply(module := Plain())
    mask = first["state"]["net.0.weight_mask"]
    assert mask.sum() == 64
    assert not torch.equal(mask, module.net[0].weight_mask)
