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
    if len(stack) > 1 or not (present := stack[0] != 0).any() or present.all():
        return [stack]
    if present.all(axis=1).any():
        # A row without zeros connects all columns: an embedding that lacks just the padding's row is not copied.
        return [stack[:, _span(np.flatnonzero(present.any(axis=1)))]]
    parts: dict[tuple[int, ...], list[Floats]] = {}
    for rows, columns in connected_components(present):
        parts.setdefault((len(rows), len(columns)), []).append(stack[0][np.ix_(rows, columns)])
    return [np.stack(parts[shape]) for shape in sorted(parts)]


def _span(index: NDArray[np.intp]) -> slice | NDArray[np.intp]:
    """Ascending indices as a slice where none is left out."""
    return slice(int(index[0]), int(index[-1]) + 1) if index[-1] - index[0] == len(index) - 1 else index
