"""What is added to the loss so that weights become small enough to be removed.

These functions are differentiable, and the definitions of what :mod:`rmtnet.pruning` adds to a loss.
"""

import torch


def l1(weight: torch.Tensor) -> torch.Tensor:
    """Sum of ``|W_ij|``; its gradient at 0 is 0."""
    return weight.abs().sum(dtype=_wide(weight))


def off_block_l1(weight: torch.Tensor, blocks: int) -> torch.Tensor:
    """Sum of ``|W_ij|`` over the entries off ``blocks`` equal diagonal blocks of ``weight`` (out, in).

    References
    ----------
    Paper A, eq. 1; its indicator is printed inverted.
    """
    outside = torch.ones_like(weight)
    diagonal_blocks(outside, blocks).zero_()
    return l1(weight * outside)


def l2(weight: torch.Tensor) -> torch.Tensor:
    """Half the sum of ``W_ij^2``: alpha times this is weight decay alpha."""
    return 0.5 * weight.square().sum(dtype=_wide(weight))


def block_norms(weight: torch.Tensor, block: tuple[int, int] | None = None) -> torch.Tensor:
    """L2 norm of each block.

    Parameters
    ----------
    weight : (block, out, in), or (out, in) with the size ``block`` = (r, c) of its blocks

    Returns
    -------
    (block,), or (out / r, in / c), in float32 at least; the gradient of the norm of a block of zeros is 0
    """
    if block is None:
        return torch.linalg.vector_norm(weight, dim=(1, 2), dtype=_wide(weight))
    return torch.linalg.vector_norm(cells(weight, block), dim=(1, 3), dtype=_wide(weight))


def cells(matrix: torch.Tensor, block: tuple[int, int]) -> torch.Tensor:
    """(out, in) as (out / r, r, in / c, c)."""
    return matrix.unflatten(0, (-1, block[0])).unflatten(2, (-1, block[1]))


def diagonal_blocks(matrix: torch.Tensor, blocks: int) -> torch.Tensor:
    """View (block, out / blocks, in / blocks) of the diagonal blocks of (out, in)."""
    grid = matrix.unflatten(0, (blocks, -1)).unflatten(2, (blocks, -1))
    return grid.diagonal(dim1=0, dim2=2).movedim(-1, 0)


def _wide(weight: torch.Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)
