"""The block diagonal inner product (BDIP) layer."""

import math
from typing import Any, Self

import torch
from torch import nn

from rmtnet.layers.functional import block_diagonal_linear


class BlockDiagonalLinear(nn.Module):
    """An inner product layer whose weight matrix is block diagonal with equal blocks.

    It holds ``1 / blocks`` of the weights of :class:`torch.nn.Linear`, stored as dense blocks, and starts as that layer
    does: uniform with the variance ``1 / (3 fan_in)``, where the fan-in is the block's.

    Parameters
    ----------
    in_features, out_features : multiples of ``blocks``
    blocks : number of blocks on the diagonal; 1 is a dense layer

    Attributes
    ----------
    weight : (blocks, out_features / blocks, in_features / blocks)
    bias : (out_features,) or None
    block_row, block_col : place of each block on the grid of blocks, (i, i)

    Raises
    ------
    ValueError
        If a size is below 1 or ``blocks`` does not divide it.

    References
    ----------
    Block diagonal inner product layers, section 3 (method 1).

    Examples
    --------
    >>> layer = BlockDiagonalLinear(800, 500, blocks=10)
    >>> layer.weight.shape, layer(torch.ones(64, 800)).shape
    (torch.Size([10, 50, 80]), torch.Size([64, 500]))
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        blocks: int,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        for name, size in (("blocks", blocks), ("in_features", in_features), ("out_features", out_features)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
            if size % blocks:
                raise ValueError(f"blocks must divide {name}: {blocks} does not divide {size}")
        self.in_features, self.out_features, self.blocks = in_features, out_features, blocks
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.empty(blocks, out_features // blocks, in_features // blocks, **options))
        self.bias = nn.Parameter(torch.empty(out_features, **options)) if bias else None
        self.reset_parameters()

    @property
    def block_row(self) -> range:
        return range(self.blocks)

    @property
    def block_col(self) -> range:
        return range(self.blocks)

    def reset_parameters(self) -> None:
        """Draw weights and bias anew, as :class:`torch.nn.Linear` of a block's size does."""
        bound = 1 / math.sqrt(self.weight.shape[-1])
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., in_features) -> (..., out_features)."""
        return block_diagonal_linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"blocks={self.blocks}, bias={self.bias is not None}"
        )

    @classmethod
    def from_linear(cls, linear: nn.Linear, blocks: int) -> Self:
        """The diagonal blocks of a dense layer (copied); weights off the blocks are dropped."""
        weight = linear.weight
        layer = cls(
            linear.in_features,
            linear.out_features,
            blocks,
            bias=linear.bias is not None,
            device=weight.device,
            dtype=weight.dtype,
        )
        with torch.no_grad():
            grid = weight.reshape(blocks, linear.out_features // blocks, blocks, linear.in_features // blocks)
            layer.weight.copy_(grid.diagonal(dim1=0, dim2=2).movedim(-1, 0))
            if layer.bias is not None:
                layer.bias.copy_(linear.bias)
        return layer

    def to_dense(self) -> nn.Linear:
        """The same map as a dense layer, with zeros off the blocks."""
        weight = self.weight
        dense = nn.Linear(
            self.in_features,
            self.out_features,
            bias=self.bias is not None,
            device=weight.device,
            dtype=weight.dtype,
        )
        with torch.no_grad():
            dense.weight.copy_(torch.block_diag(*weight))
            if self.bias is not None:
                dense.bias.copy_(self.bias)
        return dense
