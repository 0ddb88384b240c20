"""A linear layer of which some blocks are kept."""

from typing import Any, Self

import torch
from torch import nn
from torch.nn.utils import skip_init

from rmtnet.layers.kernels import BlockIndex, block_index
from rmtnet.layers.sparse_products import block_sparse_linear


class BlockSparseLinear(nn.Module):
    """A linear layer whose weight matrix is zero but for some of the blocks of a grid, stored as dense blocks.

    Each row of blocks starts as :class:`torch.nn.Linear` of its own fan-in does, the inputs of its kept blocks: weights
    and bias uniform with the variance ``1 / (3 fan_in)``.  Outputs of a row without blocks are their bias, at first 0.

    Blocks can be removed while the layer trains: they count as zero, whatever an optimizer writes into them, and no
    shape changes until the layer is packed.

    Parameters
    ----------
    in_features : a multiple of the mask's columns
    out_features : a multiple of the mask's rows
    mask : (grid rows, grid columns) bool tensor, array or nested list
        True where a block is, ``r = out_features / rows`` outputs by ``c = in_features / columns`` inputs.

    Attributes
    ----------
    weight : (nnz, r, c), the blocks row by row of the mask
    bias : (out_features,) or None
    block_row, block_col : (nnz,) int64, place of each block on the grid
    kept : (nnz,) bool, False for removed blocks

    Raises
    ------
    TypeError
        If the mask is neither bool nor made of integers.
    ValueError
        If the mask is no table, holds no block, or does not divide the layer.

    References
    ----------
    Learning block-sparse networks (slides), the recurrent weights; block sparsity of any mask.

    Examples
    --------
    >>> layer = BlockSparseLinear(6, 4, mask=[[True, False, True], [False, False, True]])
    >>> layer.weight.shape, layer.density, layer(torch.ones(64, 6)).shape
    (torch.Size([3, 2, 2]), 0.5, torch.Size([64, 4]))
    """

    bias: nn.Parameter | None
    block_row: torch.Tensor
    block_col: torch.Tensor
    kept: torch.Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        mask: Any,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        table = checked_mask(mask, in_features, out_features)
        self.grid = (table.shape[0], table.shape[1])
        block_row, block_col = table.nonzero().T.contiguous().to(device)
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        height, width = out_features // self.grid[0], in_features // self.grid[1]
        self.weight = nn.Parameter(torch.empty(len(block_row), height, width, **options))
        self.bias = nn.Parameter(torch.empty(out_features, **options)) if bias else None
        self.register_buffer("block_row", block_row)
        self.register_buffer("block_col", block_col)
        self.register_buffer("kept", torch.ones_like(block_row, dtype=torch.bool))
        self._index_blocks()
        self.reset_parameters()

    def _index_blocks(self) -> None:
        for name, part in block_index(self.block_row, self.block_col, *self.grid)._asdict().items():
            self.register_buffer(f"_index_{name}", part, persistent=False)

    @property
    def _index(self) -> BlockIndex:
        return BlockIndex(*(getattr(self, f"_index_{name}") for name in BlockIndex._fields))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._index_blocks()  # blocks may stand elsewhere now

    @property
    def density(self) -> float:
        """Share of the grid's blocks that are kept."""
        return self.kept.sum().item() / (self.grid[0] * self.grid[1])

    def reset_parameters(self) -> None:
        """Draw weights and bias anew; removed blocks stay removed."""
        draw_by_fan_in(self.weight, self.bias, self.block_row, self.grid[0])
        with torch.no_grad():
            self.weight.masked_fill_(~self.kept[:, None, None], 0)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., in_features) -> (..., out_features)."""
        return block_sparse_linear(input, self.weight, self.bias, self._index, self.kept)

    def extra_repr(self) -> str:
        blocks, height, width = self.weight.shape
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"blocks={blocks} of {height} x {width}, bias={self.bias is not None}"
        )

    @torch.no_grad()
    def remove_blocks(self, which: torch.Tensor) -> None:
        """Set blocks to zero for good; ``which`` is (nnz,) bool, True for those to remove."""
        if which.dtype != torch.bool or which.shape != self.kept.shape:
            raise ValueError(
                f"which must tell True or False for each of the {len(self.kept)} blocks, "
                f"got {which.dtype} of shape {tuple(which.shape)}"
            )
        which = which.to(self.kept.device)
        self.weight.masked_fill_(which[:, None, None], 0)
        self.kept.masked_fill_(which, False)

    @classmethod
    def from_linear(cls, linear: nn.Linear, mask: Any) -> Self:
        """The blocks of a dense layer that a mask keeps (copied); weights off them are dropped."""
        weight = linear.weight
        check_finite(linear)
        layer = cls(
            linear.in_features,
            linear.out_features,
            mask,
            bias=linear.bias is not None,
            device=weight.device,
            dtype=weight.dtype,
        )
        with torch.no_grad():
            layer.weight.copy_(cut(weight, layer.block_row, layer.block_col, layer.grid))
            if layer.bias is not None:
                layer.bias.copy_(linear.bias)
                layer.bias.requires_grad_(linear.bias.requires_grad)
        layer.weight.requires_grad_(weight.requires_grad)
        return layer

    @torch.no_grad()
    def to_dense(self) -> nn.Linear:
        """The same map as a dense layer, with zeros where no block is kept."""
        weight = self.weight
        # Not drawn: looking at a layer must not change the random numbers that a training draws next.
        dense = skip_init(
            nn.Linear,
            self.in_features,
            self.out_features,
            bias=self.bias is not None,
            device=weight.device,
            dtype=weight.dtype,
        )
        alive = torch.where(self.kept[:, None, None], weight, 0)
        dense.weight.copy_(scattered(alive, self.block_row, self.block_col, self.grid))
        if self.bias is not None:
            dense.bias.copy_(self.bias)
        return dense


@torch.no_grad()
def draw_by_fan_in(weight: torch.Tensor, bias: torch.Tensor | None, block_row: torch.Tensor, rows: int) -> None:
    """Draw blocks and bias uniformly, each row of blocks with the variance ``1 / (3 fan_in)`` of its own fan-in."""
    if weight.is_meta:
        return
    blocks = torch.bincount(block_row, minlength=rows)
    bound = torch.where(blocks > 0, (blocks * weight.shape[2]).rsqrt(), 0).to(weight.dtype)
    weight.uniform_(-1, 1).mul_(bound[block_row][:, None, None])
    if bias is not None:
        bias.uniform_(-1, 1).mul_(bound.repeat_interleave(weight.shape[1]))


def cut(matrix: torch.Tensor, row: torch.Tensor, col: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """The (nnz, r, c) blocks at some places of a matrix (grid rows * r, grid columns * c), copied."""
    height, width = (size // blocks for size, blocks in zip(matrix.shape, grid, strict=True))
    return matrix.unflatten(1, (-1, width)).unflatten(0, (-1, height)).transpose(1, 2)[row, col]


def scattered(blocks: torch.Tensor, row: torch.Tensor, col: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """(nnz, r, c) blocks at their places in a matrix (grid rows * r, grid columns * c) that is zero elsewhere."""
    table = blocks.new_zeros(*grid, *blocks.shape[1:])
    table[row, col] = blocks
    return table.transpose(1, 2).flatten(2).flatten(0, 1)


def checked_mask(mask: Any, inputs: int, outputs: int) -> torch.Tensor:
    """The mask as a bool tensor on the CPU, if it can cut ``outputs`` x ``inputs`` into blocks."""
    table = mask.detach().cpu() if isinstance(mask, torch.Tensor) else torch.as_tensor(mask, device="cpu")
    if table.is_floating_point() or table.is_complex():
        raise TypeError(f"mask must be bool, got {table.dtype}")
    if table.ndim != 2:
        raise ValueError(f"mask must be a table, a row for each row of blocks, got shape {tuple(table.shape)}")
    for what, size, blocks in zip(("outputs", "inputs"), (outputs, inputs), table.shape, strict=True):
        if size < 1 or blocks < 1 or size % blocks:
            raise ValueError(f"the mask cuts {what} into {blocks} blocks, which does not divide {size}")
    if not table.any():
        raise ValueError("mask keeps no block: a layer needs one at least")
    return table != 0


def check_finite(layer: nn.Module) -> None:
    """Refuse a trained layer whose weights or bias are no numbers any more."""
    for name, parameter in layer.named_parameters(recurse=False):
        if not parameter.isfinite().all():
            raise ValueError(f"the layer's {name} holds NaN or infinity: did training diverge?")
