"""The dimensions of a layer's weight that hold its outputs and its inputs."""

from __future__ import annotations

from torch import nn

_OUTPUTS_FIRST, _INPUTS_FIRST = (0, 1), (1, 0)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_WEIGHTS = ("weight", "values")  # how the names of a layer's weights begin


def dims_of_layer(layer: type[nn.Module], param_name: str = "weight") -> tuple[int, int]:
    """Return the output and the input dimension of a weight.

    Args:
        layer: class of the layer that multiplies with the weight.
        param_name: name of the weight in its layer or its compressed layer.

    Returns:
        `(1, 0)` for transposed convolutions and for `transformers.pytorch_utils.Conv1D`, which
        store (in, out, ...). `(0, 1)` for all other layers: `nn.Linear`, convolutions, recurrent
        layers and attention store (out, in, ...). The weight of `nn.Embedding` has the tokens in
        dimension 0, as in an output head that is tied to it. Weights of unknown layers count as
        (out, in, ...).

    >>> dims_of_layer(nn.Conv2d), dims_of_layer(nn.ConvTranspose2d)
    ((0, 1), (1, 0))
    """
    is_inputs_first = issubclass(layer, _TRANSPOSED) or any(map(_is_conv1d, layer.__mro__))
    return _INPUTS_FIRST if is_inputs_first and param_name.startswith(_WEIGHTS) else _OUTPUTS_FIRST


def _is_conv1d(layer: type) -> bool:
    """Return whether a class is the linear layer of GPT-2 in transformers."""
    return layer.__name__ == "Conv1D" and layer.__module__.partition(".")[0] == "transformers"
