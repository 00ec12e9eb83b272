"""Statistics of a layer's inputs, accumulated over the calibration data."""

from __future__ import annotations

import torch
from torch import Tensor


class InputStatistics:
    """Sums over the inputs x of a layer, for each group of its inputs.

    Groups are those of a convolution or the experts of a stack; other layers have one group.

    Args:
        groups: number of groups.
        features: number of input features in each group.
        like: tensor with the dtype (float32 or float64) and the device of the statistics.
        with_products: whether to sum products of features too.

    Attributes:
        tokens: number of inputs: int64 `[groups]` on the CPU.
        samples: number of sequences or images that the inputs belong to.
        sums: sum of x: float64 `[groups, features]`.
        squares: sum of x**2: float64 `[groups, features]`.
        products: sum of `x x^T`: `[groups, features, features]`; None without `with_products`.
    """

    def __init__(self, groups: int, features: int, like: Tensor, with_products: bool) -> None:
        self.tokens = torch.zeros(groups, dtype=torch.int64, device="cpu")
        self.samples = 0
        self.sums = like.new_zeros((groups, features), dtype=torch.float64)
        self.squares = torch.zeros_like(self.sums)
        self.products = like.new_zeros((groups, features, features)) if with_products else None
        self._dtype = like.dtype

    def add(self, x: Tensor, samples: int, group: int | None = None) -> None:
        """Add inputs.

        Args:
            x: `[groups, tokens, features]`, or with a group `[1, tokens, features]`.
            samples: number of sequences or images that they belong to.
            group: the only group that has these inputs; None: all groups.
        """
        at = slice(None) if group is None else slice(group, group + 1)
        x = x.detach().to(self._dtype)
        self.tokens[at] += x.shape[1]
        self.samples += samples
        self.sums[at] += x.sum(1, dtype=torch.float64)
        self.squares[at] += x.square().sum(1, dtype=torch.float64)
        if self.products is not None:
            self.products[at] += x.transpose(1, 2) @ x

    @property
    def is_finite(self) -> bool:
        """Return whether all inputs were finite, and their squares too."""
        return bool(self.squares.isfinite().all())

    @property
    def norms(self) -> Tensor:
        """Return the L2 norm of each feature over all inputs: float64 `[groups, features]`."""
        return self.squares.sqrt()

    @property
    def variances(self) -> Tensor:
        """Return the biased variance of each feature: float64 `[groups, features]`."""
        tokens = self.tokens.clamp(min=1).to(self.sums.device).unsqueeze(1)
        return (self.squares / tokens - (self.sums / tokens).square()).clamp(min=0)

    def fill_unseen(self) -> None:
        """Treat the features of groups without inputs as orthonormal.

        The norm of each feature is then 1, so scores rank the weights of such a group by |w|.
        """
        unseen = (self.tokens == 0).to(self.squares.device)
        self.squares[unseen] = 1
        if self.products is not None:
            size = self.products.shape[-1]
            self.products[unseen] = torch.eye(
                size, dtype=self.products.dtype, device=self.products.device
            )
