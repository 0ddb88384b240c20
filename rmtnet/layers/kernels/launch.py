"""Which program is launched for which shape, in which tiles."""

import importlib.util
import os
from typing import NamedTuple

import torch
from torch import Tensor

from rmtnet.layers.kernels.index import BlockIndex

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Programs that keep a large GPU busy (an H200 has 132 multiprocessors).
BUSY = 264
# Blocks below this side are summed without the matrix units, which would multiply padding.
SMALL = 16
SMALL_TILE, SMALL_BATCH = 128, 16


def available(*tensors: Tensor) -> bool:
    """Whether the kernels take these tensors: Triton is installed, all are on one GPU, of one supported dtype.

    With ``TRITON_INTERPRET=1`` in the environment tensors on the CPU will do.
    """
    device, dtype = tensors[0].device, tensors[0].dtype
    one_kind = dtype in DTYPES and all(tensor.device == device and tensor.dtype == dtype for tensor in tensors)
    return one_kind and _runs_on(device.type) and _INSTALLED


def _runs_on(device_type: str) -> bool:
    return device_type == "cuda" or (device_type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1")


# Asked once, for torch.compile cannot trace the question.
_INSTALLED = importlib.util.find_spec("triton") is not None


def product(
    x: Tensor, weight: Tensor, bias: Tensor | None, kept: Tensor | None, relu: bool, *places: Tensor | None
) -> Tensor:
    """(batch, groups of inputs * k) -> (batch, groups of outputs * o), by blocks (nnz, o, k) placed by a BlockIndex."""
    index, (out, width) = BlockIndex(*places), weight.shape[1:]
    groups = index.groups(len(weight))
    y = x.new_empty(x.shape[0], groups * out)
    if not y.numel():
        return y
    if index.row_start is None and max(out, width) < SMALL:
        _small_product(x, weight, bias, index, relu, y)
        return y
    from rmtnet.layers.kernels.programs import tiled_product

    tiles = product_tiles(len(x), groups, out, width, x.element_size())
    grid = (groups * -(-out // tiles.out), -(-len(x) // tiles.batch))
    tiled_product[grid](
        x, weight, bias, y, index.row_start, index.by_row, index.block_col, kept, *y.shape,
        *x.stride(), *weight.stride(), OUT=out, WIDTH=width, RELU=relu, PRECISION=precision(x.dtype),
        TILE_BATCH=tiles.batch, TILE_OUT=tiles.out, TILE_IN=tiles.width, num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    return y


def gradient(
    grad: Tensor, x: Tensor, kept: Tensor | None, blocks: int, out: int, width: int, *places: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of the weight, (blocks, out, width), and of the bias; ``grad`` is (batch, groups of outputs * out)."""
    index = BlockIndex(*places)
    if not grad.numel():
        return grad.new_zeros(blocks, out, width), grad.new_zeros(grad.shape[1])
    if index.row_start is None and max(out, width) < SMALL:
        return _small_gradient(grad, x, index, (blocks, out, width))
    from rmtnet.layers.kernels.programs import tiled_gradient

    weight_grad = grad.new_empty(blocks, out, width)
    tiles = gradient_tiles(len(x), blocks, out, width, x.element_size())
    tiled_gradient[blocks, -(-out // tiles.out) * -(-width // tiles.width)](
        grad, x, weight_grad, index.block_row, index.block_col, kept, len(x), *grad.stride(), *x.stride(),
        OUT=out, WIDTH=width, PRECISION=precision(x.dtype),
        TILE_BATCH=tiles.batch, TILE_OUT=tiles.out, TILE_IN=tiles.width, num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    return weight_grad, grad.sum(0)


def _small_product(x: Tensor, weight: Tensor, bias: Tensor | None, index: BlockIndex, relu: bool, y: Tensor) -> None:
    from rmtnet.layers.kernels.programs import small_product

    small_product[-(-y.shape[1] // SMALL_TILE), -(-y.shape[0] // SMALL_BATCH)](
        x, weight, bias, y, index.by_row, index.block_col, *y.shape, *x.stride(), *weight.stride(),
        OUT=weight.shape[1], WIDTH=weight.shape[2], RELU=relu, TILE_BATCH=SMALL_BATCH, TILE=SMALL_TILE,
    )  # fmt: skip


def _small_gradient(grad: Tensor, x: Tensor, index: BlockIndex, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    from rmtnet.layers.kernels.programs import small_gradient

    elements = shape[0] * shape[1] * shape[2]
    tiles = -(-elements // SMALL_TILE)
    # Few weights and a large batch: several programs share the batch, and their sums are added at the end.
    wanted = min(-(-BUSY // tiles), -(-len(x) // (4 * SMALL_BATCH)))
    share = -(-len(x) // wanted)
    shares = -(-len(x) // share)
    dtype = grad.dtype if shares == 1 else torch.float32
    weight_grad = grad.new_empty(shares, *shape, dtype=dtype)
    bias_grad = grad.new_empty(shares, grad.shape[1], dtype=dtype)
    small_gradient[tiles, shares](
        grad, x, weight_grad, bias_grad, index.block_row, index.block_col, len(x), elements, share,
        *grad.stride(), *x.stride(), OUT=shape[1], WIDTH=shape[2], TILE_BATCH=SMALL_BATCH, TILE=SMALL_TILE,
    )  # fmt: skip
    if shares == 1:
        return weight_grad[0], bias_grad[0]
    return weight_grad.sum(0).to(grad.dtype), bias_grad.sum(0).to(grad.dtype)


def precision(dtype: torch.dtype) -> str:
    """How Triton multiplies: as torch would, of float32 with TF32 only where torch's settings allow it.

    Three TF32 products make one of float32, to its precision: the matrix units are so much faster than the others.
    """
    if dtype != torch.float32:
        return "ieee"
    setting = getattr(torch.backends.cuda.matmul, "fp32_precision", None)
    allowed = torch.backends.cuda.matmul.allow_tf32 if setting is None else setting == "tf32"
    return "tf32" if allowed else "tf32x3"


class Tiles(NamedTuple):
    """Sizes of the tile of one program, its warps and the loads that it keeps in flight."""

    batch: int
    out: int
    width: int
    warps: int
    stages: int


def product_tiles(batch: int, groups: int, out: int, width: int, item_bytes: int) -> Tiles:
    """Tiles of a product: as large as still leaves the GPU busy."""
    tile_batch = power_of_two(batch, 64 if item_bytes == 4 else 128)
    tile_out = power_of_two(out, 128)
    while groups * -(-out // tile_out) * -(-batch // tile_batch) < BUSY and max(tile_batch, tile_out) > 32:
        if tile_out > tile_batch:
            tile_out //= 2
        else:
            tile_batch //= 2
    warps = 8 if tile_batch * tile_out >= 128 * 64 else 4
    return Tiles(tile_batch, tile_out, power_of_two(width, 128 // item_bytes), warps, 3)


def gradient_tiles(batch: int, blocks: int, out: int, width: int, item_bytes: int) -> Tiles:
    """Tiles of the gradient of the weight: likewise."""
    tile_out, tile_in = power_of_two(out, 64), power_of_two(width, 64)
    while blocks * -(-out // tile_out) * -(-width // tile_in) < BUSY and max(tile_out, tile_in) > 32:
        if tile_out > tile_in:
            tile_out //= 2
        else:
            tile_in //= 2
    return Tiles(power_of_two(batch, 128 // item_bytes), tile_out, tile_in, 4, 3)


def power_of_two(size: int, most: int) -> int:
    """The smallest power of two that holds ``size``, at least 16 (the matrix units take no less), at most ``most``."""
    return min(max(1 << (size - 1).bit_length(), 16), most)
