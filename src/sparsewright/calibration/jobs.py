"""Jobs: the weights to prune, each with the entry of the config that prunes it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from sparsewright.calibration.entries import Entry
from sparsewright.calibration.inputs import inputs_of
from sparsewright.calibration.method import Layer
from sparsewright.calibration.methods.sparsegpt import reconstruct
from sparsewright.calibration.target import Target, layers_by_weight
from sparsewright.core.structure import Structure
from sparsewright.errors import AttachError, ScoreError, ShapeError
from sparsewright.kernels import sharded
from sparsewright.session.parameter import SparseParameter

_DAMPING = 0.01  # of `reconstruct` for methods other than SparseGPT


class Job:
    """A weight to prune.

    Args:
        target: the weight, with the statistics of its inputs.
        parameter: its sparse parameter, which receives the mask.
        entry: its entry in the config.

    Raises:
        ShapeError, IncompatibleOptionError: the method does not work with the structure.
    """

    def __init__(self, target: Target, parameter: SparseParameter, entry: Entry) -> None:
        self.target, self.parameter, self.entry = target, parameter, entry
        self._before: Tensor | None = None
        structure, shape = self._structure, target.param.shape
        if structure is not None:
            try:
                entry.method.check_structure(structure, shape[1:] if self._is_stack else shape)
            except ShapeError as error:
                raise ShapeError(target.name, error.shape, error.problem) from None

    @property
    def level(self) -> Tensor:
        """Return the level of the weight, 0..1, as a 0-d tensor."""
        return self.parameter.rule.level_at(self.parameter, 0)

    @property
    def _is_stack(self) -> bool:
        return self.target.shapes.is_stack

    @property
    def _structure(self) -> Structure | None:
        """Return the structure for this weight; None if the method divides the weight itself."""
        if self.entry.has_own_structure:
            return None
        structure = self.parameter.structure
        if self._is_stack:
            return structure.with_dims(*self.target.shapes.dims)
        return structure

    def prune(self, level: Tensor) -> None:
        """Compute the mask and the new weight, and apply them.

        Args:
            level: fraction of entries to prune, 0..1.

        Raises:
            ScoreError: the weight contains NaN.
        """
        target, method = self.target, self.entry.method
        weight = target.shapes.matrix(target.param.detach()).to(target.dtype)
        statistics = target.inputs if self.entry.needs_data else None
        layer = Layer(target.name, weight, target.shapes, level, self._structure, statistics)
        try:
            found = method.prune(layer)
            if self.entry.reconstruct and found.weight is None:
                found = reconstruct(layer, found.mask, _DAMPING)
        except ScoreError:
            raise ScoreError(f"the score of {target.name}") from None
        self._before = target.param.detach().to("cpu", copy=True)
        # A connection that grows starts at 0, so the mask comes first.
        self.parameter.change_mask(target.shapes.weight(found.mask).contiguous())
        if found.weight is not None:
            with torch.no_grad():
                target.param.copy_(target.shapes.weight(found.weight))

    def restore(self) -> None:
        """Put the weight back that the job has changed."""
        if self._before is not None:
            with torch.no_grad():
                self.target.param.copy_(self._before)


def restore(jobs: Iterable[Job]) -> None:
    """Put all weights back."""
    for job in jobs:
        job.restore()


def make_jobs(
    model: nn.Module, entries: Sequence[Entry], parameters: Iterable[SparseParameter]
) -> list[Job]:
    """Return a job for each sparse parameter.

    Raises:
        AttachError: a weight is sharded, compressed or has no data.
    """
    layers, jobs = layers_by_weight(model), []
    for parameter in parameters:
        param = parameter.param
        _check(parameter)
        entry = next(entry for entry in entries if entry.algorithm is parameter.rule)
        # Its own layer comes first: a layer that shares the weight may multiply it differently.
        own = [
            parameter.module,
            *(each for each in layers[id(param)] if each is not parameter.module),
        ]
        shapes = inputs_of(parameter.module, parameter.storage.param_name, param)
        target = Target(parameter.name, param, own, shapes, entry.needs_products)
        jobs.append(Job(target, parameter, entry))
    return jobs


def _check(parameter: SparseParameter) -> None:
    """Raise AttachError if a weight cannot be pruned in one shot."""
    if parameter.is_compressed:
        raise AttachError(parameter.name, "it is compressed; call sparsewright.decompress first")
    if sharded.is_sharded(parameter.param):
        raise AttachError(parameter.name, "it is sharded; prune the model before you shard it")
    if parameter.param.is_meta:
        raise AttachError(parameter.name, "it has no data; load the model first")
    if parameter.param.is_complex():
        raise AttachError(parameter.name, "it is complex; exclude it with param_filter")
