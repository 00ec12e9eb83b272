"""Keeping weights sparse when their module loads a state dict."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sparsewright.core.errors import ShapeError
from sparsewright.core.packing import MASK_SUFFIX, read_mask
from sparsewright.nn.linear import SparseLinear, carry_over
from sparsewright.runtime.parameter import SparseParameter
from sparsewright.runtime.storage import MaskedStorage, replace_shaped

if TYPE_CHECKING:
    from sparsewright.kernels.csr import Layout
    from sparsewright.runtime.attach import Attachment


class LoadFollower:
    """Keeps one parameter sparse through `load_state_dict`.

    A copy or a pickle of the model takes its follower along without the algorithm: the copy's
    weight is then still pruned by its own mask after loading.
    """

    def __init__(
        self,
        param_name: str,
        parameter: SparseParameter | None = None,
        attachment: Attachment | None = None,
    ) -> None:
        self.param_name = param_name
        self.parameter = parameter
        self._attachment = None if attachment is None else weakref.ref(attachment)
        self._was_dense = self._is_missing = False
        self._layout: Layout | None = None

    def __reduce__(self) -> tuple[type[LoadFollower], tuple[str]]:
        return type(self), (self.param_name,)

    @property
    def attachment(self) -> Attachment | None:
        """Who has the parameter, if it is alive."""
        return None if self._attachment is None else self._attachment()

    def before(
        self, module: nn.Module, state_dict: dict[str, Any], prefix: str, *rest: Any
    ) -> None:
        """Let a dense checkpoint in: a mask that it does not have stays as it is."""
        shown = "weight" if isinstance(module, SparseLinear) else self.param_name
        weight, mask = prefix + shown, prefix + shown + MASK_SUFFIX
        self._is_missing = weight not in state_dict and mask not in state_dict
        if isinstance(module, SparseLinear):
            self._layout = module.layout
            return
        own = module._buffers[self.param_name + MASK_SUFFIX]
        assert own is not None
        self._was_dense = weight in state_dict and mask not in state_dict
        if self._was_dense:
            state_dict[mask] = own
        elif mask in state_dict:
            try:
                state_dict[mask] = read_mask(state_dict[mask], own.shape)
            except ShapeError as error:
                errors: list[str] = rest[-1]
                errors.append(f"{mask}: {error}")
                state_dict[mask] = own  # else torch copies what was refused

    def after(self, module: nn.Module, incompatible_keys: Any) -> None:
        """Prune the weight that was loaded; a run at step 0 makes its mask anew from it."""
        parameter, attachment = self.parameter, self.attachment
        if self._is_missing:
            return
        if parameter is None or attachment is None:
            if not isinstance(module, SparseLinear):
                storage = MaskedStorage(module, self.param_name)
                storage.prune(storage.param)
            return
        if isinstance(module, SparseLinear):
            self._carry_states(module, parameter, attachment)
        is_unused = parameter.is_pristine and attachment.owner.step == 0
        if self._was_dense and (is_unused or not parameter.is_initialized):
            parameter.is_initialized = False
            parameter.initialize()
        else:
            parameter.is_initialized = True
            parameter.is_pristine &= self._was_dense
            parameter.prune_all()
        parameter.storage.recount()
        attachment.follow()

    def _carry_states(
        self, layer: SparseLinear, parameter: SparseParameter, attachment: Attachment
    ) -> None:
        """Let optimizer states follow a compressed layer to the mask that it has loaded.

        A state that was loaded since the last step is of that mask already.
        """
        old, new = self._layout, layer.layout
        if old is not None and old is not new:
            stepped = (o for o in attachment.optimizers if o not in attachment._loaded)
            states = [state for o in stepped for state in parameter.states(o)]
            replace_shaped(states, torch.Size([old.nnz]), carry_over(old, new))
        self._layout = None


class TiedFollower:
    """Prunes a weight once more when a module that shares it has loaded it after its owner.

    A copy or a pickle of the model does without.
    """

    def __init__(self, parameter: SparseParameter | None = None) -> None:
        self.parameter = parameter

    def __reduce__(self) -> tuple[type[TiedFollower], tuple[()]]:
        return type(self), ()

    def after(self, module: nn.Module, incompatible_keys: Any) -> None:
        """Prune the weight that was loaded."""
        if self.parameter is not None:
            self.parameter.prune_all()


def _followers(hooks: dict[int, Any], param_name: str) -> dict[int, LoadFollower]:
    """The followers of one parameter among a module's load hooks, by the key of the hook."""
    found = {}
    for key, hook in hooks.items():
        follower = getattr(getattr(hook, "hook", hook), "__self__", None)
        if isinstance(follower, LoadFollower) and follower.param_name == param_name:
            found[key] = follower
    return found


def attached_to(module: nn.Module, param_name: str) -> tuple[SparseParameter, Attachment] | None:
    """The sparse parameter that a living algorithm has made of this parameter, and who has it."""
    for follower in _followers(module._load_state_dict_post_hooks, param_name).values():
        if follower.parameter is not None and follower.attachment is not None:
            return follower.parameter, follower.attachment
    return None


def drop_followers(module: nn.Module, param_name: str) -> None:
    """Take off followers that a copied or loaded model brought along."""
    for hooks in (module._load_state_dict_pre_hooks, module._load_state_dict_post_hooks):
        for key in _followers(hooks, param_name):
            del hooks[key]
