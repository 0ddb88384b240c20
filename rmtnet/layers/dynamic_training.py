"""The product of gated blocks that trains: all of them are multiplied, closed or not.

A row of blocks at a time, so that gated inputs never exist for the whole matrix at once; the gradients make them anew.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

CHUNK = {"cpu": 2**18, "cuda": 2**26}
"""Entries of gated inputs held at a time; on a CPU 1 MB of float32, for its cache."""


def grid(input: Tensor, weight: Tensor) -> tuple[int, int]:
    """Rows and columns of blocks."""
    columns = input.shape[1] // weight.shape[2]
    return weight.shape[0] // columns, columns


def _tables(input: Tensor, weight: Tensor, gates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (C, batch, c), weight (R, C, r, c) and gates (R, C, batch, 1)."""
    rows, columns = grid(input, weight)
    slices = input.unflatten(1, (columns, -1)).transpose(0, 1).contiguous()
    table = gates.to(input.dtype).unflatten(1, (rows, columns)).permute(1, 2, 0).contiguous()
    return slices, weight.unflatten(0, (rows, columns)), table.unsqueeze(-1)


def _chunks(slices: Tensor, weight: Tensor) -> Iterator[slice]:
    """Rows of blocks that are taken together."""
    rows, columns, height, width = weight.shape
    entries = columns * slices.shape[1] * max(height, width)
    step = max(1, CHUNK.get(slices.device.type, CHUNK["cuda"]) // max(1, entries))
    return (slice(start, start + step) for start in range(0, rows, step))


def all_blocks(input: Tensor, weight: Tensor, gates: Tensor) -> Tensor:
    """(batch, C * c), (R * C, r, c), (batch, R * C) -> (batch, R * r)."""
    slices, weight, table = _tables(input, weight, gates)
    rows, columns, height, _ = weight.shape
    output = input.new_empty(len(input), rows, height)
    for chunk in _chunks(slices, weight):
        products = torch.bmm((slices * table[chunk]).flatten(0, 1), weight[chunk].flatten(0, 1).mT)
        torch.sum(products.unflatten(0, (-1, columns)), 1, out=output.transpose(0, 1)[chunk])
    return output.flatten(1)


product = torch.library.custom_op(
    "rmtnet::gated_product",
    all_blocks,
    mutates_args=(),
    schema="(Tensor input, Tensor weight, Tensor gates) -> Tensor",
)


@torch.library.custom_op("rmtnet::gated_product_gradients", mutates_args=())
def _gradients(grad: Tensor, input: Tensor, weight: Tensor, gates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of inputs, weight and gates; the products that the inputs' gradient sums give the gates', too."""
    slices, weight, table = _tables(input, weight, gates)
    rows, columns, height, width = weight.shape
    parts = grad.unflatten(1, (rows, height)).transpose(0, 1)
    dtype = torch.promote_types(input.dtype, torch.float32)
    input_grad, weight_grad = slices.new_zeros(slices.shape, dtype=dtype), weight.new_empty(weight.shape)
    gates_grad = slices.new_empty(rows, columns, len(input), dtype=dtype)
    for chunk in _chunks(slices, weight):
        part = parts[chunk, None].expand(-1, columns, -1, -1).reshape(-1, len(input), height)
        gated = (slices * table[chunk]).flatten(0, 1)
        torch.bmm(part.mT, gated, out=weight_grad[chunk].view(-1, height, width))
        products = torch.bmm(part, weight[chunk].flatten(0, 1)).unflatten(0, (-1, columns))
        for row, factors in zip(products, table[chunk], strict=True):
            input_grad.addcmul_(row, factors)
        torch.sum(products.mul_(slices), -1, dtype=dtype, out=gates_grad[chunk])
    return (
        input_grad.transpose(0, 1).flatten(1).to(input.dtype),
        weight_grad.flatten(0, 1),
        gates_grad.flatten(0, 1).T.to(gates.dtype).contiguous(),
    )


@product.register_fake
def _(input: Tensor, weight: Tensor, gates: Tensor) -> Tensor:
    return input.new_empty(input.shape[0], grid(input, weight)[0] * weight.shape[1])


@_gradients.register_fake
def _(grad: Tensor, input: Tensor, weight: Tensor, gates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return input.new_empty(input.shape), weight.new_empty(weight.shape), gates.new_empty(gates.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> Any:
    return _gradients(grad, *ctx.saved_tensors)


product.register_autograd(_backward, setup_context=_keep)
