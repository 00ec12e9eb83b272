"""What a module knows of its sparse weights, and how it loads them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Container
from contextlib import nullcontext
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from sparsewright.core.inference import outside_inference_mode
from sparsewright.formats.names import MASK_SUFFIX
from sparsewright.kernels import sharded
from sparsewright.layers import shown_name
from sparsewright.session.gradient_hook import parameter_of
from sparsewright.session.loaded_masks import note_kept, note_made_anew
from sparsewright.session.parameter import SparseParameter
from sparsewright.storage import Storage, hold
from sparsewright.storage.dense import is_mask_of

_ATTRIBUTE = "_sparse_sites"


class Site:
    """The place of one sparse weight in its module, and the hooks that load it.

    The module keeps its sparse parameter alive, and with it the algorithm. A copy of the module
    takes its sites along, without the parameter: the copy's weight is still pruned by its own mask
    after loading.
    """

    def __init__(self, param_name: str) -> None:
        self.param_name = param_name
        self.parameter: SparseParameter | None = None
        self._handles: list[RemovableHandle] = []
        self._was_dense = self._is_dense = self._is_missing = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Site:
        new = memo[id(self)] = Site(self.param_name)
        new._handles = copy.deepcopy(self._handles, memo)
        return new

    def _storage(self, module: nn.Module) -> Storage:
        if self.parameter is not None:
            return self.parameter.storage
        return hold(module, self.param_name, "masked", "", {})

    def before(
        self, module: nn.Module, state_dict: dict[str, Any], prefix: str, *rest: Any
    ) -> None:
        """Let a dense checkpoint in."""
        weight = prefix + shown_name(module, self.param_name)
        self._is_dense = weight in state_dict and weight + MASK_SUFFIX not in state_dict
        self._is_missing = not self._is_dense and weight + MASK_SUFFIX not in state_dict
        storage = self._storage(module)
        storage.end_interrupted()
        if self.parameter is not None:  # the last time may have been interrupted
            session = self.parameter.rule.session
            storage.after_load(session.states_not_loaded(self.parameter))
        self._was_dense = storage.before_load(state_dict, prefix, rest[-1])

    @outside_inference_mode()
    def after(self, module: nn.Module, incompatible_keys: Any) -> None:
        """Prune the weight that was loaded; a run at step 0 makes its mask anew from it."""
        if self._is_missing:
            return
        parameter, storage = self.parameter, self._storage(module)
        if parameter is None:
            storage.prune(storage.param)
            return
        session = parameter.rule.session
        storage.after_load(session.states_not_loaded(parameter))
        is_unused = parameter.is_pristine and session.counter.furthest == 0
        if self._was_dense and (is_unused or not parameter.is_initialized):
            before = sharded.local(parameter.mask).clone()
            was_initialized, parameter.is_initialized = parameter.is_initialized, False
            parameter.initialize()
            if was_initialized and parameter.is_initialized:
                note_made_anew(session, parameter, before)
        else:
            parameter.is_initialized = True
            parameter.is_pristine &= self._was_dense
            parameter.prune_all()
            if is_unused and self._is_dense and not self._was_dense:  # it has no room for another
                note_kept(session, parameter)
        storage.recount()
        session.refresh(parameter)


class _Sites(dict[str, Site]):
    """The sites of a module by the names of its parameters; a pickle has none of them."""

    def __reduce__(self) -> tuple[type[dict[str, Site]], tuple[()]]:
        return dict, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Sites:
        return _Sites({name: copy.deepcopy(site, memo) for name, site in self.items()})


class _LoadHook:
    """A hook of ours on the loading of a module.

    In a pickle it does nothing: the model can be loaded where this library is not installed.
    """

    def __init__(self, method: Callable[..., None]) -> None:
        self._method = method

    def __call__(self, *args: Any) -> None:
        self._method(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> _LoadHook:
        return _LoadHook(copy.deepcopy(self._method, memo))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, str]]:
        return getattr, (nullcontext(), "__exit__")  # takes any arguments, and returns None


def _sites_of(module: nn.Module) -> _Sites:
    sites = vars(module).get(_ATTRIBUTE)
    return sites if isinstance(sites, _Sites) else _Sites()


def holder_of(module: nn.Module, param_name: str) -> SparseParameter | None:
    """Return the sparse parameter made of a parameter, here or in a module that shares it."""
    site = _sites_of(module).get(param_name)
    if site is not None and site.parameter is not None:
        return site.parameter
    own = dict(module._parameters.items())  # that of a TorchScript module is no dict
    param = own.get(param_name)
    return None if param is None else parameter_of(param)


def settle(parameter: SparseParameter) -> None:
    """Give a sparse parameter its site, that of a copied module if there is one."""
    module, param_name = parameter.module, parameter.storage.param_name
    sites = _sites_of(module)
    setattr(module, _ATTRIBUTE, sites)
    site = sites.setdefault(param_name, Site(param_name))
    site.parameter = parameter
    if not site._handles:
        site._handles = [
            module.register_load_state_dict_pre_hook(_LoadHook(site.before)),
            module.register_load_state_dict_post_hook(_LoadHook(site.after)),
        ]


def vacate(module: nn.Module, param_name: str) -> None:
    """Take a site off its module."""
    sites = _sites_of(module)
    site = sites.pop(param_name, None)
    if site is not None:
        for handle in site._handles:
            handle.remove()
    if not sites:
        vars(module).pop(_ATTRIBUTE, None)


class TiedSite:
    """Prunes a weight once more when a module that shares it has loaded it after its owner.

    A copy of the model does without.
    """

    def __init__(self, parameter: SparseParameter | None = None) -> None:
        self.parameter = parameter

    def __deepcopy__(self, memo: dict[int, Any]) -> TiedSite:
        return TiedSite()

    def after(self, module: nn.Module, incompatible_keys: Any) -> None:
        """Prune the weight that was loaded."""
        parameter = self.parameter
        if parameter is not None and parameter.is_attached:
            parameter.prune_all()


def tie(parameter: SparseParameter, module: nn.Module) -> RemovableHandle:
    """Keep a weight sparse when another module that shares it loads a state dict."""
    hook = _LoadHook(TiedSite(parameter).after)
    handle: RemovableHandle = module.register_load_state_dict_post_hook(hook)
    return handle


def drop_masks(model: nn.Module, among: Container[int] | None = None) -> bool:
    """Take masks that no algorithm has off a model; return whether there were any.

    Args:
        model: the model.
        among: ids of parameters; None: all.
    """
    found = False
    for module in model.modules():
        buffers = dict(module._buffers.items())
        for name, param in module._parameters.items():
            mask = buffers.get(name + MASK_SUFFIX)
            if param is None or mask is None or not is_mask_of(mask, param):
                continue
            if (among is None or id(param) in among) and holder_of(module, name) is None:
                vacate(module, name)
                del module._buffers[name + MASK_SUFFIX]
                found = True
    return found
