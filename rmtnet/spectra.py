"""Singular values and eigenvalues of stacks of matrices, and their aggregation over blocks."""

import sys
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def singular_values(weight: ArrayLike, *, method: Literal["auto", "gram", "svd"] = "auto") -> Floats:
    """Singular values of each matrix, descending.

    Parameters
    ----------
    weight : (..., out, in) array_like or torch tensor, real
    method : "svd", or "gram" (the square roots of the eigenvalues of the smaller Gram matrix, in float64: several times
        faster, absolute error up to 1.5e-8 of the largest singular value).  "auto" is "svd" for 64-bit input and "gram"
        below that, where the rounding of the entries themselves (6e-8 for float32) moves singular values further.

    Returns
    -------
    (..., min(out, in)) in the units of ``weight``

    Raises
    ------
    TypeError
        If ``weight`` is not real.
    ValueError
        If it is no stack of matrices, is empty, or holds NaN or infinity.
    """
    if method not in ("auto", "gram", "svd"):
        raise ValueError(f"method must be 'auto', 'gram' or 'svd', got {method!r}")
    stack = _stack(weight)
    narrow = stack.dtype.kind == "f" and stack.dtype.itemsize <= 4
    stack = stack.astype(np.float64)
    if method == "svd" or (method == "auto" and not narrow):
        return np.linalg.svd(stack, compute_uv=False)
    wide = stack if stack.shape[-2] <= stack.shape[-1] else np.swapaxes(stack, -1, -2)
    squares = np.linalg.eigvalsh(wide @ np.swapaxes(wide, -1, -2))
    # The Gram matrix of a singular matrix may have eigenvalues a rounding error below 0.
    return np.sqrt(np.maximum(squares, 0))[..., ::-1]


def eigenvalues(weight: ArrayLike) -> Floats:
    """Eigenvalues ``s_i^2 / max(out, in)`` of each matrix, descending: ``min(out, in)`` of them, no structural zeros.

    ``W`` and its transpose agree; their law, for iid entries, is ``MarchenkoPastur(min / max, variance)``.

    Parameters
    ----------
    weight : (..., out, in)

    Returns
    -------
    (..., min(out, in)) in squared units of ``weight``
    """
    return singular_values(weight) ** 2 / max(np.shape(weight)[-2:])


def aggregate(values: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    """Pool the values of all blocks into one descending list, as of the block diagonal matrix they make up.

    Parameters
    ----------
    values : (..., block, order)

    Returns
    -------
    (..., block * order) values, and the block that each one came from
    """
    stack = np.asarray(values, dtype=np.float64)
    pooled = stack.reshape(*stack.shape[:-2], -1)
    order = np.argsort(-pooled, axis=-1, kind="stable")
    return np.take_along_axis(pooled, order, axis=-1), order // stack.shape[-1]


def variance(weight: ArrayLike) -> Floats:
    """Variance of the in-block entries, centred, ddof 0, in float64.

    Parameters
    ----------
    weight : (..., block, out, in)

    Returns
    -------
    (...)
    """
    if np.ndim(weight) < 3:
        raise ValueError(
            f"weight must be (..., block, out, in), got shape {np.shape(weight)}: a matrix is weight[None]"
        )
    return np.var(_stack(weight), axis=(-3, -2, -1), dtype=np.float64)


def _stack(weight: ArrayLike) -> NDArray[Any]:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(weight, torch.Tensor):
        tensor = weight.detach().cpu()
        weight = tensor.numpy() if tensor.dtype != torch.bfloat16 else tensor.float().numpy()
    stack = np.asarray(weight)
    if stack.dtype.kind not in "fiub":
        raise TypeError(f"weight must be real, got dtype {stack.dtype}")
    if stack.ndim < 2 or 0 in stack.shape[-2:]:
        raise ValueError(f"weight must be a stack of matrices (..., out, in), none empty; got shape {stack.shape}")
    if not np.isfinite(stack).all():
        raise ValueError("weight holds NaN or infinity: did training diverge?")
    return stack
