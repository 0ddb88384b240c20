"""The connected parts of a dense matrix with structural zeros."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet.laws import connected_components
from rmtnet.spectra import as_blocks

Floats = NDArray[np.float64]


def connected_stacks(weight: ArrayLike) -> list[Floats]:
    """Blocks (block, out, in); a single matrix with zeros as its connected parts, neighbours of one shape together.

    A block diagonal matrix that was stored as one dense matrix falls into its blocks, a pruned one loses the rows
    and columns that are all 0. A matrix of zeros stays as it is.
    """
    stack = as_blocks(weight)
    if len(stack) > 1 or stack.all() or not stack.any():
        return [stack]
    parts = [stack[0][np.ix_(rows, columns)] for rows, columns in connected_components(stack[0])]
    firsts = [k for k in range(len(parts)) if k == 0 or parts[k].shape != parts[k - 1].shape]
    return [np.stack(parts[first:last]) for first, last in zip(firsts, [*firsts[1:], len(parts)], strict=True)]
