"""The recurrence of an LSTM layer whose recurrent weight is dense blocks: one operator, with its gradient.

An operator of its own, for three reasons: the gradient of the weight is one product over all steps instead of one a
step, ``torch.compile`` sees one node instead of an unrolled loop, and packed sequences are no special case.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK = 2**19
"""Entries of the slices and products of the blocks that are multiplied at once: 2 MB of float32, to stay in a cache."""


def lstm_recurrence(
    gates: Tensor,
    weight: Tensor,
    block_row: Tensor,
    block_col: Tensor,
    initial: tuple[Tensor, Tensor],
    batch_sizes: Tensor,
    reverse: bool = False,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Hidden states of one LSTM layer in one direction, from what inputs and biases add to its gates.

    Parameters
    ----------
    gates : (rows, 4 * hidden), steps one below another, gates in torch's order i, f, g, o
    weight : (blocks, r, c), of the (4 * hidden, hidden) recurrent matrix
    block_row, block_col : (blocks,), place of each block on the grid of blocks
    initial : h and c, each (batch, hidden)
    batch_sizes : (steps,) int64 on the CPU: how many rows each step has, as in ``PackedSequence``
    reverse : from the last step to the first

    Returns
    -------
    (rows, hidden), and the final h and c, each (batch, hidden)
    """
    states = (state.to(gates.dtype) for state in initial)
    weight = weight.to(gates.dtype)
    hidden, last_h, last_c, *_ = _forward(gates, weight, block_row, block_col, *states, batch_sizes, reverse)
    return hidden, (last_h, last_c)


@torch.library.custom_op("rmtnet::lstm_recurrence", mutates_args=())
def _forward(
    gates: Tensor,
    weight: Tensor,
    block_row: Tensor,
    block_col: Tensor,
    h0: Tensor,
    c0: Tensor,
    batch_sizes: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, final h and c; for the gradient the gates' values, and h and c before each step."""
    h, c = h0.clone(), c0.clone()
    hidden, h_before, c_before = (gates.new_empty(len(gates), h.shape[1]) for _ in range(3))
    values = torch.empty_like(gates)
    plan = _plan(weight.mT.contiguous(), block_col, block_row, len(h))
    for step, size in _steps(batch_sizes, reverse):
        h_before[step], c_before[step] = h[:size], c[:size]
        a = values[step]
        torch.add(gates[step], _product(h[:size], plan, gates.shape[1]), out=a)
        i, f, g, o = a.chunk(4, 1)
        a[:, : 2 * h.shape[1]].sigmoid_()
        g.tanh_()
        o.sigmoid_()
        c[:size].mul_(f).addcmul_(i, g)
        torch.mul(o, c[:size].tanh(), out=hidden[step])
        h[:size] = hidden[step]
    return hidden, h, c, values, h_before, c_before


@torch.library.custom_op("rmtnet::lstm_recurrence_backward", mutates_args=())
def _backward(
    grad_hidden: Tensor,
    grad_h: Tensor,
    grad_c: Tensor,
    weight: Tensor,
    block_row: Tensor,
    block_col: Tensor,
    values: Tensor,
    h_before: Tensor,
    c_before: Tensor,
    batch_sizes: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients with respect to gates, weight, h0 and c0."""
    dh, dc = grad_h.clone(), grad_c.clone()
    grad_gates = torch.empty_like(values)
    plan = _plan(weight, block_row, block_col, len(dh))
    for step, size in _steps(batch_sizes, not reverse):
        i, f, g, o = values[step].chunk(4, 1)
        before = c_before[step]
        tanh_c = (f * before).addcmul_(i, g).tanh_()
        to_h = dh[:size] + grad_hidden[step]
        to_c = torch.ops.aten.tanh_backward(to_h * o, tanh_c).add_(dc[:size])
        into = grad_gates[step].chunk(4, 1)
        sigmoids = ((to_c * g, i), (to_c * before, f), (to_h * tanh_c, o))
        for out, (gradient, value) in zip((into[0], into[1], into[3]), sigmoids, strict=True):
            torch.ops.aten.sigmoid_backward.grad_input(gradient, value, grad_input=out)
        torch.ops.aten.tanh_backward.grad_input(to_c * i, g, grad_input=into[2])
        torch.mul(to_c, f, out=dc[:size])
        dh[:size] = _product(grad_gates[step], plan, dh.shape[1])
    return grad_gates, _outer(grad_gates, h_before, block_row, block_col, weight), dh, dc


def _steps(batch_sizes: Tensor, reverse: bool) -> Iterator[tuple[slice, int]]:
    """Rows of each step and their number, in the order of the recurrence."""
    sizes = batch_sizes.tolist()
    stops = batch_sizes.cumsum(0).tolist()
    steps = [(slice(stop - size, stop), size) for stop, size in zip(stops, sizes, strict=True)]
    return iter(steps[::-1] if reverse else steps)


def _plan(weight: Tensor, take: Tensor, put: Tensor, rows: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Blocks (in, out), and which parts they take and put, in chunks that a cache holds for so many rows."""
    size = max(1, CHUNK // max(1, rows * (weight.shape[1] + weight.shape[2])))
    return list(zip(weight.split(size), take.split(size), put.split(size), strict=True))


def _product(rows: Tensor, plan: list[tuple[Tensor, Tensor, Tensor]], width: int) -> Tensor:
    """(n, in) -> (n, width): parts of the columns times their blocks, added to parts of the result."""
    _, height, out = plan[0][0].shape
    parts = _parts(rows, height)
    total = rows.new_zeros(width // out, len(rows), out)
    for blocks, take, put in plan:
        total.index_add_(0, put, torch.bmm(parts.index_select(0, take), blocks))
    return total.transpose(0, 1).reshape(len(rows), width)


def _outer(left: Tensor, right: Tensor, block_row: Tensor, block_col: Tensor, like: Tensor) -> Tensor:
    """The blocks of ``left.T @ right``: one product a block, which reads its slices where they are."""
    _, height, width = like.shape
    lefts, rights = _parts(left, height), _parts(right, width)
    blocks = torch.empty_like(like)
    for block, row, col in zip(blocks, block_row.tolist(), block_col.tolist(), strict=True):
        torch.mm(lefts[row].mT, rights[col], out=block)
    return blocks


def _parts(rows: Tensor, width: int) -> Tensor:
    """(n, parts * width) -> (parts, n, width), a view."""
    return rows.unflatten(1, (-1, width)).transpose(0, 1)


@_forward.register_fake
def _(
    gates: Tensor,
    weight: Tensor,
    block_row: Tensor,
    block_col: Tensor,
    h0: Tensor,
    c0: Tensor,
    batch_sizes: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    states = [gates.new_empty(gates.shape[0], h0.shape[1]) for _ in range(3)]
    return states[0], torch.empty_like(h0), torch.empty_like(c0), torch.empty_like(gates), states[1], states[2]


@_backward.register_fake
def _(
    grad_hidden: Tensor,
    grad_h: Tensor,
    grad_c: Tensor,
    weight: Tensor,
    block_row: Tensor,
    block_col: Tensor,
    values: Tensor,
    h_before: Tensor,
    c_before: Tensor,
    batch_sizes: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return tuple(torch.empty_like(like) for like in (values, weight, grad_h, grad_c))  # type: ignore[return-value]


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    _, weight, block_row, block_col, _, _, batch_sizes, ctx.reverse = inputs
    ctx.save_for_backward(weight, block_row, block_col, *output[3:], batch_sizes)


def _differentiate(ctx, grad_hidden, grad_h, grad_c, *_):  # type: ignore[no-untyped-def]
    gates, weight, h0, c0 = _backward(grad_hidden, grad_h, grad_c, *ctx.saved_tensors, ctx.reverse)
    return gates, weight, None, None, h0, c0, None, None


_forward.register_autograd(_differentiate, setup_context=_save)
