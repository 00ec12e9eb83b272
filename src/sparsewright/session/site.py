"""Hooks that keep a module's weights sparse when it loads a state dict."""

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
    """The link from a module to one of its sparse weights, with the load hooks for this weight.

    Through its sites, a module keeps its sparse parameters and their algorithm alive. A copied
    module has sites without a sparse parameter. After loading, the copy's weight is still pruned
    with the copy's mask.
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
        """Prepare the module for a state dict with or without a mask."""
        weight = prefix + shown_name(module, self.param_name)
        self._is_dense = weight in state_dict and weight + MASK_SUFFIX not in state_dict
        self._is_missing = not self._is_dense and weight + MASK_SUFFIX not in state_dict
        storage = self._storage(module)
        storage.end_interrupted()
        if self.parameter is not None:  # the previous load may have been interrupted
            session = self.parameter.rule.session
            storage.after_load(session.states_not_loaded(self.parameter))
        self._was_dense = storage.before_load(state_dict, prefix, rest[-1])

    @outside_inference_mode()
    def after(self, module: nn.Module, incompatible_keys: Any) -> None:
        """Prune the loaded weight; before the first step, recompute its mask if none was loaded."""
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
            # A compressed weight cannot change its mask here.
            if is_unused and self._is_dense and not self._was_dense:
                note_kept(session, parameter)
        storage.recount()
        session.refresh(parameter)


class _Sites(dict[str, Site]):
    """The sites of a module by parameter name; they are left out of pickles."""

    def __reduce__(self) -> tuple[type[dict[str, Site]], tuple[()]]:
        return dict, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Sites:
        return _Sites({name: copy.deepcopy(site, memo) for name, site in self.items()})


class _LoadHook:
    """A hook on the loading of a module.

    A pickled hook does nothing, so the model can be unpickled without this library.
    """

    def __init__(self, method: Callable[..., None]) -> None:
        self._method = method

    def __call__(self, *args: Any) -> None:
        self._method(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> _LoadHook:
        return _LoadHook(copy.deepcopy(self._method, memo))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, str]]:
        return getattr, (nullcontext(), "__exit__")  # accepts any arguments and returns None


def _sites_of(module: nn.Module) -> _Sites:
    sites = vars(module).get(_ATTRIBUTE)
    return sites if isinstance(sites, _Sites) else _Sites()


def holder_of(module: nn.Module, param_name: str) -> SparseParameter | None:
    """Return the sparse parameter of a parameter, even if another module that shares it owns it."""
    site = _sites_of(module).get(param_name)
    if site is not None and site.parameter is not None:
        return site.parameter
    own = dict(module._parameters.items())  # not a dict in a TorchScript module
    param = own.get(param_name)
    return None if param is None else parameter_of(param)


def settle(parameter: SparseParameter) -> None:
    """Connect a sparse parameter to its site; a copied module already has one."""
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
    """Remove a site from its module."""
    sites = _sites_of(module)
    site = sites.pop(param_name, None)
    if site is not None:
        for handle in site._handles:
            handle.remove()
    if not sites:
        vars(module).pop(_ATTRIBUTE, None)


class TiedSite:
    """Prune a shared weight when a module other than its owner loads it.

    In a copied model it does nothing.
    """

    def __init__(self, parameter: SparseParameter | None = None) -> None:
        self.parameter = parameter

    def __deepcopy__(self, memo: dict[int, Any]) -> TiedSite:
        return TiedSite()

    def after(self, module: nn.Module, incompatible_keys: Any) -> None:
        """Prune the loaded weight."""
        parameter = self.parameter
        if parameter is not None and parameter.is_attached:
            parameter.prune_all()


def tie(parameter: SparseParameter, module: nn.Module) -> RemovableHandle:
    """Keep a weight sparse when another module that shares it loads a state dict."""
    hook = _LoadHook(TiedSite(parameter).after)
    handle: RemovableHandle = module.register_load_state_dict_post_hook(hook)
    return handle


def drop_masks(model: nn.Module, among: Container[int] | None = None) -> bool:
    """Remove masks that belong to no algorithm; return whether there were any.

    Args:
        model: the model.
        among: ids of the parameters to consider. Default: all parameters.
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
