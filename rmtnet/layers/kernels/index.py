"""Where the blocks of a matrix are, as the kernels want to know it."""

from typing import NamedTuple

import torch
from torch import Tensor


class BlockIndex(NamedTuple):
    """Places of blocks on their grid, by rows of blocks and by columns; int32, on the device of the weight.

    All None is a block diagonal; only the starts are None where each row and column of the grid has one block.

    Attributes
    ----------
    block_row, block_col : (nnz,) place of each block
    row_start : (grid rows + 1,) ``by_row[row_start[i]:row_start[i + 1]]`` are the blocks of row i
    by_row : (nnz,)
    col_start : (grid columns + 1,) likewise, of columns
    by_col : (nnz,)
    """

    block_row: Tensor | None = None
    block_col: Tensor | None = None
    row_start: Tensor | None = None
    by_row: Tensor | None = None
    col_start: Tensor | None = None
    by_col: Tensor | None = None

    def transposed(self) -> "BlockIndex":
        """The index of the transposed matrix, whose blocks keep their order."""
        return BlockIndex(self.block_col, self.block_row, self.col_start, self.by_col, self.row_start, self.by_row)

    def groups(self, blocks: int) -> int:
        """Rows of the grid, of a matrix of so many blocks."""
        return blocks if self.row_start is None else self.row_start.shape[0] - 1


def block_index(block_row: Tensor, block_col: Tensor, rows: int, cols: int) -> BlockIndex:
    """The index of blocks on a grid of ``rows`` x ``cols`` of them, in any order."""
    row_start, by_row = _grouped(block_row, rows)
    col_start, by_col = _grouped(block_col, cols)
    return BlockIndex(block_row.int(), block_col.int(), row_start, by_row, col_start, by_col)


def permuted_diagonal(order: Tensor) -> BlockIndex:
    """The index of a block diagonal whose block i reads slice ``order[i]`` of the inputs."""
    return BlockIndex(block_col=order.int(), by_col=order.argsort().int())


def _grouped(place: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    ordered, order = place.sort(stable=True)
    edges = torch.arange(groups + 1, device=place.device, dtype=place.dtype)
    return torch.searchsorted(ordered, edges).int(), order.int()
