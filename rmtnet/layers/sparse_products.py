"""The product of a block-sparse matrix with a batch of inputs, and its gradients.

Large blocks are multiplied one by one, in place on slices of inputs and outputs: nothing is copied.  Smaller ones are
taken some at a time: gather their slices of the inputs, one batched product, add its results to the rows of blocks they
belong to.  Nothing is padded, so any mask goes.  The two operators are each other's derivatives, so derivatives of any
order are products again.
"""

from typing import Any

import torch
from torch import Tensor

from rmtnet.layers.kernels import BlockIndex, available
from rmtnet.layers.kernels import block_sparse as triton_block_sparse

# Measured: docs/layers.md.
LARGE = 2**18
"""Multiplications of a block with a batch from which on a call a block costs less than the copies."""
CHUNK = {"cpu": 2**18, "cuda": 2**26}
"""Entries of the slices and products held at a time; on a CPU 1 MB of float32, for its cache."""


def block_sparse_linear(
    input: Tensor, weight: Tensor, bias: Tensor | None, index: BlockIndex, kept: Tensor | None = None
) -> Tensor:
    """Apply a matrix that is zero but for its blocks.

    Parameters
    ----------
    input : (..., grid columns * c)
    weight : (nnz, r, c)
    bias : (grid rows * r,) or None
    index : :func:`rmtnet.layers.kernels.block_index` of the blocks
    kept : (nnz,) bool, optional
        Blocks that are False count as zero whatever they hold, and so does their gradient.

    Returns
    -------
    (..., grid rows * r), contiguous

    Raises
    ------
    ValueError
        If the input's last axis is not ``grid columns * c``.
    """
    out, features = (
        index.groups(len(weight)) * weight.shape[1],
        index.transposed().groups(len(weight)) * weight.shape[2],
    )
    if input.shape[-1:] != (features,):
        raise ValueError(f"the input's last axis must be {features}, got a tensor of {tuple(input.shape)}")
    input, weight, bias = _cast_for_autocast(input, weight, bias)
    if input.is_cuda and available(input, weight):
        return triton_block_sparse(input, weight, bias, index, kept=kept)
    if kept is not None and input.device.type != "cpu":
        # To ask which blocks are kept would wait for the device.
        weight, kept = torch.where(kept[:, None, None], weight, 0), None
    rows = input.reshape(-1, features)
    output: Tensor = _product(rows, weight, bias, index.block_row, index.block_col, kept, out)
    return output.view(*input.shape[:-1], out)


def _cast_for_autocast(input: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    device = input.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return input, weight, bias
    if torch.float64 in (input.dtype, weight.dtype):
        return input, weight, bias
    dtype = torch.get_autocast_dtype(device)
    return input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


@torch.library.custom_op("rmtnet::block_sparse_product", mutates_args=())
def _product(
    input: Tensor, weight: Tensor, bias: Tensor | None, row: Tensor, col: Tensor, kept: Tensor | None, out_features: int
) -> Tensor:
    """(batch, in), (nnz, r, c) -> (batch, out)."""
    batch, (_, height, width) = len(input), weight.shape
    if input.device.type == "cpu" and input.itemsize >= 4 and batch * height * width >= LARGE:
        return _one_by_one(input.contiguous(), weight, bias, row, col, kept, out_features)
    slices = _slices(input, width)
    sums = _start(input, bias, out_features // height, height)
    for chunk in _chunks(row, kept, batch * (height + width)):
        products = torch.bmm(slices.index_select(0, col[chunk]), weight[chunk].mT)
        sums.index_add_(0, row[chunk], products.to(sums.dtype))
    return sums.transpose(0, 1).reshape(batch, out_features).to(input.dtype)


def _one_by_one(
    input: Tensor, weight: Tensor, bias: Tensor | None, row: Tensor, col: Tensor, kept: Tensor | None, out_features: int
) -> Tensor:
    output = input.new_zeros(len(input), out_features) if bias is None else bias.repeat(len(input), 1)
    inputs, outputs = input.split(weight.shape[2], 1), output.split(weight.shape[1], 1)
    alive = [True] * len(row) if kept is None else kept.tolist()
    for block, i, j, is_kept in zip(weight.mT.unbind(), row.tolist(), col.tolist(), alive, strict=True):
        if is_kept:
            outputs[i].addmm_(inputs[j], block)
    return output


@torch.library.custom_op("rmtnet::block_sparse_outer", mutates_args=())
def _outer(
    left: Tensor, right: Tensor, row: Tensor, col: Tensor, kept: Tensor | None, height: int, width: int
) -> Tensor:
    """(batch, out), (batch, in) -> (nnz, height, width): blocks of ``left.T @ right``, zero where they are removed."""
    lefts, rights = _slices(left, height), _slices(right, width)
    blocks = left.new_empty(len(row), height, width)
    for chunk in _chunks(row, kept, len(left) * (height + width)):
        blocks[chunk] = torch.bmm(lefts.index_select(0, row[chunk]).mT, rights.index_select(0, col[chunk]))
    if kept is not None:
        blocks[~kept] = 0
    return blocks


def _slices(input: Tensor, width: int) -> Tensor:
    """(batch, places * width) -> (places, batch, width)."""
    return input.unflatten(1, (input.shape[1] // width, width)).transpose(0, 1).contiguous()


def _start(input: Tensor, bias: Tensor | None, rows: int, height: int) -> Tensor:
    """(rows, batch, height) sums that hold the bias; in float32 at least, for many blocks may add up."""
    dtype = torch.promote_types(input.dtype, torch.float32)
    if bias is None:
        return input.new_zeros(rows, len(input), height, dtype=dtype)
    return bias.to(dtype).view(rows, 1, height).repeat(1, len(input), 1)


def _chunks(row: Tensor, kept: Tensor | None, entries: int) -> list[slice] | tuple[Tensor, ...]:
    """Which blocks are taken together, removed ones never; ``entries`` is what one block needs."""
    size = max(1, CHUNK.get(row.device.type, CHUNK["cuda"]) // max(1, entries))
    if kept is None or kept.all():
        return [slice(start, start + size) for start in range(0, len(row), size)]
    return kept.nonzero().flatten().split(size)


@_product.register_fake
def _(
    input: Tensor, weight: Tensor, bias: Tensor | None, row: Tensor, col: Tensor, kept: Tensor | None, out_features: int
) -> Tensor:
    return input.new_empty(input.shape[0], out_features)


@_outer.register_fake
def _(left: Tensor, right: Tensor, row: Tensor, col: Tensor, kept: Tensor | None, height: int, width: int) -> Tensor:
    return left.new_empty(row.shape[0], height, width)


def _keep_for_product(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, _, row, col, kept, _ = inputs
    ctx.save_for_backward(input, weight, row, col, kept)


def _product_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    input, weight, row, col, kept = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    return (
        _product(grad, weight.mT, None, col, row, kept, input.shape[1]) if wanted[0] else None,
        _outer(grad, input, row, col, kept, *weight.shape[1:]) if wanted[1] else None,
        grad.sum(0) if wanted[2] else None,
        *(None,) * 4,
    )


def _keep_for_outer(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])


def _outer_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    left, right, row, col, kept = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    return (
        _product(right, grad, None, row, col, kept, left.shape[1]) if wanted[0] else None,
        _product(left, grad.mT, None, col, row, kept, right.shape[1]) if wanted[1] else None,
        *(None,) * 5,
    )


_product.register_autograd(_product_gradients, setup_context=_keep_for_product)
_outer.register_autograd(_outer_gradients, setup_context=_keep_for_outer)
