"""The undocumented parts of trainers that the integrations use, one test for each function."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import TrainerState
from transformers.trainer_callback import ExportableState

from sparsewright.integrations import trainer_private

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        # Warnings of Lightning 2.6 with torch 2.13, and its advice for such small runs.
        r"`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning:lightning",
        r".*does not have many workers:lightning.pytorch.utilities.warnings.PossibleUserWarning",
    )
]


class Small(LightningModule):
    """Two layers with one optimizer each, so that a batch has two of Lightning's global steps."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        self.calls = []

    def setup(self, stage):
        self.calls.append("setup " + stage)

    def on_load_checkpoint(self, checkpoint):
        self.calls.append("load")

    def configure_optimizers(self):
        return [torch.optim.SGD(layer.parameters(), 0.1) for layer in self.net]

    def training_step(self, batch, index):
        loss = self.net(batch[0]).pow(2).mean()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()
        self.log("loss", loss)

    def test_step(self, batch, index):
        return None


class Recorder(Logger):
    """A logger that records the step of each log, and `logged_step` at that time."""

    name, version = "recorder", 0

    def __init__(self):
        super().__init__()
        self.trainer, self.steps = None, []

    def log_metrics(self, metrics, step=None):
        self.steps.append((step, trainer_private.logged_step(self.trainer)))

    def log_hyperparams(self, *args, **kwargs):
        pass


def data():
    return DataLoader(TensorDataset(torch.ones(16, 4)), batch_size=4)


def make_trainer(folder, **options):
    return Trainer(
        max_epochs=1,
        accelerator="cpu",
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"logger": False, "enable_checkpointing": False, **options},
    )


def test_after_hook(tmp_path):
    module, trainer = Small(), make_trainer(tmp_path)
    trainer_private.after_hook(module, "setup", lambda: module.calls.append("given up"))
    trainer_private.after_hook(module, "setup", lambda: module.calls.append("then"))
    trainer.fit(module, data())
    assert module.calls == ["setup fit", "then"]
    trainer.save_checkpoint(tmp_path / "checkpoint")
    trainer_private.after_hook(module, "on_load_checkpoint", lambda: module.calls.append("loaded"))
    module.calls.clear()
    trainer.test(module, data(), ckpt_path=tmp_path / "checkpoint", verbose=False)
    assert module.calls == ["setup test", "load", "loaded"]
    assert not {"setup", "on_load_checkpoint"} & vars(module).keys()


def test_forget_hooks(tmp_path):
    module = Small()
    trainer_private.after_hook(module, "setup", lambda: module.calls.append("then"))
    trainer_private.forget_hooks(module, "setup", "on_load_checkpoint")
    make_trainer(tmp_path).fit(module, data())
    assert module.calls == ["setup fit"]


def test_log_interval(tmp_path):
    assert trainer_private.log_interval(make_trainer(tmp_path, log_every_n_steps=7)) == 7


def test_logged_step(tmp_path):
    recorder = Recorder()
    recorder.trainer = make_trainer(tmp_path, logger=recorder, log_every_n_steps=1)
    recorder.trainer.fit(Small(), data())
    assert recorder.steps == [(step, step) for step in range(4)]
    assert recorder.trainer.global_step == 8


def test_saved_state(tmp_path):
    """The file contains the state under its own key, as of the time of writing."""

    class Exported(ExportableState):
        def state(self):
            return {"args": {}, "attributes": {}}

    state, now = TrainerState(stateful_callbacks=[Exported()]), {"step": 3, "levels": [0.5, None]}
    assert trainer_private.saved_state(state, "sparsity") is None
    trainer_private.save_later(state, "sparsity", lambda: dict(now))
    assert trainer_private.saved_state(state, "sparsity") is None  # nothing is saved yet
    path = str(tmp_path / "state.json")
    for step in (3, 4):
        now["step"] = step
        state.save_to_json(path)
        loaded = TrainerState.load_from_json(path)
        assert loaded.stateful_callbacks.keys() == {"sparsity", "Exported"}
        assert trainer_private.saved_state(loaded, "sparsity") == now
