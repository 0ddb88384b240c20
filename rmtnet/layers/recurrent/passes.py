"""The two ways to run one LSTM layer of block weights, in one direction or both, and the choice between them."""

from typing import NamedTuple

import torch
from torch import Tensor

from rmtnet.layers.block_sparse import BlockSparseLinear, scattered
from rmtnet.layers.recurrent.recurrence import lstm_recurrence

State = tuple[Tensor, Tensor]

DENSE_ABOVE = 0.25
"""Share of stored blocks above which a layer is run dense on a CPU.  Measured, see docs/layers.md."""
SPARSE_FROM = 512
"""Hidden size from which skipping blocks pays on a CPU.  Measured, see docs/layers.md."""


class Direction(NamedTuple):
    """One direction of a layer."""

    input: BlockSparseLinear
    recurrent: BlockSparseLinear
    weight: Tensor
    """The recurrent blocks as this pass has them: after weight drop."""


def run_layer(
    directions: list[Direction], data: Tensor, batch_sizes: Tensor | None, initial: State
) -> tuple[Tensor, State]:
    """One layer on (time, batch, features), or on packed (rows, features) with their batch sizes.

    Returns
    -------
    Hidden states, directions side by side; final h and c, each (directions, batch, hidden)
    """
    as_blocks = data.device.type == "cpu" and _skipping_pays(directions)
    if as_blocks or torch.compiler.is_compiling():
        return _by_steps(directions, data, batch_sizes, initial, as_blocks)
    return _fused(directions, data, batch_sizes, initial)


def _skipping_pays(directions: list[Direction]) -> bool:
    matrices = [matrix for direction in directions for matrix in (direction.input, direction.recurrent)]
    stored = sum(matrix.weight.numel() for matrix in matrices)
    whole = sum(matrix.out_features * matrix.in_features for matrix in matrices)
    return stored <= DENSE_ABOVE * whole and directions[0].recurrent.in_features >= SPARSE_FROM


def _by_steps(
    directions: list[Direction], data: Tensor, batch_sizes: Tensor | None, initial: State, as_blocks: bool
) -> tuple[Tensor, State]:
    """Inputs of all steps in one product, then a loop over the steps; the recurrence as blocks or as one dense one."""
    sizes = torch.full(data.shape[:1], data.shape[1], device="cpu") if batch_sizes is None else batch_sizes
    outputs, finals = [], []
    for k, (input, recurrent, weight) in enumerate(directions):
        gates = input(data)
        if recurrent.bias is not None:
            gates = gates + recurrent.bias.to(gates.dtype)
        if as_blocks:
            blocks = _alive(recurrent, weight), recurrent.block_row, recurrent.block_col
        else:
            origin = torch.zeros(1, dtype=torch.int64, device=weight.device)
            blocks = _matrix(recurrent, weight)[None], origin, origin
        states = initial[0][k], initial[1][k]
        hidden, final = lstm_recurrence(gates.flatten(0, -2), *blocks, states, sizes, reverse=k == 1)
        outputs.append(hidden.view(*data.shape[:-1], recurrent.in_features))
        finals.append(final)
    h, c = (torch.stack(states) for states in zip(*finals, strict=True))
    return torch.cat(outputs, -1), (h, c)


def _fused(
    directions: list[Direction], data: Tensor, batch_sizes: Tensor | None, initial: State
) -> tuple[Tensor, State]:
    """Torch's own LSTM on dense matrices."""
    weights: list[list[Tensor]] = []
    biases: list[list[Tensor]] = []
    for input, recurrent, weight in directions:
        weights.append([_matrix(input, input.weight), _matrix(recurrent, weight)])
        biases.append([layer.bias for layer in (input, recurrent) if layer.bias is not None])
    if data.is_cuda:
        weights, biases = _in_one_buffer(weights, biases)
    flat = [tensor for own, added in zip(weights, biases, strict=True) for tensor in (*own, *added)]
    options = bool(biases[0]), 1, 0.0, torch.is_grad_enabled(), len(directions) == 2
    if batch_sizes is None:
        output, h, c = torch.lstm(data, initial, flat, *options, False)
    else:
        output, h, c = torch.lstm(data, batch_sizes, initial, flat, *options)
    return output, (h, c)


def _matrix(layer: BlockSparseLinear, weight: Tensor) -> Tensor:
    """A layer's blocks as a dense matrix, by a differentiable copy."""
    return scattered(_alive(layer, weight), layer.block_row, layer.block_col, layer.grid)


def _alive(layer: BlockSparseLinear, weight: Tensor) -> Tensor:
    """Removed blocks are zero, whatever an optimizer wrote into them, and get no gradient."""
    return torch.where(layer.kept[:, None, None], weight, 0)


def _in_one_buffer(weights: list[list[Tensor]], biases: list[list[Tensor]]) -> list[list[list[Tensor]]]:
    """The same tensors one after another in memory, as cuDNN wants them: all weights, then all biases."""
    tensors = [tensor for group in (weights, biases) for own in group for tensor in own]
    parts = iter(torch.cat([tensor.flatten() for tensor in tensors]).split([tensor.numel() for tensor in tensors]))
    return [[[next(parts).view_as(tensor) for tensor in own] for own in group] for group in (weights, biases)]
