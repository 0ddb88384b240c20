"""The variance budget of a layer: what moves the variance of its weights, step by step."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet import checks

Floats = NDArray[np.float64]
_CHUNK_ENTRIES = 2**21


@dataclass(frozen=True)
class VarianceBudget:
    """Where the change of a layer's variance comes from, (..., step), in squared units of its weights.

    ``change = update_variance + covariance_term + residual``.
    """

    variance: Floats
    """Var(W) before the step: centred, ddof 0, over in-block entries."""
    change: Floats
    """Var(W + dW) - Var(W), the difference of the two."""
    update_variance: Floats
    """Var(dW), or its stand-in rate^2 Var(G) of :func:`sgd_budget`."""
    covariance_term: Floats
    """2 Cov(W, dW), or its stand-in -2 rate Cov(W, G)."""

    @property
    def residual(self) -> Floats:
        """What the terms leave unexplained: rounding for the identity, all that is not plain SGD for eq. 4."""
        return self.change - (self.update_variance + self.covariance_term)

    def over(self, starts: ArrayLike) -> "VarianceBudget":
        """The budget of intervals of several steps, the terms of their steps summed.

        Parameters
        ----------
        starts : (interval,) ascending places along the step axis at which an interval begins; the last runs to the end

        Raises
        ------
        ValueError
            If `starts` are not ascending places of the step axis.
        """
        places, steps = np.asarray(starts), self.change.shape[-1]
        whole = places.ndim == 1 and places.size > 0 and places.dtype.kind in "iu"
        if not whole or np.any(np.diff(places) <= 0) or not 0 <= places[0] <= places[-1] < steps:
            raise ValueError(f"starts must be ascending places in a step axis of length {steps}, got {starts!r}")
        names = [field.name for field in fields(self) if field.name != "variance"]
        sums = {name: np.add.reduceat(getattr(self, name), places, axis=-1) for name in names}
        return VarianceBudget(self.variance[..., places], **sums)


def variance_budget(weight: Any) -> VarianceBudget:
    """Budget of successive weights: ``Var(W + dW) - Var(W) = Var(dW) + 2 Cov(W, dW)``, exact for any optimizer.

    Updates are taken in float64 from the weights as they are, so tiny ones of float32 weights keep all their digits,
    and ``change``, a difference of variances, has fewer than its two terms. The residual is within 1e-14 of the
    variance.

    Parameters
    ----------
    weight : (..., step + 1, block, out, in), real
        An array, a torch tensor, or what is sliced like one: a store larger than memory is read some steps at a time.

    Returns
    -------
    (..., step); for weights recorded less often than at every step, dW is the sum of the updates between two of them

    Raises
    ------
    TypeError
        If the weights are not real.
    ValueError
        If they are no such stack, are empty or fewer than two, hold NaN or infinity, or their variance exceeds float64.
    """
    weight = _checked(weight)
    rows = [_moments(window[..., :-1, :], np.diff(window, axis=-2)) for _, window in _windows(weight)]
    variance, update, covariance = (np.concatenate(parts, axis=-1) for parts in zip(*rows, strict=True))
    return budget_from_moments(_with_last(variance, weight), update, covariance)


def sgd_budget(weight: Any, gradient: Any, *, rate: ArrayLike, weight_decay: float = 0.0) -> VarianceBudget:
    """Budget of successive weights in the terms of plain SGD: ``rate^2 Var(G) - 2 rate Cov(W, G)`` (paper A, eq. 4).

    The residual is what plain SGD does not do: momentum, an adaptive rate, clipping; 0 but for the rounding of the
    weights where each step was ``W - rate G``.

    Parameters
    ----------
    weight : (..., step + 1, block, out, in), real
        Of every step: before each update, and after the last.
    gradient : (..., step, block, out, in), real
        Mini-batch mean, at the weights before the update.
    rate : learning rate, a number or (step,)
    weight_decay : of the loss `gradient` does not include: G is ``gradient + weight_decay * W``

    Raises
    ------
    TypeError, ValueError
        As :func:`variance_budget`, or if the shapes of the two do not fit.
    """
    weight, gradient = _checked(weight), _array(gradient)
    if gradient.shape != (*weight.shape[:-4], weight.shape[-4] - 1, *weight.shape[-3:]):
        raise ValueError(
            f"gradient must be one step shorter than weight, got {tuple(gradient.shape)} for {tuple(weight.shape)}:"
            " weight is needed before each update and after the last"
        )
    decay = checks.number(weight_decay, "weight_decay", -1e150, 1e150)
    rows = []
    for first, window in _windows(weight):
        before = window[..., :-1, :]
        step = _flat(gradient[..., first : first + before.shape[-2], :, :, :], "gradient") + decay * before
        rows.append(_moments(before, _bounded(step, "gradient + weight_decay * weight")))
    variance, gradient_variance, covariance = (np.concatenate(parts, axis=-1) for parts in zip(*rows, strict=True))
    return sgd_budget_from_moments(_with_last(variance, weight), gradient_variance, covariance, rate=rate)


def budget_from_moments(var_w: ArrayLike, var_dw: ArrayLike, cov_w_dw: ArrayLike) -> VarianceBudget:
    """Budget from stored moments.

    Parameters
    ----------
    var_w : (..., step) or (..., step + 1)
        Var(W) before each update, and after the last one: without it the last update is left out.
    var_dw, cov_w_dw : (..., step)
        Var(dW) and Cov(W, dW) of the update that follows. NaN where a moment was not stored stays NaN.

    Raises
    ------
    ValueError
        If the lengths do not fit, or there are not two variances.
    """
    update, covariance = checks.floats(var_dw, "var_dw"), checks.floats(cov_w_dw, "cov_w_dw")
    return _budget(var_w, update, covariance, (1.0, 2.0), ("var_dw", "cov_w_dw"))


def sgd_budget_from_moments(
    var_w: ArrayLike, var_g: ArrayLike, cov_w_g: ArrayLike, *, rate: ArrayLike
) -> VarianceBudget:
    """Eq. 4's terms from stored moments: as :func:`budget_from_moments`, with those of the gradient.

    Parameters
    ----------
    var_g, cov_w_g : (..., step) Var(G) and Cov(W, G), G including weight decay
    rate : learning rate, a number or (step,)
    """
    rates = checks.floats(rate, "rate")
    if not np.all((rates >= 0) & (rates <= 1e150)):
        raise ValueError(f"rate must be finite and not negative, at most 1e150, got {rate!r}")
    gradient, covariance = checks.floats(var_g, "var_g"), checks.floats(cov_w_g, "cov_w_g")
    return _budget(var_w, gradient, covariance, (rates**2, -2 * rates), ("var_g", "cov_w_g"))


def _budget(
    var_w: ArrayLike, update: Floats, covariance: Floats, factors: tuple[Any, Any], names: tuple[str, str]
) -> VarianceBudget:
    with np.errstate(over="ignore"):
        update, covariance = update * factors[0], covariance * factors[1]
    variance = checks.floats(var_w, "var_w")
    for part, name in zip((variance, update, covariance), ("var_w", *names), strict=True):
        checks.in_range(part, name)
    if update.shape != covariance.shape or variance.ndim == 0 or variance.shape[-1] < 2:
        raise ValueError(
            f"{names[0]} and {names[1]} must have one shape, and var_w two steps or more;"
            f" got {update.shape}, {covariance.shape} and {variance.shape}"
        )
    steps = variance.shape[-1] - 1
    if update.ndim == 0 or update.shape[-1] not in (steps, steps + 1):
        raise ValueError(f"{names[0]} must be as long as var_w or one shorter, got {update.shape} and {variance.shape}")
    change = np.diff(variance, axis=-1)
    return VarianceBudget(variance[..., :-1], change, update[..., :steps], covariance[..., :steps])


def _checked(weight: Any) -> Any:
    weight = _array(weight)
    shape = tuple(weight.shape)
    if len(shape) < 4 or shape[-4] < 2 or 0 in shape:
        raise ValueError(f"weight must be (..., step, block, out, in) with two steps or more, none empty; got {shape}")
    return weight


def _array(values: Any) -> Any:
    return values if hasattr(values, "shape") else np.asarray(values)


def _windows(weight: Any) -> Iterator[tuple[int, Floats]]:
    """First step and flat weights of as many steps as fit, each window beginning with the last of the one before."""
    steps, size = weight.shape[-4], math.prod(weight.shape) // weight.shape[-4]
    ahead = max(1, _CHUNK_ENTRIES // size)
    for first in range(0, steps - 1, ahead):
        yield first, _flat(weight[..., first : first + ahead + 1, :, :, :], "weight")


def _flat(part: Any, name: str) -> Floats:
    """(..., step, entry) in float64, checked."""
    stack = checks.real(part, name)
    return _bounded(stack.reshape(*stack.shape[:-3], -1), name)


def _bounded(stack: Floats, name: str) -> Floats:
    if np.abs(stack).max() > 1e150:
        raise ValueError(f"{name} holds values beyond 1e150, whose squares exceed float64: divide by the largest")
    return stack


def _moments(weight: Floats, update: Floats) -> tuple[Floats, Floats, Floats]:
    """Var(W), Var(dW), Cov(W, dW) over the last axis, in two passes."""
    weight, update = (part - part.mean(axis=-1, keepdims=True) for part in (weight, update))
    return (weight**2).mean(axis=-1), (update**2).mean(axis=-1), (weight * update).mean(axis=-1)


def _with_last(variance: Floats, weight: Any) -> Floats:
    last = _flat(weight[..., -1:, :, :, :], "weight")
    return np.concatenate([variance, last.var(axis=-1)], axis=-1)
