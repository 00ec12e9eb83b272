"""A program in the style of the documented Model Zoo callbacks, with only its import changed.

It uses these features as documented: the Trainer's hooks (`setup`, `on_train_start`,
`on_after_optimizer_step`, `on_save_checkpoint`, `on_load_checkpoint`), `model.apply(sparsity)`,
`optimizer.apply(sparsity)`, the algorithm's hooks and its state.
Sources: "Customizing the Trainer with Callbacks", "Sparsifying models" (training-docs.cerebras.ai).
"""

import torch
from torch import nn

import sparsewright as sparse  # was: import cerebras.pytorch.sparse as sparse


class Callback:
    """The hooks of a trainer that this program uses."""

    def setup(self, trainer): ...

    def on_train_start(self, trainer): ...

    def on_after_optimizer_step(self, trainer): ...

    def on_save_checkpoint(self, trainer, state_dict): ...

    def on_load_checkpoint(self, trainer, state_dict): ...


class Sparsity(Callback):
    """Sparsify the model and the optimizer of a trainer."""

    def __init__(self, **config):
        self.sparsity = sparse.configure(config)
        self.handles = []

    def setup(self, trainer):
        trainer.model.apply(self.sparsity)
        trainer.optimizer.apply(self.sparsity)

    def on_train_start(self, trainer):
        while self.handles:
            self.handles.pop().remove()

        def target(sparsity, name, level):
            trainer.log(f"sparsity/{name}/target", level)

        def computed(sparsity, name, level):
            trainer.log(f"sparsity/{name}/actual", level)

        self.handles.append(self.sparsity.register_target_sparsity_hook(target))
        self.handles.append(self.sparsity.register_computed_sparsity_hook(computed))

    def on_save_checkpoint(self, trainer, state_dict):
        state_dict["sparsity"] = self.sparsity.state_dict()

    def on_load_checkpoint(self, trainer, state_dict):
        if "sparsity" in state_dict:
            self.sparsity.load_state_dict(state_dict["sparsity"])


class CountPruned(Callback):
    """Read weights and masks of all sparse parameters through the documented methods."""

    def on_after_optimizer_step(self, trainer):
        sparsity = trainer.callbacks[0].sparsity
        for parameter in sparsity.get_sparse_params(trainer.model):
            alive = parameter.data[~parameter.mask].count_nonzero()
            trainer.log(f"alive though pruned/{parameter.name}", alive)


class Trainer:
    """Train a model and call the hooks in the documented order."""

    def __init__(self, model, optimizer, callbacks):
        self.model, self.optimizer, self.callbacks = model, optimizer, callbacks
        self.step, self.metrics = 0, {}
        self.call("setup")

    def call(self, hook, *args):
        for callback in self.callbacks:
            getattr(callback, hook)(self, *args)

    def log(self, name, value):
        self.metrics.setdefault(name, []).append(float(value))

    def fit(self, batches, until):
        self.call("on_train_start")
        for step in range(self.step, until):
            self.optimizer.zero_grad()
            x, y = batches[step % len(batches)]
            nn.functional.cross_entropy(self.model(x), y).backward()
            self.optimizer.step()
            self.step += 1
            self.call("on_after_optimizer_step")

    def save(self, path):
        state_dict = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "global_step": self.step,
        }
        self.call("on_save_checkpoint", state_dict)
        torch.save(state_dict, path)

    def load(self, path):
        state_dict = torch.load(path)
        self.model.load_state_dict(state_dict["model"])
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.step = state_dict["global_step"]
        self.call("on_load_checkpoint", state_dict)
