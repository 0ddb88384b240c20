"""The pooling of a quasi-recurrent layer: a linear recurrence over time, each feature by itself."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rmtnet.layers import kernels


def linear_scan(decay: Tensor, update: Tensor, initial: Tensor, *, reverse: bool = False) -> Tensor:
    """States of ``s[t + 1] = decay[t] * s[t] + update[t]``, from ``s[0] = initial`` on.

    One operator with gradients of any order, each of which is a scan in the other direction; memory grows with the
    steps as that of the result does.  States of 16-bit types are summed in float32.

    Parameters
    ----------
    decay, update : (time, ...)
    initial : (...)
    reverse : the other way: ``s[t] = decay[t] * s[t + 1] + update[t]``, from ``s[time] = initial`` on

    Returns
    -------
    (time + 1, ...), the initial state among them

    Examples
    --------
    >>> linear_scan(torch.full((3,), 0.5), torch.ones(3), torch.tensor(0.0))
    tensor([0.0000, 1.0000, 1.5000, 1.7500])
    """
    if not decay.shape == update.shape == (len(decay), *initial.shape):
        shapes = ", ".join(str(tuple(each.shape)) for each in (decay, update, initial))
        raise ValueError(f"decay and update must be (time, ...) and initial (...), got {shapes}")
    return _called()(decay, update, initial, reverse)


def _called() -> Callable[[Tensor, Tensor, Tensor, bool], Tensor]:
    """Outside of a trace calling an operator would take longer than one step."""
    if torch.compiler.is_compiling():
        return _operator
    return _Scan.apply if torch.is_grad_enabled() else _scan


def _scan(decay: Tensor, update: Tensor, initial: Tensor, reverse: bool) -> Tensor:
    if decay.numel() and kernels.available(decay, update, initial):
        from rmtnet.layers.kernels.pooling import scan

        return scan(decay, update, initial, reverse)
    dtype = torch.promote_types(update.dtype, torch.float32)
    states = update.new_empty(len(update) + 1, *update.shape[1:], dtype=dtype)
    steps = list(zip(decay.to(dtype).unbind(), update.to(dtype).unbind(), strict=True))
    parts = states.unbind()
    if reverse:
        steps, parts = steps[::-1], parts[::-1]
    parts[0].copy_(initial)
    for (factor, added), before, after in zip(steps, parts, parts[1:], strict=False):
        torch.addcmul(added, factor, before, out=after)
    return states.to(update.dtype)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    decay, _, _, ctx.reverse = inputs
    ctx.save_for_backward(decay, output)


def _gradients(
    ctx: Any, grad: Tensor, scan: Callable[[Tensor, Tensor, Tensor, bool], Tensor]
) -> tuple[Tensor | None, ...]:
    decay, states = ctx.saved_tensors
    first, later = (slice(1, None), slice(-1)) if ctx.reverse else (slice(-1), slice(1, None))
    start, end = (0, -1) if ctx.reverse else (-1, 0)
    total = scan(decay, grad[first], grad[start], not ctx.reverse)
    return total[later] * states[first], total[later], total[end], None


class _Scan(torch.autograd.Function):
    forward = staticmethod(_scan)
    setup_context = staticmethod(_keep)
    backward = staticmethod(lambda ctx, grad: _gradients(ctx, grad, _called()))


_operator = torch.library.custom_op("rmtnet::linear_scan", _scan, mutates_args=())
# A compiler may trace the gradient after the trace that is_compiling knows of.
_operator.register_autograd(lambda ctx, grad: _gradients(ctx, grad, _operator), setup_context=_keep)


@_operator.register_fake
def _(decay: Tensor, update: Tensor, initial: Tensor, reverse: bool) -> Tensor:
    return update.new_empty(update.shape[0] + 1, *update.shape[1:])
