"""Convolutions whose kernels are kept or left out in blocks of channels."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.utils import _pair
from torch.nn.utils import skip_init

from rmtnet.layers.block_sparse import check_finite, checked_mask, cut, draw_by_fan_in, scattered


def block_diagonal_conv(conv: nn.Conv2d, blocks: int) -> nn.Conv2d:
    """The diagonal blocks of a convolution's channels (copied) as a grouped one; kernels off them are dropped.

    Raises
    ------
    ValueError
        If ``blocks`` does not divide both numbers of channels, or the convolution is grouped already.

    Examples
    --------
    >>> block_diagonal_conv(torch.nn.Conv2d(6, 4, 5), 2).weight.shape
    torch.Size([4, 3, 5, 5])
    """
    _check_whole(conv)
    checked_mask(torch.eye(blocks, dtype=torch.bool), conv.in_channels, conv.out_channels)
    grouped = nn.Conv2d(**_like(conv), groups=blocks)
    place = torch.arange(blocks, device=conv.weight.device)
    with torch.no_grad():
        grouped.weight.copy_(cut(conv.weight.flatten(1), place, place, (blocks, blocks)).view_as(grouped.weight))
        if grouped.bias is not None and conv.bias is not None:
            grouped.bias.copy_(conv.bias)
    return grouped


class BlockSparseConv2d(nn.Module):
    """A 2-D convolution of which some blocks of output by input channels are kept, their kernels whole.

    It starts as :class:`torch.nn.Conv2d` does, with the fan-in of the blocks that each row of them keeps, and runs as
    one convolution a row of blocks, of the input channels that the row needs.

    Parameters
    ----------
    in_channels : a multiple of the mask's columns
    out_channels : a multiple of the mask's rows
    kernel_size, stride, padding, dilation : as of :class:`torch.nn.Conv2d`
    mask : (grid rows, grid columns) bool tensor, array or nested list
        True where a block is, ``r = out_channels / rows`` outputs by ``c = in_channels / columns`` inputs.

    Attributes
    ----------
    weight : (nnz, r, c * kernel height * kernel width), the blocks row by row of the mask
    bias : (out_channels,) or None
    block_row, block_col : (nnz,) int64, place of each block on the grid
    in_features, out_features : of the layer as a matrix: in_channels * kernel height * kernel width, out_channels

    Raises
    ------
    TypeError, ValueError
        As :class:`BlockSparseLinear` for the mask.

    Examples
    --------
    >>> layer = BlockSparseConv2d(6, 4, 3, mask=[[True, False, True], [False, False, True]], padding=1)
    >>> layer.weight.shape, layer(torch.ones(1, 6, 8, 8)).shape
    (torch.Size([3, 2, 18]), torch.Size([1, 4, 8, 8]))
    """

    bias: nn.Parameter | None
    block_row: torch.Tensor
    block_col: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        mask: Any,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = _pair(kernel_size)
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.in_features = in_channels * self.kernel_size[0] * self.kernel_size[1]
        self.out_features = out_channels
        table = checked_mask(mask, in_channels, out_channels)
        self.grid = (table.shape[0], table.shape[1])
        block_row, block_col = table.nonzero().T.contiguous().to(device)
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        shape = len(block_row), out_channels // self.grid[0], self.in_features // self.grid[1]
        self.weight = nn.Parameter(torch.empty(*shape, **options))
        self.bias = nn.Parameter(torch.empty(out_channels, **options)) if bias else None
        self.register_buffer("block_row", block_row)
        self.register_buffer("block_col", block_col)
        self._blocks_of_rows = table.sum(1).tolist()
        self.reset_parameters()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._blocks_of_rows = torch.bincount(self.block_row, minlength=self.grid[0]).tolist()

    def reset_parameters(self) -> None:
        """Draw weights and bias anew."""
        draw_by_fan_in(self.weight, self.bias, self.block_row, self.grid[0])

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """([batch,] in_channels, height, width) -> ([batch,] out_channels, height, width)."""
        channels = self.in_channels // self.grid[1]
        slices = input.unflatten(-3, (self.grid[1], channels))
        kernels = self.weight.unflatten(2, (channels, *self.kernel_size)).split(self._blocks_of_rows)
        columns = self.block_col.split(self._blocks_of_rows)
        outputs = [self._row(slices, *row) for row in zip(kernels, columns, self._biases(), strict=True)]
        return torch.cat(outputs, -3)

    def _biases(self) -> Sequence[torch.Tensor | None]:
        return [None] * self.grid[0] if self.bias is None else self.bias.chunk(self.grid[0])

    def _row(
        self, slices: torch.Tensor, kernels: torch.Tensor, columns: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """Output channels of a row of blocks, whose ``kernels`` are (blocks, r, c, kernel height, kernel width)."""
        if not len(kernels):
            # Its bias alone: as a zero kernel, so that there is no second rule for the output's size.
            kernels, columns = kernels.new_zeros(1, *kernels.shape[1:]), columns.new_zeros(1)
        return functional.conv2d(
            slices.index_select(-4, columns).flatten(-4, -3), kernels.transpose(0, 1).flatten(1, 2), bias,
            stride=self.stride, padding=self.padding, dilation=self.dilation,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, blocks={len(self.weight)} of {self.grid[0]} x {self.grid[1]}, "
            f"bias={self.bias is not None}"
        )

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, mask: Any) -> Self:
        """The blocks of a dense convolution that a mask keeps (copied); kernels off them are dropped."""
        _check_whole(conv)
        layer = cls(**_like(conv), mask=mask)
        with torch.no_grad():
            layer.weight.copy_(cut(conv.weight.flatten(1), layer.block_row, layer.block_col, layer.grid))
            if layer.bias is not None and conv.bias is not None:
                layer.bias.copy_(conv.bias)
        return layer

    @torch.no_grad()
    def to_dense(self) -> nn.Conv2d:
        """The same map as a dense convolution, with zeros where no block is."""
        dense = skip_init(nn.Conv2d, **_like(self))
        matrix = scattered(self.weight, self.block_row, self.block_col, self.grid)
        dense.weight.copy_(matrix.view_as(dense.weight))
        if dense.bias is not None and self.bias is not None:
            dense.bias.copy_(self.bias)
        return dense


def _check_whole(conv: nn.Conv2d) -> None:
    """Refuse what is no plain dense convolution."""
    if conv.groups != 1:
        raise ValueError(f"the convolution has {conv.groups} groups already: blocks are cut out of a dense one")
    if conv.padding_mode != "zeros":
        raise ValueError(f"padding_mode must be 'zeros', got {conv.padding_mode!r}")
    check_finite(conv)


def _like(conv: "nn.Conv2d | BlockSparseConv2d") -> dict[str, Any]:
    """Arguments of a convolution of the same size and kind."""
    size = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")
    kind = {"bias": conv.bias is not None, "device": conv.weight.device, "dtype": conv.weight.dtype}
    return {**{name: getattr(conv, name) for name in size}, **kind}
