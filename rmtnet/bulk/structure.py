"""The connected parts of a dense matrix with structural zeros."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet.laws import connected_components
from rmtnet.spectra import as_blocks

Floats = NDArray[np.float64]


def connected_stacks(weight: ArrayLike) -> list[Floats]:
    """Blocks (block, out, in); a single matrix with zeros as its connected parts, those of one shape together.

    A block diagonal matrix that was stored as one dense matrix falls into its blocks, a pruned one loses the rows
    and columns that are all 0. A matrix of zeros stays as it is. Parts are in order of shape, then of first row.
    """
    stack = as_blocks(weight)
    if len(stack) > 1 or stack.all() or not stack.any():
        return [stack]
    parts: dict[tuple[int, ...], list[Floats]] = {}
    for rows, columns in connected_components(stack[0]):
        parts.setdefault((len(rows), len(columns)), []).append(stack[0][np.ix_(rows, columns)])
    # A part alone is not copied once more: it may be an embedding that lacks the padding's row.
    return [np.stack(same) if len(same) > 1 else same[0][None] for _, same in sorted(parts.items())]
