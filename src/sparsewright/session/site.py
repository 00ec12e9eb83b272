"""What a module knows of its sparse weights, and how it loads them."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from sparsewright.formats.names import MASK_SUFFIX
from sparsewright.kernels import sharded
from sparsewright.layers import shown_name
from sparsewright.session.loaded_masks import note_kept, note_made_anew
from sparsewright.session.parameter import SparseParameter
from sparsewright.storage import Storage, hold

if TYPE_CHECKING:
    from sparsewright.session.session import Session

_ATTRIBUTE = "_sparse_sites"


class Site:
    """The place of one sparse weight in its module: who has it, and the hooks that load it.

    A copy or a pickle of the module takes its sites along, without the session: the copy's weight
    is then still pruned by its own mask after loading.
    """

    def __init__(self, param_name: str) -> None:
        self.param_name = param_name
        self.parameter: SparseParameter | None = None
        self._session: weakref.ref[Session] | None = None
        self._handles: list[RemovableHandle] = []
        self._was_dense = self._is_dense = self._is_missing = False

    def __getstate__(self) -> dict[str, Any]:
        left = {"parameter": None, "_session": None}
        return {**vars(self), **left}

    @property
    def session(self) -> Session | None:
        """Who has the weight, if it is alive."""
        return None if self._session is None else self._session()

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
        if self.parameter is not None and self.session is not None:
            storage.after_load(self.session.states_not_loaded(self.parameter))  # interrupted before
        self._was_dense = storage.before_load(state_dict, prefix, rest[-1])

    def after(self, module: nn.Module, incompatible_keys: Any) -> None:
        """Prune the weight that was loaded; a run at step 0 makes its mask anew from it."""
        if self._is_missing:
            return
        parameter, session, storage = self.parameter, self.session, self._storage(module)
        if parameter is None or session is None:
            storage.prune(storage.param)
            return
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
            if is_unused and parameter.is_compressed and self._is_dense:
                note_kept(session, parameter)
        storage.recount()
        session.refresh(parameter)


def site_of(module: nn.Module, param_name: str) -> Site | None:
    """Return the site of one of a module's parameters, if it has been sparse."""
    sites: dict[str, Site] = vars(module).get(_ATTRIBUTE, {})
    return sites.get(param_name)


def holder_of(module: nn.Module, param_name: str) -> tuple[SparseParameter, Session] | None:
    """Return the sparse parameter made of a parameter, and its session, if that is alive."""
    site = site_of(module, param_name)
    if site is None or site.parameter is None or site.session is None:
        return None
    return site.parameter, site.session


def settle(parameter: SparseParameter, session: Session) -> None:
    """Give a sparse parameter its site, that of a copied module if there is one."""
    module, param_name = parameter.module, parameter.storage.param_name
    sites: dict[str, Site] = vars(module).setdefault(_ATTRIBUTE, {})
    site = sites.setdefault(param_name, Site(param_name))
    site.parameter, site._session = parameter, weakref.ref(session)
    if not site._handles:
        site._handles = [
            module.register_load_state_dict_pre_hook(site.before),
            module.register_load_state_dict_post_hook(site.after),
        ]


def vacate(module: nn.Module, param_name: str) -> None:
    """Take a site off its module."""
    sites: dict[str, Site] = vars(module).get(_ATTRIBUTE, {})
    site = sites.pop(param_name, None)
    if site is not None:
        for handle in site._handles:
            handle.remove()
    if not sites:
        vars(module).pop(_ATTRIBUTE, None)


class TiedSite:
    """Prunes a weight once more when a module that shares it has loaded it after its owner.

    A copy or a pickle of the model does without.
    """

    def __init__(
        self, parameter: SparseParameter | None = None, session: Session | None = None
    ) -> None:
        self.parameter = parameter
        self._session = None if session is None else weakref.ref(session)

    def __reduce__(self) -> tuple[type[TiedSite], tuple[()]]:
        return type(self), ()

    def after(self, module: nn.Module, incompatible_keys: Any) -> None:
        """Prune the weight that was loaded."""
        session = None if self._session is None else self._session()
        parameter = self.parameter
        if parameter is None or session is None:
            return
        if session.parameters.get(parameter.name) is parameter:
            parameter.prune_all()
