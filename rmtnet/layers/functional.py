"""Products of block layers with a batch of inputs.

Activations are (..., features). Their memory may be feature-major, strides (1, batch), as ``channels_last`` is for
images: a product of such inputs runs in that order and gives such outputs, without a copy.
"""

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional

from rmtnet.layers import products_diagonal as products

# Measured: docs/layers.md.
SMALL_BLOCK = 16
SMALL_BATCH = 8
LONGEST_MERGED = 128
KERNEL_BLOCK = 128


def block_diagonal_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply each diagonal block to its own slice of the input features.

    The product is chosen by shape, device and memory order. Blocks with few outputs are multiplied several at a time,
    with zeros between them: there an infinite input spoils its neighbours' outputs too, as in a masked dense layer.

    Parameters
    ----------
    input : (..., blocks * k)
    weight : (blocks, o, k)
    bias : (blocks * o,), optional

    Returns
    -------
    (..., blocks * o), feature-major if the input is

    Raises
    ------
    ValueError
        If the input's last axis is not ``blocks * k``.
    """
    blocks, out, width = weight.shape
    rows = _rows(input, blocks * width)
    if blocks == 1 and not is_feature_major(rows):
        return functional.linear(input, weight.view(out, width), bias)
    product = _product(*_cast_for_autocast(rows, weight, bias))
    return product if input.ndim == 2 else product.reshape(*input.shape[:-1], blocks * out)


def unequal_block_diagonal_linear(
    input: Tensor, weight: Tensor, bias: Tensor | None, heights: Sequence[int], widths: Sequence[int]
) -> Tensor:
    """Apply each diagonal block to its own slice, blocks being of any sizes.

    Parameters
    ----------
    input : (..., sum of widths)
    weight : (blocks, o, k), of which block i uses the first ``heights[i]`` rows and ``widths[i]`` columns
    bias : (sum of heights,) or None
    heights, widths : (blocks,), at most o and k

    Returns
    -------
    (..., sum of heights), feature-major if the input is
    """
    rows, weight, bias = _cast_for_autocast(_rows(input, sum(widths)), weight, bias)
    # Neighbours of one size are one product.
    runs = [(*size, len(list(run))) for size, run in groupby(zip(heights, widths, strict=True))]
    blocks = weight.split([count for _, _, count in runs])
    slices = rows.split([width * count for _, width, count in runs], -1)
    biases = [None] * len(runs) if bias is None else bias.split([height * count for height, _, count in runs])
    outputs = [
        _product(part, block[:, :height, :width], constant)
        for part, block, constant, (height, width, _) in zip(slices, blocks, biases, runs, strict=True)
    ]
    joined = torch.cat([output.mT for output in outputs]).mT if is_feature_major(rows) else torch.cat(outputs, -1)
    return joined.reshape(*input.shape[:-1], sum(heights))


def is_feature_major(input: Tensor) -> bool:
    """Whether (batch, features) lies feature by feature in memory, strides (1, batch)."""
    return not input.is_contiguous() and input.mT.is_contiguous()


def feature_major(input: Tensor) -> Tensor:
    """The same (..., features) tensor, feature by feature in memory: the head of a chain of block diagonal layers.

    Layers of tiny blocks are many times faster so, and their outputs are feature-major too. ``contiguous()`` ends it.

    Examples
    --------
    >>> feature_major(torch.ones(100, 2048)).stride()
    (1, 100)
    """
    return input.flatten(0, -2).mT.contiguous().mT.reshape(input.shape) if input.ndim > 1 else input


def interleave(input: Tensor, blocks: int) -> Tensor:
    """ShuffleNet's shuffle of (..., blocks * k): entry k of slice g goes to entry g of slice k.

    References
    ----------
    Zhang et al., ShuffleNet, arXiv:1707.01083, section 3.1.
    """
    return _on_slices(input, blocks, lambda slices, axis: slices.transpose(axis, axis + 1))


def reorder(input: Tensor, order: Tensor) -> Tensor:
    """Slice ``order[i]`` of the ``len(order)`` slices of (..., features) comes i-th."""
    return _on_slices(input, len(order), lambda slices, axis: slices.index_select(axis, order))


def _on_slices(input: Tensor, blocks: int, change: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Change (slices, features of one) of the last axis; the memory order stays."""
    rows = _rows(input, input.shape[-1])
    if is_feature_major(rows):
        changed = change(rows.mT.unflatten(0, (blocks, -1)), 0).flatten(0, 1).mT
    else:
        changed = change(rows.unflatten(1, (blocks, -1)), 1).flatten(1)
    return changed.reshape(input.shape)


def _rows(input: Tensor, features: int) -> Tensor:
    """(..., features) -> (batch, features)."""
    if input.shape[-1:] != (features,):
        raise ValueError(f"the input's last axis must be {features}, got a tensor of {tuple(input.shape)}")
    return input if input.ndim == 2 else input.reshape(-1, features)


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    blocks, out, width = weight.shape
    if out == width == 1:
        return products.elementwise(rows, weight, bias)
    if is_feature_major(rows):
        return products.feature_major(rows, weight, bias)
    if blocks == 1:
        return functional.linear(rows, weight.view(out, width), bias)
    if rows.is_cuda and max(out, width) <= KERNEL_BLOCK:
        from rmtnet.layers import kernels

        if kernels.available(rows, weight):
            return kernels.block_diagonal(rows, weight, bias)
    if out >= SMALL_BLOCK or _is_small_batch(rows):
        return products.batch_major(rows, weight, bias)
    count = _neighbours(*weight.shape)
    if count:
        return products.merged(rows, weight, bias, count)
    return products.feature_major(rows, weight, bias).contiguous()


def _is_small_batch(rows: Tensor) -> bool:
    # A question about the batch's size would bind a traced graph to the answer.
    return not torch.compiler.is_compiling() and rows.shape[0] < SMALL_BATCH


def _neighbours(blocks: int, out: int, width: int) -> int:
    """The fewest blocks that together have SMALL_BLOCK outputs; 0 where no fitting number divides ``blocks``."""
    least = -(-SMALL_BLOCK // out)
    most = min((2 * SMALL_BLOCK - 1) // out, LONGEST_MERGED // width)
    return next((count for count in range(least, most + 1) if blocks % count == 0), 0)


def _cast_for_autocast(rows: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """As :func:`torch.nn.functional.linear` takes them: the forms' own autograd would not be cast in backward."""
    device = rows.device.type
    # Autocast knows no meta device, and leaves float64 alone.
    if rows.is_meta or not torch.is_autocast_enabled(device) or rows.dtype == torch.float64:
        return rows, weight, bias
    dtype = torch.get_autocast_dtype(device)
    return rows.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
