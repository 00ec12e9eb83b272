"""A weight to prune: its layer, its options, and the statistics of its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsewright.calibration.input_statistics import InputStatistics
from sparsewright.calibration.inputs import LayerInputs


@dataclass(eq=False)
class Target:
    """A weight whose inputs are observed.

    Attributes:
        name: full name of the weight.
        param: the weight.
        layers: the modules that hold it; several if it is tied.
        shapes: converts between the weight and its matrices.
        needs_products: whether to sum products of features.
        statistics: statistics of the inputs; None before the first input.
    """

    name: str
    param: nn.Parameter
    layers: Sequence[nn.Module]
    shapes: LayerInputs
    needs_products: bool = False
    statistics: InputStatistics | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype for computations: float64 for float64 weights, else float32."""
        return torch.promote_types(self.param.dtype, torch.float32)

    @property
    def inputs(self) -> InputStatistics:
        """Return the statistics, which are created when they are first used."""
        if self.statistics is None:
            groups, _, features = self.shapes.matrix(self.param).shape
            like = self.param.detach().new_empty(0, dtype=self.dtype)
            self.statistics = InputStatistics(groups, features, like, self.needs_products)
        return self.statistics

    def see_argument(self, x: Tensor, padding: Tensor | None) -> None:
        """Add the argument of a layer's forward pass.

        Args:
            x: the argument.
            padding: mask of the batch, 0 for padding; used if x has one row for each of its
                entries.
        """
        samples = len(x)
        if padding is not None:
            is_real = padding.to(x.device) != 0
            if x.shape[:-1] == is_real.shape:
                x = x[is_real]
            elif x.ndim == 2 and len(x) == is_real.numel():
                x = x[is_real.flatten()]
        self.inputs.add(self.shapes.features(x), samples)

    def see_product(self, weight: Tensor, x: Tensor, ends: Tensor | None) -> None:
        """Add the other factor of a product `x @ weight`.

        A product with only a part of a matrix is ignored.

        Args:
            weight: `[k, n]` or `[b, k, n]`, the matrices of this weight or one of them.
            x: `[m, k]` or `[b, m, k]`.
            ends: for a grouped product, the end of each matrix's rows in x.
        """
        if weight.ndim == 3 and weight.stride(0) == 0:  # a matrix that is expanded to a batch
            weight, x = weight[0], x.flatten(0, 1)
        number = self.shapes.shape[0] if self.shapes.is_stack else 1
        size = self.param.numel() // number
        if weight.shape[-2] * weight.shape[-1] != size:
            return
        if self.statistics is None:
            self.shapes.note_order(weight)
        if weight.ndim == 2:
            place = (weight.storage_offset() - self.param.storage_offset()) // size
            self.inputs.add(x.unsqueeze(0), len(x), place)
        elif ends is None:
            self.inputs.add(x, x.shape[1])
        else:
            start = 0
            for group, end in enumerate(ends.tolist()):
                self.inputs.add(x[start:end].unsqueeze(0), end - start, group)
                start = end


def layers_by_weight(model: nn.Module) -> Mapping[int, Sequence[nn.Module]]:
    """Return the modules that hold each parameter, by the parameter's id."""
    found: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for param in module._parameters.values():
            found.setdefault(id(param), []).append(module)
    return found
