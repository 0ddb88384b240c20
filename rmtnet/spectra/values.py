"""Singular values and eigenvalues of stacks of matrices, and their aggregation over blocks."""

import contextlib
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet import checks
from rmtnet.spectra.chunks import CHUNK, Floats, checked, chunk, module, numpy_of, spans
from rmtnet.spectra.threads import one_blas_thread

Method = Literal["auto", "gram", "svd"]

_MAX_BYTES = 2**28
_EPS = 2.0**-52
# Rounding moves eigenvalues of the Gram matrix by about 1.5 * 2^-52 of the largest (measured, sides 8 to 2048). A
# singular value 2^-14 of the largest then has a relative error of 4.5e-8; half a unit of float32 is 6.0e-8.
_WEAK = 2.0**-14
# From this side on a few weak values are refined, which takes a fifth of the time of an SVD, or less.
_REFINED_SIDE = 256
# Up to this side more threads of LAPACK take longer, or up to ten times the CPU time for the same.
SINGLE_THREAD_SIDE = 1024


def singular_values(
    weight: ArrayLike, *, method: Method = "auto", device: Any = None, max_bytes: int = _MAX_BYTES
) -> Floats:
    """Singular values of each matrix, descending.

    Parameters
    ----------
    weight : (..., out, in) array_like or torch tensor, real
        Of any precision; the work is done in float64.
    method : {"auto", "gram", "svd"}
        "svd" has an absolute error of some 2^-52 of the largest singular value. "gram", the square roots of the
        eigenvalues of the smaller Gram matrix, is 2 to 3 times faster; its relative error is 1.7e-16 (s_max / s)^2, and
        below 1.5e-8 s_max it gives noise. "auto" is "svd" for 64-bit entries, else "gram"; where the smallest then came
        out below 2^-14 of the largest the matrix is done again by "svd" (or, if large and few of its values are so
        small, these by inverse iteration): values above 2e-9 s_max have a relative error below 1e-7, as float32.
    device : torch device or its name, optional
        Where torch does the work, such as "cuda"; give it a larger ``max_bytes``. By default numpy does, on the CPU.
    max_bytes : int
        Working memory besides the result: matrices in float64, their Gram matrices and copies; at least those of one.

    Returns
    -------
    (..., min(out, in)) in the units of ``weight``

    Raises
    ------
    TypeError
        If ``weight`` is not real.
    ValueError
        If it is no stack of matrices, has an empty side, holds NaN or infinity, or a singular value exceeds 1.8e308.
    """
    if method not in ("auto", "gram", "svd"):
        raise ValueError(f"method must be 'auto', 'gram' or 'svd', got {method!r}")
    max_bytes = checks.count(max_bytes, "max_bytes")
    stack = checked(weight, 2)
    lead, (out, width) = stack.shape[:-2], stack.shape[-2:]
    short = min(out, width)
    gram = method == "gram" or (method == "auto" and stack.dtype.itemsize <= 4)
    values = np.empty((math.prod(lead), short))

    def fill(span: slice) -> None:
        part, scale = chunk(stack, 2, span, device)
        found = _gram_values(part, method == "auto") if gram else numpy_of(module(part).linalg.svdvals(part))
        with np.errstate(over="ignore", under="ignore"):
            values[span] = found / scale[:, None]

    _each(fill, len(values), 8 * (2 * out * width + short**2), max_bytes, device, small=short <= SINGLE_THREAD_SIDE)
    return checks.in_range(values, "a singular value of weight").reshape(*lead, short)


def eigenvalues(
    weight: ArrayLike, *, method: Method = "auto", device: Any = None, max_bytes: int = _MAX_BYTES
) -> Floats:
    """Eigenvalues ``s_i^2 / max(out, in)`` of each matrix, descending: ``min(out, in)`` of them, no structural zeros.

    ``W`` and its transpose agree; their law, for iid entries, is ``MarchenkoPastur(min / max, variance)``.

    Parameters
    ----------
    weight : (..., out, in)
    method, device, max_bytes :
        As for :func:`singular_values`, and so are the errors; one above 1.8e308 is one, too.

    Returns
    -------
    (..., min(out, in)) in squared units of ``weight``
    """
    values = singular_values(weight, method=method, device=device, max_bytes=max_bytes)
    with np.errstate(over="ignore", under="ignore"):
        found = values**2 / max(np.shape(weight)[-2:])
    return checks.in_range(found, "an eigenvalue of weight")


def aggregate(values: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    """Pool the values of all blocks into one descending list, as of the block diagonal matrix they make up.

    Parameters
    ----------
    values : (..., block, order) array_like or torch tensor, real; NaN comes last

    Returns
    -------
    (..., block * order) values, and the block that each one came from
    """
    stack = checks.floats(values, "values")
    if 0 in stack.shape[-2:] or stack.ndim < 2:
        raise ValueError(f"values must be (..., block, order), not empty; got shape {stack.shape}")
    pooled = stack.reshape(*stack.shape[:-2], -1)
    order = np.argsort(-pooled, axis=-1, kind="stable")
    return np.take_along_axis(pooled, order, axis=-1), order // stack.shape[-1]


def _each(
    fill: Callable[[slice], None], count: int, bytes_each: int, max_bytes: int, device: Any, *, small: bool
) -> None:
    """Fill all spans: small matrices on the CPU with a Python thread for each that OpenBLAS has."""
    with one_blas_thread() if small and device is None else contextlib.nullcontext(1) as threads:
        threads = min(threads, max(1, max_bytes // bytes_each))
        at_once = min(max_bytes // threads, CHUNK if device is None else max_bytes) // bytes_each
        with ThreadPoolExecutor(threads) as pool:
            for _ in (map if threads == 1 else pool.map)(fill, spans(count, at_once)):
                pass


def _gram_values(part: Any, redo: bool) -> Floats:
    wide = part if part.shape[-2] <= part.shape[-1] else part.mT
    gram = wide @ wide.mT
    squares = numpy_of(module(part).linalg.eigvalsh(gram))[:, ::-1]
    # The Gram matrix of a singular matrix may have eigenvalues a rounding error below 0.
    values = np.sqrt(np.maximum(squares, 0))
    weak = np.flatnonzero(redo & (values[:, -1] < _WEAK * values[:, 0]))
    if isinstance(part, np.ndarray) and values.shape[1] >= _REFINED_SIDE:
        for k in weak:
            values[k] = _refined(wide[k], gram[k], values[k])
    elif weak.size:
        del gram
        values[weak] = numpy_of(module(part).linalg.svdvals(part[weak]))
    return values


def _refined(wide: Floats, gram: Floats, values: Floats) -> Floats:
    """Values with the weak ones anew: subspace iteration with the shifted, inverted Gram matrix, which is overwritten.

    Its eigenvectors for weak values hardly contain those for strong ones, so W restricted to them has the weak singular
    values as exactly as W. If it does not settle, or not where the Gram matrix has them: SVD.
    """
    from scipy.linalg import cho_factor, cho_solve

    side, largest = len(gram), values[0] ** 2
    weak = np.count_nonzero(values < _WEAK * values[0])
    if weak > side // 16:
        return np.linalg.svdvals(wide)
    gram[np.diag_indices(side)] += side * _EPS * largest
    factor = cho_factor(gram.T, overwrite_a=True, check_finite=False)
    block, found = np.random.default_rng(0).normal(size=(side, 2 * weak + 8)), np.full(weak, np.inf)
    for _ in range(20):
        block = np.linalg.qr(cho_solve(factor, block, overwrite_b=True, check_finite=False))[0]
        last, found = found, np.linalg.svdvals(wide.T @ block)[-weak:]
        settled = (last - found <= 1e-10 * found + 4 * _EPS * values[0]).all()
        if settled and (np.abs(found**2 - values[-weak:] ** 2) <= 16 * _EPS * largest).all():
            return np.sort(np.append(values[:-weak], found))[::-1]
    return np.linalg.svdvals(wide)
