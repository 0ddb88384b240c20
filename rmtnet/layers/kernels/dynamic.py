"""Products with gated blocks: y = sum over j of g_ij W_ij x_j, of a grid of blocks that has a gate for each.

The weight is (rows * cols, r, c), all blocks of the grid by rows; gates are (..., rows * cols) in the same order, one
set for each input, in float32 or in the weight's type. A gate of 0 closes its block.

At inference :func:`select` and :func:`gated_matvec`, or :func:`gated_step` for both and the gate's own matrix, read no
closed block. Shapes do not depend on which are open, and nothing waits for the host: they fit a CUDA graph.
:func:`gated_product` has gradients, and multiplies closed blocks by 0.

Data types and precision are those of :mod:`rmtnet.layers.kernels`.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from rmtnet.layers.kernels import launch_dynamic as launch
from rmtnet.layers.kernels.launch import available

__all__ = ["FEW", "MOST_GATES", "available", "gated_matvec", "gated_product", "gated_step", "select"]

FEW = launch.FEW
MOST_GATES = launch.MOST_GATES


def select(scores: Tensor, open_blocks: Tensor) -> Tensor:
    """Gates of the largest scores; what :func:`rmtnet.layers.gating.rank_gates` gives. Has no gradient.

    The time it takes grows with the square of n: above MOST_GATES sorting is faster.

    Parameters
    ----------
    scores : (..., n)
    open_blocks : () integer, on the same device, 1 to n
        How many gates are open: of equal scores the first. A number that changes compiles nothing anew.

    Returns
    -------
    (..., n), float32
        With a mean of 1.
    """
    return _called(select_operator, launch.select)(scores, open_blocks)


def gated_matvec(x: Tensor, weight: Tensor, gates: Tensor, bias: Tensor | None = None) -> Tensor:
    """Product with the open blocks only, each input its own; for one or a FEW inputs. Has no gradient.

    Sums are in float32, in the same order at every call.

    Parameters
    ----------
    x : (..., cols * c), any strides
    weight : (rows * cols, r, c), any strides
    gates : (..., rows * cols)
    bias : (rows * r,), optional

    Returns
    -------
    (..., rows * r), contiguous
    """
    return _called(matvec_operator, launch.matvec)(x, weight, gates, bias)


def gated_step(
    x: Tensor,
    features: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor | None,
    open_blocks: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Outputs and gates of a layer whose gate is linear, for one or a FEW inputs: three launches. Has no gradient.

    Parameters
    ----------
    x, weight, bias : see :func:`gated_matvec`
    features : (..., f)
        What the gates are made of.
    gate_weight, gate_bias : (rows * cols, f), (rows * cols,)
    open_blocks : see :func:`select`

    Returns
    -------
    (..., rows * r), (..., rows * cols)
    """
    y, gates = _called(step_operator, launch.step)(x, features, gate_weight, gate_bias, open_blocks, weight, bias)
    return y, gates


def gated_product(x: Tensor, weight: Tensor, gates: Tensor, bias: Tensor | None = None) -> Tensor:
    """Product with all blocks, the gates multiplied on the way: gated inputs are never in memory.

    Has first derivatives by x, weight, gates (closed ones too) and bias, which take as many multiplications as those of
    a dense layer. Of a FEW inputs without gradients it is :func:`gated_matvec`.

    Parameters
    ----------
    x, weight, gates, bias : see :func:`gated_matvec`

    Returns
    -------
    (..., rows * r), contiguous
    """
    given = x.reshape(-1, x.shape[-1]), weight, gates.reshape(-1, gates.shape[-1]), bias
    derived = torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in given)
    if not derived and len(given[0]) <= FEW:
        return gated_matvec(x, weight, gates, bias)
    y = _called(product_operator, _Product.apply if derived else launch.product)(*given)
    return y.view(*x.shape[:-1], y.shape[-1])


def _called(operator: Any, function: Any) -> Any:
    """Outside of a trace calling an operator would cost more than the kernel."""
    return operator if torch.compiler.is_compiling() else function


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        return launch.product(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:3])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _product_gradients(ctx, grad, launch.input_gradient, launch.weight_gradient)


def _product_gradients(ctx: Any, grad: Tensor, input_gradient: Any, weight_gradient: Any) -> Any:
    x, weight, gates = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    x_grad = weight_grad = gates_grad = None
    if wanted[0] or wanted[2]:
        x_grad, gates_grad = input_gradient(grad, x, weight, gates)
    if wanted[1]:
        weight_grad = weight_gradient(grad, x, gates, *weight.shape[1:])
    return x_grad, weight_grad, gates_grad, grad.sum(0) if wanted[3] else None


def _operator(name: str, function: Any, schema: str) -> Any:
    return torch.library.custom_op(f"rmtnet::triton_{name}", function, mutates_args=(), schema=schema)


_PRODUCT = "(Tensor x, Tensor weight, Tensor? gates, Tensor? bias) -> Tensor"
select_operator = _operator("select", launch.select, "(Tensor scores, Tensor open_blocks) -> Tensor")
matvec_operator = _operator("gated_matvec", launch.matvec, _PRODUCT)
step_operator = _operator(
    "gated_step",
    launch.step,
    "(Tensor x, Tensor features, Tensor gate_weight, Tensor? gate_bias, Tensor open_blocks, Tensor weight,"
    " Tensor? bias) -> (Tensor, Tensor)",
)
product_operator = _operator("gated_product", launch.product, _PRODUCT)
input_gradient_operator = _operator(
    "gated_input_gradient",
    launch.input_gradient,
    "(Tensor grad, Tensor x, Tensor weight, Tensor gates) -> (Tensor, Tensor)",
)
weight_gradient_operator = _operator(
    "gated_weight_gradient",
    launch.weight_gradient,
    "(Tensor grad, Tensor x, Tensor gates, SymInt out, SymInt width) -> Tensor",
)
product_operator.register_autograd(
    partial(_product_gradients, input_gradient=input_gradient_operator, weight_gradient=weight_gradient_operator),
    setup_context=_Product.setup_context,
)


@select_operator.register_fake
def _(scores: Tensor, open_blocks: Tensor) -> Tensor:
    return scores.new_empty(scores.shape, dtype=torch.float32)


@matvec_operator.register_fake
@product_operator.register_fake
def _(x: Tensor, weight: Tensor, gates: Tensor | None, bias: Tensor | None) -> Tensor:
    blocks, out, width = weight.shape
    return x.new_empty(*x.shape[:-1], blocks // (x.shape[-1] // width) * out)


@step_operator.register_fake
def _(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    blocks, out, width = rest[4].shape
    y = x.new_empty(*x.shape[:-1], blocks // (x.shape[-1] // width) * out)
    return y, x.new_empty(*x.shape[:-1], blocks, dtype=torch.float32)


@input_gradient_operator.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), gates.new_empty(gates.shape)


@weight_gradient_operator.register_fake
def _(grad: Tensor, x: Tensor, gates: Tensor, out: int, width: int) -> Tensor:
    return grad.new_empty(gates.shape[1], out, width)
