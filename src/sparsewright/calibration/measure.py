"""Measurement of the inputs of a model's layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from torch import nn

from sparsewright.calibration.batches import read_batches
from sparsewright.calibration.input_statistics import InputStatistics
from sparsewright.calibration.inputs import inputs_of
from sparsewright.calibration.quiet import quiet
from sparsewright.calibration.replay import Replay, forward_by_default
from sparsewright.calibration.target import Target, layers_by_weight
from sparsewright.calibration.watch import watching
from sparsewright.core.filters import FilterLike, default_sparse_param_filter, make_param_filter
from sparsewright.core.inference import outside_inference_mode
from sparsewright.session.roles import Picker
from sparsewright.session.walk import named_weights

Batch = TypeVar("Batch")


def statistics(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    forward: Callable[[nn.Module, Batch], object] | None = None,
    param_filter: FilterLike = default_sparse_param_filter,
    products: bool = False,
) -> dict[str, InputStatistics]:
    """Return statistics of the inputs of each layer, from one pass over the data.

    The data runs in eval mode and without gradients, and leaves no trace in the model.

    Args:
        model: the model.
        batches: the data, as for `oneshot`.
        forward: as for `oneshot`.
        param_filter: picks the weights by full name, as for `configure`.
        products: whether to sum products of features too, `[features, features]` for each layer.

    Returns:
        `{full name of the weight: statistics}`.

    Raises:
        OptionTypeError: an argument has the wrong type.
        MissingOptionError: there are no batches.
        CalibrationError: the data does not fit the model.
    """
    data = read_batches(batches, "statistics")
    picker, layers = Picker(model, [make_param_filter(param_filter)]), layers_by_weight(model)
    targets = [
        Target(name, param, layers[id(param)], inputs_of(owner, own, param), products)
        for name, owner, own, param, why in named_weights(model)
        if why is None and picker.first(name, param) is not None
    ]
    replay = Replay(model, data, forward or forward_by_default)
    with outside_inference_mode(), quiet(model), watching(targets, lambda: replay.padding):
        replay.run()
    return {target.name: target.inputs for target in targets}
