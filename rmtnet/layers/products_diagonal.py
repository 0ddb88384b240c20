"""The forms of a block diagonal product of (batch, blocks * k) inputs and (blocks, o, k) weights.

A bias is (blocks * o,) or None. All give the same numbers; ``block_diagonal_linear`` picks one by shape and device.
"""

from typing import Any

import torch
from torch import Tensor

# Measured (docs/layers.md): below, the time that Python takes is more than that of the copy.
LARGE_WEIGHT = 1 << 16


def batch_major(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Inputs and outputs (batch, features) in memory: one batched product, one copy that puts the blocks in a row."""
    large = weight.numel() >= LARGE_WEIGHT and weight.requires_grad
    if large and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        product: Tensor = _BatchMajor.apply(rows, weight, bias)
        return product
    return _batch_major(rows, weight, bias)


def feature_major(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Outputs (features, batch) in memory, and no copy: for inputs that are so too."""
    blocks, out, width = weight.shape
    columns = rows.mT.view(blocks, width, rows.shape[0])
    product = torch.bmm(weight, columns) if bias is None else torch.baddbmm(bias.view(blocks, out, 1), weight, columns)
    return product.view(blocks * out, rows.shape[0]).mT


def elementwise(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Blocks of 1 x 1: in whatever order the inputs are in memory."""
    return rows * weight.flatten() if bias is None else torch.addcmul(bias, rows, weight.flatten())


def merged(rows: Tensor, weight: Tensor, bias: Tensor | None, count: int) -> Tensor:
    """``count`` neighbours at a time as one block, with zeros off its diagonal: tiny blocks multiply no faster."""
    return batch_major(rows, merge_blocks(weight, count), bias)


def merge_blocks(weight: Tensor, count: int) -> Tensor:
    """(blocks, o, k) -> (blocks / count, count * o, count * k): block diagonal blocks of ``count`` neighbours."""
    neighbours = weight.unflatten(0, (-1, count)).permute(0, 2, 3, 1)
    return torch.diag_embed(neighbours, dim1=1, dim2=3).flatten(3, 4).flatten(1, 2)


def _batch_major(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    blocks, out, width = weight.shape
    slices = rows.view(rows.shape[0], blocks, width).transpose(0, 1)
    weight = weight.mT
    product = torch.bmm(slices, weight) if bias is None else torch.baddbmm(bias.view(blocks, 1, out), slices, weight)
    return product.transpose(0, 1).flatten(1)


class _BatchMajor(torch.autograd.Function):
    """With the weight's gradient in the weight's own memory order: autograd's is transposed, and then copied."""

    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _batch_major(rows, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        blocks, out, width = weight.shape
        needs_rows, needs_weight, needs_bias = ctx.needs_input_grad
        # A copy, which two products and a sum read quicker than slices of rows.
        slices = grad.view(rows.shape[0], blocks, out).transpose(0, 1).contiguous()
        inputs = rows.view(rows.shape[0], blocks, width).transpose(0, 1)
        return (
            torch.bmm(slices, weight).transpose(0, 1).flatten(1) if needs_rows else None,
            torch.bmm(slices.mT, inputs) if needs_weight else None,
            slices.sum(1).flatten() if needs_bias else None,
        )

    @staticmethod
    def jvp(ctx: Any, rows: Tensor | None, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """The product is linear in each of its inputs."""
        inputs, blocks = ctx.saved_tensors
        rows = torch.zeros_like(inputs) if rows is None else rows
        weight = torch.zeros_like(blocks) if weight is None else weight
        return _batch_major(rows, blocks, bias) + _batch_major(inputs, weight, None)
