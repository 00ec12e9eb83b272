"""Layers as matrix products: the weight as matrices, and the inputs of each matrix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from sparsewright.layers.dims import dims_of_layer


class LayerInputs(ABC):
    """Convert between a weight and its matrices `[groups, outputs, features]`.

    Each matrix multiplies inputs `[groups, tokens, features]`. Features that are neighbors along
    the input dimension of the weight are neighbors in the matrices too.

    Args:
        layer: the module that holds the weight.
        param: the weight.

    Attributes:
        is_stack: whether the weight holds one matrix for each index of dimension 0, as in a
            mixture of experts. Each of them is then a weight of its own.
        has_argument: whether the input is the argument of the layer's forward pass. Else it is
            found where the weight is multiplied.
    """

    is_stack: ClassVar[bool] = False
    has_argument: ClassVar[bool] = False

    def __init__(self, layer: nn.Module, param: Tensor) -> None:
        self.layer, self.shape = layer, param.shape

    @property
    def dims(self) -> tuple[int, int]:
        """Return the output and the input dimension of a matrix of a stack."""
        return 0, 1

    @staticmethod
    @abstractmethod
    def fits(layer: nn.Module, param_name: str, param: Tensor) -> bool:
        """Return whether this class describes a weight."""

    @abstractmethod
    def matrix(self, weight: Tensor) -> Tensor:
        """Return a weight-shaped tensor as `[groups, outputs, features]`."""

    @abstractmethod
    def weight(self, matrix: Tensor) -> Tensor:
        """Return `[groups, outputs, features]` in the weight's shape."""

    def features(self, x: Tensor) -> Tensor:
        """Return the input of the layer as `[groups, tokens, features]`."""
        raise NotImplementedError

    def note_order(self, product: Tensor) -> None:
        """Note how a matrix is stored, from the factor `[..., features, outputs]` of a product."""
        return


class LinearInputs(LayerInputs):
    """The inputs of `nn.Linear`, which stores (outputs, inputs)."""

    has_argument: ClassVar[bool] = True

    @staticmethod
    def fits(layer: nn.Module, param_name: str, param: Tensor) -> bool:
        """Return whether the weight belongs to an `nn.Linear`."""
        return isinstance(layer, nn.Linear) and param_name == "weight"

    def matrix(self, weight: Tensor) -> Tensor:
        """Return one matrix."""
        return weight.unsqueeze(0)

    def weight(self, matrix: Tensor) -> Tensor:
        """Return the matrix."""
        return matrix.squeeze(0)

    def features(self, x: Tensor) -> Tensor:
        """Return the tokens of all samples in one dimension."""
        return x.reshape(1, -1, x.shape[-1])


class Conv1DInputs(LinearInputs):
    """The inputs of transformers' `Conv1D`, a linear layer that stores (inputs, outputs)."""

    @staticmethod
    def fits(layer: nn.Module, param_name: str, param: Tensor) -> bool:
        """Return whether the weight belongs to a `Conv1D`."""
        return param.ndim == 2 and dims_of_layer(type(layer), param_name) == (1, 0)

    def matrix(self, weight: Tensor) -> Tensor:
        """Return one matrix, transposed."""
        return weight.t().unsqueeze(0)

    def weight(self, matrix: Tensor) -> Tensor:
        """Return the transposed matrix."""
        return matrix.squeeze(0).t()


class Conv2dInputs(LayerInputs):
    """The inputs of `nn.Conv2d`: the patch of the image under the kernel, for each position.

    The features of a patch are ordered by kernel position and then by channel.
    """

    has_argument: ClassVar[bool] = True

    @staticmethod
    def fits(layer: nn.Module, param_name: str, param: Tensor) -> bool:
        """Return whether the weight belongs to an `nn.Conv2d`."""
        return isinstance(layer, nn.Conv2d) and param_name == "weight" and param.ndim == 4

    def matrix(self, weight: Tensor) -> Tensor:
        """Return one matrix for each group of channels."""
        groups = self._conv.groups
        return weight.movedim(1, -1).reshape(groups, weight.shape[0] // groups, -1)

    def weight(self, matrix: Tensor) -> Tensor:
        """Return the matrices in the shape (outputs, inputs, height, width)."""
        outputs, inputs, *kernel = self.shape
        return matrix.reshape(outputs, *kernel, inputs).movedim(-1, 1)

    def features(self, x: Tensor) -> Tensor:
        """Return the patches of all images."""
        conv, images = self._conv, x if x.ndim == 4 else x.unsqueeze(0)
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        images = F.pad(images, _padding(conv), mode)
        patches = F.unfold(images, conv.kernel_size, conv.dilation, 0, conv.stride)
        inputs, positions = self.shape[1], conv.kernel_size[0] * conv.kernel_size[1]
        split = patches.reshape(len(images), conv.groups, inputs, positions, -1)
        return split.permute(1, 0, 4, 3, 2).reshape(conv.groups, -1, positions * inputs)

    @property
    def _conv(self) -> nn.Conv2d:
        assert isinstance(self.layer, nn.Conv2d)
        return self.layer


def _padding(conv: nn.Conv2d) -> list[int]:
    """Return the padding of a convolution as `F.pad` expects it: left, right, top, bottom."""
    if conv.padding == "valid":
        return [0, 0, 0, 0]
    if isinstance(conv.padding, str):
        totals = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        sides = [(total // 2, total - total // 2) for total in totals]
    else:
        sides = [(size, size) for size in conv.padding]
    return [size for side in reversed(sides) for size in side]


class MultipliedInputs(LayerInputs):
    """The inputs of any other matrix, or of a stack of matrices such as fused experts.

    Attributes:
        is_inputs_first: whether a matrix is stored as (inputs, outputs). This is known after the
            first multiplication.
    """

    def __init__(self, layer: nn.Module, param: Tensor) -> None:
        super().__init__(layer, param)
        self.is_inputs_first = False

    @staticmethod
    def fits(layer: nn.Module, param_name: str, param: Tensor) -> bool:
        """Return whether the weight is a matrix."""
        return param.ndim == 2

    def matrix(self, weight: Tensor) -> Tensor:
        """Return one matrix, or those of the stack."""
        stored = weight if weight.ndim == 3 else weight.unsqueeze(0)
        return stored.transpose(1, 2) if self.is_inputs_first else stored

    def weight(self, matrix: Tensor) -> Tensor:
        """Return the matrices as the weight stores them."""
        stored = matrix.transpose(1, 2) if self.is_inputs_first else matrix
        return stored.reshape(self.shape)

    def note_order(self, product: Tensor) -> None:
        """Note whether a matrix is stored as (inputs, outputs)."""
        self.is_inputs_first = product.stride(-2) != 1 and product.shape[-1] > 1


class StackInputs(MultipliedInputs):
    """The inputs of the matrices that a weight with three dimensions holds, such as experts."""

    is_stack: ClassVar[bool] = True

    @property
    def dims(self) -> tuple[int, int]:
        """Return the output and the input dimension of each matrix."""
        return (1, 0) if self.is_inputs_first else (0, 1)

    @staticmethod
    def fits(layer: nn.Module, param_name: str, param: Tensor) -> bool:
        """Return whether the weight has three dimensions and does not belong to a convolution."""
        return param.ndim == 3 and not isinstance(layer, nn.Conv1d | nn.ConvTranspose1d)


class UnknownInputs(LayerInputs):
    """A weight whose inputs cannot be observed, as in a transposed or 3-D convolution."""

    @staticmethod
    def fits(layer: nn.Module, param_name: str, param: Tensor) -> bool:
        """Return True; this is the last choice."""
        return True

    def matrix(self, weight: Tensor) -> Tensor:
        """Return one matrix with a row for each index of dimension 0."""
        return weight.reshape(1, weight.shape[0] if weight.ndim else 1, -1)

    def weight(self, matrix: Tensor) -> Tensor:
        """Return the matrix in the weight's shape."""
        return matrix.reshape(self.shape)


ALL: tuple[type[LayerInputs], ...] = (
    *(LinearInputs, Conv1DInputs, Conv2dInputs),
    *(StackInputs, MultipliedInputs, UnknownInputs),
)
"""The kinds of layers, in order of precedence."""


def inputs_of(layer: nn.Module, param_name: str, param: Tensor) -> LayerInputs:
    """Return how a layer multiplies one of its weights."""
    make = next(each for each in ALL if each.fits(layer, param_name, param))
    return make(layer, param)
