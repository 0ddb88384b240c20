"""The products, with their gradients and as operators that ``torch.compile`` knows."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rmtnet.layers.kernels import launch
from rmtnet.layers.kernels.index import BlockIndex, permuted_diagonal


def block_diagonal(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, order: Tensor | None = None, relu: bool = False
) -> Tensor:
    """Apply each diagonal block to its own slice of the input features.

    Parameters
    ----------
    x : (..., blocks * k), any strides
    weight : (blocks, o, k)
    bias : (blocks * o,), optional
    order : (blocks,) a permutation, optional
        Block i reads slice ``order[i]`` instead of i: a shuffle of whole blocks that moves nothing.
    relu : whether negative outputs become 0

    Returns
    -------
    (..., blocks * o), contiguous
    """
    return _block_product(x, weight, bias, None, BlockIndex() if order is None else permuted_diagonal(order), relu)


def block_sparse(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    index: BlockIndex,
    *,
    kept: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Product with a matrix of which some blocks are kept.

    Blocks with sides of 16, 32, 64 or 128 fill their tiles; others work too, cut or padded.

    Parameters
    ----------
    x : (..., grid columns * c), any strides
    weight : (nnz, r, c)
    bias : (grid rows * r,), optional
    index : :func:`block_index` of the blocks
    kept : (nnz,) bool, optional
        Blocks that are False count as zero whatever they hold, and so does their gradient.
    relu : whether negative outputs become 0

    Returns
    -------
    (..., grid rows * r), contiguous
    """
    return _block_product(x, weight, bias, kept, index, relu)


def _block_product(
    x: Tensor, weight: Tensor, bias: Tensor | None, kept: Tensor | None, index: BlockIndex, relu: bool
) -> Tensor:
    product = product_operator if torch.compiler.is_compiling() else _called()[0]
    y = product(x.reshape(-1, x.shape[-1]), weight, bias, kept, relu, *index)
    return y.view(*x.shape[:-1], y.shape[-1])


def _called() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Product and gradient outside of a trace, where calling an operator would cost more than the kernel."""
    return (_Product.apply, _Gradient.apply) if torch.is_grad_enabled() else (launch.product, launch.gradient)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        return launch.product(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, weight, _, kept, relu, *index = inputs
        ctx.save_for_backward(x, weight, output if relu else None, kept, *index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _product_gradients(ctx, grad, *_called())


def _product_gradients(ctx: Any, grad: Tensor, product: Callable[..., Any], gradient: Callable[..., Any]) -> Any:
    x, weight, y, kept, *places = ctx.saved_tensors
    index, wanted = BlockIndex(*places), ctx.needs_input_grad
    if y is not None:
        grad = grad * (y > 0)
    x_grad = weight_grad = bias_grad = None
    if wanted[0]:
        x_grad = product(grad, weight.mT, None, kept, False, *index.transposed())
    if wanted[1]:
        weight_grad, bias_grad = gradient(grad, x, kept, *weight.shape, *index)
    elif wanted[2]:
        bias_grad = grad.sum(0)
    return x_grad, weight_grad, bias_grad if wanted[2] else None, None, None, *(None for _ in index)


class _Gradient(torch.autograd.Function):
    """Of grad and x. The product is linear in x, the weight and grad: its gradients' gradients are it again."""

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, Tensor]:
        return launch.gradient(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        grad, x, kept, _, _, _, *index = inputs
        ctx.save_for_backward(grad, x, kept, *index)

    @staticmethod
    def backward(ctx: Any, weight_grad: Tensor, bias_grad: Tensor) -> Any:
        return _gradient_gradients(ctx, weight_grad, bias_grad, _called()[0])


def _gradient_gradients(ctx: Any, weight_grad: Tensor, bias_grad: Tensor, product: Callable[..., Any]) -> Any:
    grad, x, kept, *places = ctx.saved_tensors
    index = BlockIndex(*places)
    grad_grad = product(x, weight_grad, bias_grad, kept, False, *index)
    x_grad = product(grad, weight_grad.mT, None, kept, False, *index.transposed())
    return grad_grad, x_grad, None, None, None, None, *(None for _ in index)


_INDEX = ", ".join(f"Tensor? {name}" for name in BlockIndex._fields)
product_operator = torch.library.custom_op(
    "rmtnet::block_product",
    launch.product,
    mutates_args=(),
    schema=f"(Tensor x, Tensor weight, Tensor? bias, Tensor? kept, bool relu, {_INDEX}) -> Tensor",
)
gradient_operator = torch.library.custom_op(
    "rmtnet::block_gradient",
    launch.gradient,
    mutates_args=(),
    schema=f"(Tensor grad, Tensor x, Tensor? kept, SymInt blocks, SymInt out, SymInt width, {_INDEX})"
    " -> (Tensor, Tensor)",
)
product_operator.register_autograd(
    partial(_product_gradients, product=product_operator, gradient=gradient_operator),
    setup_context=_Product.setup_context,
)
gradient_operator.register_autograd(
    partial(_gradient_gradients, product=product_operator), setup_context=_Gradient.setup_context
)


@product_operator.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, kept: Tensor | None, relu: bool, *index: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], BlockIndex(*index).groups(weight.shape[0]) * weight.shape[1])


@gradient_operator.register_fake
def _(
    grad: Tensor, x: Tensor, kept: Tensor | None, blocks: int, out: int, width: int, *index: Tensor | None
) -> tuple[Tensor, Tensor]:
    return grad.new_empty(blocks, out, width), grad.new_empty(grad.shape[1])
