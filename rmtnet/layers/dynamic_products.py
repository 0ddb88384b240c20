"""The product of a matrix whose blocks are gated, each input by its own gates.

Without gradients closed blocks are skipped where that is faster: each open block is multiplied with the inputs that
open it, by Numba on a CPU and by Triton on a GPU.
"""

import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rmtnet.layers.dynamic_training import all_blocks, grid, product
from rmtnet.layers.sparse_products import _cast_for_autocast

# Measured: docs/layers.md.
MOST_OPEN = 0.25
"""Share of open blocks up to which the others are skipped without Numba."""
LEAST = {dtype: torch.finfo(dtype).tiny ** 0.5 for dtype in (torch.float32, torch.float64)}
"""What values of gates that are not positive count as."""


def gated_linear(input: Tensor, weight: Tensor, gates: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a matrix whose blocks are multiplied by gates.

    Parameters
    ----------
    input : (..., C * c)
    weight : (R * C, r, c), row by row of the grid
    gates : (..., R * C)
    bias : (R * r,), optional

    Returns
    -------
    (..., R * r)

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    blocks, _, width = weight.shape
    features = input.shape[-1] if input.ndim else 0
    if features == 0 or features % width or blocks % (features // width):
        raise ValueError(f"the input's last axis does not fit {blocks} blocks of {width}: {tuple(input.shape)}")
    if gates.shape != (*input.shape[:-1], blocks):
        raise ValueError(f"gates must be {(*input.shape[:-1], blocks)} for this input, got {tuple(gates.shape)}")
    input, weight, bias = _cast_for_autocast(input, weight, bias)
    if kernels := _triton_for(input, weight):
        return kernels.gated_product(input, weight, gates, bias)
    rows, table = input.reshape(-1, features), gates.reshape(-1, blocks)
    if needs_gradient(input, weight, gates, bias):
        output = product(rows, weight, table)
        output = output if bias is None else output + bias
    else:
        output = (_skipping_operator if torch.compiler.is_compiling() else _skipping)(rows, weight, table, bias)
    return output.view(*input.shape[:-1], output.shape[-1])


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether a function of the tensors will be derived."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def rank_gated_linear(
    input: Tensor,
    features: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor,
    opened: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """Apply a matrix gated by a linear layer with ReLU of which the largest values are open, without gradients.

    Parameters
    ----------
    input : (..., C * c)
    features : (..., f), what the gates are made of
    gate_weight, gate_bias : (R * C, f), (R * C,)
    opened : () int64, how many gates are open
    weight, bias : as for :func:`gated_linear`
    """
    kernels = _triton_for(input, features, gate_weight, weight)
    if kernels and len(gate_weight) <= kernels.MOST_GATES and input.numel() <= kernels.FEW * input.shape[-1]:
        return kernels.gated_step(input, features, gate_weight, gate_bias, opened, weight, bias)[0]
    call = _inference_operator if torch.compiler.is_compiling() else _inference
    if input.ndim == features.ndim == 2:
        return call(input, features, gate_weight, gate_bias, opened, weight, bias)
    rows = input.reshape(-1, input.shape[-1]), features.reshape(-1, features.shape[-1])
    output = call(*rows, gate_weight, gate_bias, opened, weight, bias)
    return output.view(*input.shape[:-1], output.shape[-1])


def choose(values: Tensor, opened: Tensor) -> Tensor:
    """See :func:`rmtnet.layers.gating.rank_gates`; without gradients, of float32 or float64."""
    return (_choice_operator if torch.compiler.is_compiling() else _choose)(values, opened)


# Products without gradients.


@cache
def _numba() -> Any:
    try:
        from rmtnet.layers import numba_kernels
    except ImportError as error:
        warnings.warn(
            f"Numba cannot be loaded ({error}): dynamic layers skip few blocks on a CPU. pip install 'rmtnet[cpu]'",
            stacklevel=2,
        )
        return None
    return numba_kernels


def _numba_for(*tensors: Tensor) -> Any:
    """The kernels, if they take these tensors."""
    dtype = tensors[0].dtype
    fits = dtype in LEAST and all(each.dtype == dtype and each.is_cpu for each in tensors)
    return _numba() if fits else None


def _triton_for(*tensors: Tensor) -> Any:
    if not tensors[0].is_cuda:
        return None
    from rmtnet.layers.kernels import dynamic

    return dynamic if dynamic.available(*tensors) else None


def _array(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.detach().contiguous().numpy()


def _inference(
    input: Tensor,
    features: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor,
    opened: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    kernels = _numba_for(input, features, weight) if len(input) == 1 else None
    if kernels is None:
        values = functional.linear(features, gate_weight, gate_bias)
        gates = _choose(values.to(torch.promote_types(values.dtype, torch.float32)), opened)
        return _skipping(input, weight, gates, bias)
    given = _array(input)
    seen = given if features is input else _array(features)
    gate = (_array(each) for each in (gate_weight, gate_bias, opened))
    return torch.from_numpy(kernels.infer(given, seen, *gate, LEAST[input.dtype], _array(weight), _array(bias)))


def _choose(values: Tensor, opened: Tensor) -> Tensor:
    if kernels := _numba_for(values):
        gates = values.reshape(-1, values.shape[-1]).clone(memory_format=torch.contiguous_format)
        kernels.choose(gates.numpy(), opened.item(), LEAST[gates.dtype])
        return gates.view(values.shape)
    kernels = _triton_for(values)
    if kernels and values.shape[-1] <= kernels.MOST_GATES:
        return kernels.select(values, opened)
    return _choose_by_sorting(values, opened)


def _choose_by_sorting(values: Tensor, opened: Tensor) -> Tensor:
    positive = values.clamp(min=LEAST[values.dtype])
    order = positive.argsort(dim=-1, descending=True, stable=True)
    first = torch.arange(values.shape[-1], device=values.device) < opened
    kept = positive * torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, first.expand_as(order))
    return kept / kept.mean(-1, keepdim=True)


def _skipping(input: Tensor, weight: Tensor, gates: Tensor, bias: Tensor | None) -> Tensor:
    """The product, without the closed blocks where that is faster: with Numba always, whatever is open."""
    if kernels := _triton_for(input, weight):
        return kernels.gated_product(input, weight, gates, bias)
    kernels = _numba_for(input, weight, gates)
    if kernels is None:
        output = (_grouped if _few_open(gates) else all_blocks)(input, weight, gates)
        return output if bias is None else output.add_(bias)
    output = input.new_zeros(len(input), grid(input, weight)[0] * weight.shape[1])
    output = output if bias is None else output.add_(bias.detach())
    if len(input) == 1:
        kernels.multiply_one(*(_array(each) for each in (input[0], weight, gates[0], output[0])))
    else:
        kernels.multiply(*(_array(each) for each in (input, weight, gates.T, output)))
    return output


def _few_open(gates: Tensor) -> bool:
    # Elsewhere to ask would wait for the device.
    return gates.is_cpu and gates.count_nonzero().item() <= MOST_OPEN * gates.numel()


def _grouped(input: Tensor, weight: Tensor, gates: Tensor) -> Tensor:
    """Pairs of an open block and an input, sorted by block: one product for each block."""
    rows, columns = grid(input, weight)
    block, item = gates.T.nonzero().unbind(1)
    slices = input.unflatten(1, (columns, -1))[item, block % columns]
    slices = slices * gates[item, block].to(input.dtype)[:, None]
    counts = block.bincount(minlength=len(weight))
    aligned = not any(side * weight.itemsize % 16 for side in weight.shape[1:])
    if aligned and hasattr(functional, "grouped_mm") and input.dtype in (torch.float32, torch.bfloat16):
        products = functional.grouped_mm(slices, weight.mT, offs=counts.cumsum(0).to(torch.int32))
    else:
        parts = zip(slices.split(counts.tolist()), weight.mT, strict=True)
        products = torch.cat([part @ matrix for part, matrix in parts])
    sums = input.new_zeros(len(input) * rows, weight.shape[1], dtype=torch.promote_types(input.dtype, torch.float32))
    sums.index_add_(0, item * rows + block // columns, products.to(sums.dtype))
    return sums.to(input.dtype).view(len(input), rows * weight.shape[1])


_choice_operator = torch.library.custom_op(
    "rmtnet::rank_gates", _choose, mutates_args=(), schema="(Tensor values, Tensor opened) -> Tensor"
)
_skipping_operator = torch.library.custom_op(
    "rmtnet::gated_product_skipping",
    _skipping,
    mutates_args=(),
    schema="(Tensor input, Tensor weight, Tensor gates, Tensor? bias) -> Tensor",
)
_inference_operator = torch.library.custom_op(
    "rmtnet::rank_gated_product",
    _inference,
    mutates_args=(),
    schema="(Tensor input, Tensor features, Tensor gate_weight, Tensor gate_bias, Tensor opened, Tensor weight,"
    " Tensor? bias) -> Tensor",
)


@_choice_operator.register_fake
def _(values: Tensor, opened: Tensor) -> Tensor:
    return torch.empty_like(values, memory_format=torch.contiguous_format)


@_skipping_operator.register_fake
def _(input: Tensor, weight: Tensor, gates: Tensor, bias: Tensor | None) -> Tensor:
    return input.new_empty(input.shape[0], grid(input, weight)[0] * weight.shape[1])


@_inference_operator.register_fake
def _(input: Tensor, features: Tensor, gate_weight: Tensor, gate_bias: Tensor, opened: Tensor, *rest: Any) -> Tensor:
    return input.new_empty(input.shape[0], grid(input, rest[0])[0] * rest[0].shape[1])
