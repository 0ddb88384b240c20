"""Connected components of a mask, and the rank that its structure allows."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet import checks

Indices = NDArray[np.intp]


def connected_components(mask: ArrayLike) -> list[tuple[Indices, Indices]]:
    """Rows and columns of each connected part of a matrix, or of a grid of blocks, in order of first row.

    Two places are connected if one can go from one to the other along rows and columns over entries that are not 0.
    Rows and columns without entries are in no component. The singular values of a matrix are those of its components
    together, and zeros.

    Parameters
    ----------
    mask : (out, in) array_like
        True or not 0 where there is an entry.

    Returns
    -------
    list of (rows, columns), ascending indices; ``matrix[np.ix_(rows, columns)]`` is the component

    Raises
    ------
    TypeError, ValueError
        If mask is not real, or not a matrix.
    """
    present = checks.array(mask, "mask")
    if present.ndim != 2:
        raise ValueError(f"mask must be a matrix (out, in), got shape {present.shape}")
    present = present != 0
    open_rows, open_columns = present.any(axis=1), np.ones(present.shape[1], dtype=bool)
    found = []
    while open_rows.any():
        rows, columns, front = np.zeros_like(open_rows), np.zeros_like(open_columns), open_rows.argmax()[None]
        while len(front):
            rows[front] = True
            open_rows[front] = False
            reached = np.flatnonzero(present[front].any(axis=0) & open_columns)
            columns[reached], open_columns[reached] = True, False
            front = np.flatnonzero(present[:, reached].any(axis=1) & open_rows)
        found.append((np.flatnonzero(rows), np.flatnonzero(columns)))
    return found


def structural_rank(variances: NDArray[np.float64], heights: NDArray[np.float64], widths: NDArray[np.float64]) -> float:
    """Rank of a matrix with independent entries in the blocks that are present.

    It is the size of the smallest set of rows and columns that hold all entries (Koenig's theorem).
    """
    if np.all(variances > 0):
        return float(min(heights.sum(), widths.sum()))
    from scipy.optimize import linprog

    rows, columns = np.nonzero(variances)
    places = np.arange(len(rows))
    covers = np.zeros((len(rows), len(heights) + len(widths)))
    covers[places, rows] = covers[places, len(heights) + columns] = -1
    sizes = np.concatenate([heights, widths])
    # The constraints are totally unimodular: the optimum is a set, and rounding only cleans its 0 and 1.
    cover = linprog(sizes / sizes.max(), A_ub=covers, b_ub=-np.ones(len(rows)), bounds=(0, 1))
    return float(sizes @ np.round(np.asarray(cover.x)))
