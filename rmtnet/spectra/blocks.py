"""A layer's matrices as one array of blocks."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet.spectra.chunks import checked, chunk


def as_blocks(weight: ArrayLike) -> NDArray[np.float64]:
    """(out, in) or (block, out, in), of any real kind, as float64 (block, out, in).

    Raises
    ------
    TypeError, ValueError
        If ``weight`` is not real, has another number of dimensions, is empty, or holds NaN or infinity.
    """
    stack = checked(weight, 2)
    if stack.ndim > 3 or 0 in stack.shape:
        raise ValueError(f"weight must be (out, in) or (block, out, in), not empty, got shape {tuple(stack.shape)}")
    blocks = stack if stack.ndim == 3 else stack[None]
    part, scale = chunk(blocks, 2, slice(0, len(blocks)))
    return np.asarray(part if (scale == 1).all() else part / scale[:, None, None])
