"""Which program of gated blocks is launched for which shape, in which tiles."""

from typing import NamedTuple

import torch
from torch import Tensor

from rmtnet.layers.kernels.launch import BUSY, gradient_tiles, precision, product_tiles

# Inputs up to which each reads its own open blocks. More open nearly all blocks of a layer together.
FEW = 4
# What scores that are not positive count as: see rmtnet.layers.gating.rank_gates.
LEAST = torch.finfo(torch.float32).tiny ** 0.5
# Scores of an input up to which counting, which takes the square of their number, ranks them faster than sorting.
MOST_GATES = 16384
# Scores that one program ranks.
RANKED = 8
# Programs of one chain start before the one before has ended (NVIDIA's programmatic dependent launch).
OVERLAP = False


class Slices(NamedTuple):
    """Of a product with open blocks: the tile of one block, how many of them a program loads at once, its warps."""

    out: int
    width: int
    at_once: int
    warps: int


# float32 that a program loads at once, 16 KB: several programs fill a multiprocessor and hide how long it takes.
LOADED = 4096


def slices(rows: int, cols: int, out: int, width: int) -> Slices:
    """Tiles of a product with open blocks: of few outputs, so that the GPU is busy when few blocks are open."""
    tile_out, tile_in = min(_holding(out), 8), min(_holding(width), 128)
    while rows * -(-out // tile_out) < BUSY and tile_out > 1:
        tile_out //= 2
    at_once = min(LOADED // (tile_out * tile_in), _holding(cols * -(-width // tile_in)))
    return Slices(tile_out, tile_in, at_once, 4)


def select(scores: Tensor, open_blocks: Tensor) -> Tensor:
    """See :func:`rmtnet.layers.kernels.dynamic.select`."""
    kept, sums = chosen(scores, open_blocks)
    return kept.div_(sums.sum(-1, keepdim=True).div_(scores.shape[-1]))


def chosen(scores: Tensor, open_blocks: Tensor) -> tuple[Tensor, Tensor]:
    """The largest scores, the others as 0, and sums of tiles of them."""
    from rmtnet.layers.kernels.programs_dynamic import choose

    scores, number = scores.contiguous(), scores.shape[-1]
    kept = scores.new_empty(scores.shape, dtype=torch.float32)
    sums = kept.new_empty(*scores.shape[:-1], -(-number // RANKED))
    if kept.numel():
        choose[kept.numel() // number, sums.shape[-1]](
            scores, open_blocks, kept, sums, number, LEAST=LEAST, TILE=RANKED, CHUNK=min(_holding(number), 1024),
            num_warps=4, **overlap(),
        )  # fmt: skip
    return kept, sums


def step(
    x: Tensor,
    features: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor | None,
    open_blocks: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See :func:`rmtnet.layers.kernels.dynamic.gated_step`."""
    scores = matvec(features, gate_weight[None], None, gate_bias)
    kept, sums = chosen(scores, open_blocks)
    gates = torch.empty_like(kept)
    return matvec(x, weight, kept, bias, (sums, gates)), gates


def matvec(
    x: Tensor,
    weight: Tensor,
    gates: Tensor | None,
    bias: Tensor | None,
    means: tuple[Tensor, Tensor] | tuple[None, None] = (None, None),
    tiles: Slices | None = None,
) -> Tensor:
    """Each input's product with its open blocks; without gates, with all of a grid of one column.

    With means, sums of tiles of the gates, these are divided by their mean and stored in the second tensor.
    """
    from rmtnet.layers.kernels.programs_dynamic import open_matvec

    flat, (sums, normed) = x.reshape(-1, x.shape[-1]), means
    (blocks, out, width), batch = weight.shape, len(flat)
    cols, parts = flat.shape[1] // width, 0 if sums is None else sums.shape[-1]
    y = x.new_empty(*x.shape[:-1], blocks // cols * out)
    if y.numel():
        tiles = tiles or slices(blocks // cols, cols, out, width)
        open_matvec[blocks // cols * -(-out // tiles.out), batch](
            flat, weight, bias, None if gates is None else gates.contiguous(), sums, normed, y, cols, parts,
            *flat.stride(), *weight.stride(), y.shape[-1],
            OUT=out, WIDTH=width, PLACES=_holding(cols), SUMS=_holding(parts),
            TILE_OUT=tiles.out, TILE_IN=tiles.width, AT_ONCE=tiles.at_once, num_warps=tiles.warps, **overlap(),
        )  # fmt: skip
    return y


def product(x: Tensor, weight: Tensor, gates: Tensor, bias: Tensor | None) -> Tensor:
    """(batch, cols * width), (rows * cols, out, width), (batch, rows * cols) -> (batch, rows * out)."""
    from rmtnet.layers.kernels.programs_dynamic import gated_tiles

    (blocks, out, width), batch = weight.shape, len(x)
    cols = x.shape[1] // width
    rows = blocks // cols
    y = x.new_empty(batch, rows * out)
    if y.numel():
        tiles = product_tiles(batch, rows, out, width, x.element_size())
        gated_tiles[rows * -(-out // tiles.out), -(-batch // tiles.batch)](
            x, weight, bias, gates.contiguous(), y, batch, rows, cols, *x.stride(), *weight.stride(),
            OUT=out, WIDTH=width, PRECISION=precision(x.dtype), TILE_BATCH=tiles.batch, TILE_OUT=tiles.out,
            TILE_IN=tiles.width, num_warps=tiles.warps, num_stages=tiles.stages,
        )  # fmt: skip
    return y


def input_gradient(grad: Tensor, x: Tensor, weight: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the gates."""
    from rmtnet.layers.kernels.programs_dynamic import gated_input_gradient

    (blocks, out, width), batch = weight.shape, len(x)
    cols = x.shape[1] // width
    x_grad = x.new_empty(x.shape)
    tiles = product_tiles(batch, cols, width, out, x.element_size())
    parts, warps = -(-width // tiles.out), 8 if tiles.batch * tiles.out >= 64 * 64 else 4
    gates_grad = gates.new_empty(parts, batch, blocks, dtype=gates.dtype if parts == 1 else torch.float32)
    if x_grad.numel():
        gated_input_gradient[cols * parts, -(-batch // tiles.batch)](
            grad, x, weight, gates.contiguous(), x_grad, gates_grad, batch, blocks // cols, cols,
            *grad.stride(), *x.stride(), *weight.stride(),
            OUT=out, WIDTH=width, PRECISION=precision(x.dtype), TILE_BATCH=tiles.batch, TILE_OUT=tiles.width,
            TILE_IN=tiles.out, num_warps=warps, num_stages=tiles.stages,
        )  # fmt: skip
    return x_grad, gates_grad[0] if parts == 1 else gates_grad.sum(0).to(gates.dtype)


def weight_gradient(grad: Tensor, x: Tensor, gates: Tensor, out: int, width: int) -> Tensor:
    """Gradient of the weight, (rows * cols, out, width)."""
    from rmtnet.layers.kernels.programs_dynamic import gated_weight_gradient

    blocks, batch = gates.shape[1], len(x)
    if not grad.numel():
        return grad.new_zeros(blocks, out, width)
    weight_grad = grad.new_empty(blocks, out, width)
    tiles = gradient_tiles(batch, blocks, out, width, x.element_size())
    gated_weight_gradient[blocks, -(-out // tiles.out) * -(-width // tiles.width)](
        grad, x, gates.contiguous(), weight_grad, batch, blocks, x.shape[1] // width, *grad.stride(), *x.stride(),
        OUT=out, WIDTH=width, PRECISION=precision(x.dtype), TILE_BATCH=tiles.batch, TILE_OUT=tiles.out,
        TILE_IN=tiles.width, num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    return weight_grad


def overlap() -> dict[str, bool]:
    """Options of a launch of a chain of programs."""
    return {"OVERLAP": True, "launch_pdl": True} if OVERLAP else {"OVERLAP": False}


def _holding(size: int) -> int:
    """The smallest power of two that holds ``size``."""
    return 1 << max(size - 1, 0).bit_length()
