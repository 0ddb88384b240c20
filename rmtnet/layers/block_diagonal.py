"""The block diagonal inner product (BDIP) layer."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from operator import index
from typing import Any, Self

import torch
from torch import Tensor, nn

from rmtnet.layers.functional import (
    block_diagonal_linear,
    interleave,
    reorder,
    unequal_block_diagonal_linear,
)

SHUFFLES = (None, "random", "interleave")
ACTIVATIONS = ("relu", "sigmoid", "tanh")


class BlockDiagonalLinear(nn.Module):
    """An inner product layer whose weight matrix is block diagonal.

    It holds ``1 / blocks`` of the weights of :class:`torch.nn.Linear`, stored as dense blocks, and starts as that layer
    does: uniform with the variance ``1 / (3 fan_in)``, where the fan-in is the block's. Inputs that are feature-major
    in memory (:func:`rmtnet.layers.functional.feature_major`) give outputs that are so too.

    Parameters
    ----------
    in_features, out_features : at least 1
    blocks : their number, which divides both sizes (1 is a dense layer), or the (height, width) of each
    shuffle : None, "random" or "interleave", of equal blocks

        - "random": block i reads slice i of the inputs in evaluation, and in training the slice that a new permutation
          gives it at every pass, from torch's global generator (of the input's device).
        - "interleave": ShuffleNet's, in training and evaluation alike: output k of block g becomes output g of group k,
          at k * blocks + g. The bias is in the order of the blocks, and moves with them.
    activation : None, "relu", "sigmoid", "tanh" or a function of the output

    Attributes
    ----------
    weight : (blocks, largest height, largest width), zero where a block is smaller, and there without gradient
    bias : (out_features,) or None
    block_row, block_col : place of each block on the grid of blocks, (i, i); before an interleaving
    block_height, block_width : size of each block

    Raises
    ------
    ValueError
        If a size is below 1, the blocks do not fill the layer exactly, or a shuffle or activation is unknown.

    References
    ----------
    Block diagonal inner product layers, sections 3 (method 1) and 4.2 (shuffles).

    Examples
    --------
    >>> layer = BlockDiagonalLinear(800, 500, blocks=10)
    >>> layer.weight.shape, layer(torch.ones(64, 800)).shape
    (torch.Size([10, 50, 80]), torch.Size([64, 500]))
    >>> BlockDiagonalLinear(5, 4, blocks=[(1, 2), (3, 3)]).weight.shape
    torch.Size([2, 3, 3])
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        blocks: int | Sequence[tuple[int, int]],
        bias: bool = True,
        *,
        shuffle: str | None = None,
        activation: str | Callable[[Tensor], Tensor] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        sizes = _block_sizes(in_features, out_features, blocks)
        self.in_features, self.out_features, self.blocks = in_features, out_features, len(sizes)
        self.block_height = tuple(height for height, _ in sizes)
        self.block_width = tuple(width for _, width in sizes)
        self._equal = len(set(sizes)) == 1
        if shuffle not in SHUFFLES:
            raise ValueError(f"shuffle must be one of {', '.join(map(repr, SHUFFLES))}, got {shuffle!r}")
        if shuffle and not self._equal:
            raise ValueError(f"shuffle={shuffle!r} needs equal blocks, got {sizes}")
        if not callable(activation) and activation is not None and activation not in ACTIVATIONS:
            raise ValueError(f"activation must be a function or one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        self.shuffle, self.activation = shuffle, activation
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        shape = len(sizes), max(self.block_height), max(self.block_width)
        self.weight = nn.Parameter(torch.empty(shape, **options))
        self.bias = nn.Parameter(torch.empty(out_features, **options)) if bias else None
        self.reset_parameters()

    @property
    def block_row(self) -> range:
        return range(self.blocks)

    @property
    def block_col(self) -> range:
        return range(self.blocks)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw weights and bias anew, as :class:`torch.nn.Linear` of a block's size does."""
        if self._equal:
            self._draw(self.weight, self.bias)
            return
        self.weight.zero_()
        biases = [None] * self.blocks if self.bias is None else self.bias.split(self.block_height)
        for block, bias in zip(self._cropped(), biases, strict=True):
            self._draw(block, bias)

    @staticmethod
    def _draw(weight: Tensor, bias: Tensor | None) -> None:
        bound = 1 / math.sqrt(weight.shape[-1])
        weight.uniform_(-bound, bound)
        if bias is not None:
            bias.uniform_(-bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        if self.shuffle == "random" and self.training:
            input = reorder(input, torch.randperm(self.blocks, device=input.device))
        if self._equal:
            output = block_diagonal_linear(input, self.weight, self.bias)
        else:
            output = unequal_block_diagonal_linear(input, self.weight, self.bias, self.block_height, self.block_width)
        if self.shuffle == "interleave":
            output = interleave(output, self.blocks)
        return self._activated(output)

    def _activated(self, output: Tensor) -> Tensor:
        if isinstance(self.activation, str):
            # In place where no gradient will ask for what it replaces.
            name = self.activation if torch.is_grad_enabled() else f"{self.activation}_"
            activated: Tensor = getattr(torch, name)(output)
            return activated
        return output if self.activation is None else self.activation(output)

    def extra_repr(self) -> str:
        blocks = self.blocks if self._equal else list(zip(self.block_height, self.block_width, strict=True))
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, blocks={blocks}, "
            f"bias={self.bias is not None}"
            + (f", shuffle={self.shuffle!r}" if self.shuffle else "")
            + (f", activation={self.activation!r}" if isinstance(self.activation, str) else "")
        )

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        blocks: int | Sequence[tuple[int, int]],
        *,
        shuffle: str | None = None,
        activation: str | Callable[[Tensor], Tensor] | None = None,
    ) -> Self:
        """The blocks of a dense layer (copied); weights off the blocks are dropped."""
        weight, bias = linear.weight, linear.bias
        layer = cls(
            linear.in_features,
            linear.out_features,
            blocks,
            bias=bias is not None,
            shuffle=shuffle,
            activation=activation,
            device=weight.device,
            dtype=weight.dtype,
        )
        with torch.no_grad():
            # Outputs of an interleaved layer go back to where their blocks have them.
            back = layer.out_features // layer.blocks if shuffle == "interleave" else 1
            for block, dense in zip(layer._cropped(), layer._diagonal(interleave(weight.mT, back).mT), strict=True):
                block.copy_(dense)
            if layer.bias is not None:
                layer.bias.copy_(interleave(bias, back))
                layer.bias.requires_grad_(bias.requires_grad)
        layer.weight.requires_grad_(weight.requires_grad)
        return layer

    def to_dense(self) -> nn.Linear:
        """The map in evaluation, without the activation, as a dense layer with zeros off the blocks."""
        weight, bias = self.weight, self.bias
        dense: nn.Linear = nn.utils.skip_init(
            nn.Linear,
            self.in_features,
            self.out_features,
            bias=bias is not None,
            device=weight.device,
            dtype=weight.dtype,
        )
        with torch.no_grad():
            matrix = torch.block_diag(*self._cropped())
            groups = self.blocks if self.shuffle == "interleave" else 1
            dense.weight.copy_(interleave(matrix.mT, groups).mT)
            if bias is not None:
                dense.bias.copy_(interleave(bias, groups))
        return dense

    def _cropped(self) -> Iterator[Tensor]:
        """The blocks without their padding."""
        for block, height, width in zip(self.weight, self.block_height, self.block_width, strict=True):
            yield block[:height, :width]

    def _diagonal(self, matrix: Tensor) -> Iterator[Tensor]:
        """The places of the blocks in an (out_features, in_features) matrix."""
        ends = zip(accumulate(self.block_height), accumulate(self.block_width), strict=True)
        for height, width, (row, column) in zip(self.block_height, self.block_width, ends, strict=True):
            yield matrix[row - height : row, column - width : column]


def _block_sizes(in_features: int, out_features: int, blocks: int | Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """(height, width) of each block, checked."""
    for name, size in (("in_features", in_features), ("out_features", out_features)):
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    if not isinstance(blocks, Sequence):
        return _equal_sizes(in_features, out_features, index(blocks))
    for place, (height, width) in enumerate(blocks):
        if min(index(height), index(width)) < 1:
            raise ValueError(f"block {place} must be at least 1 x 1, got {height} x {width}")
    filled = sum(height for height, _ in blocks), sum(width for _, width in blocks)
    if filled != (out_features, in_features):
        wanted = f"(out_features, in_features) = ({out_features}, {in_features})"
        raise ValueError(f"heights and widths of the blocks must sum to {wanted}, got {filled}")
    return list(blocks)


def _equal_sizes(in_features: int, out_features: int, blocks: int) -> list[tuple[int, int]]:
    if blocks < 1:
        raise ValueError(f"blocks must be at least 1, got {blocks}")
    for name, size in (("in_features", in_features), ("out_features", out_features)):
        if size % blocks:
            raise ValueError(f"blocks must divide {name}: {blocks} does not divide {size}")
    return [(out_features // blocks, in_features // blocks)] * blocks
