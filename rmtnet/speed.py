"""When sparse layers pay: the bound on pruning steps, and the training speed-up of a sparsity schedule."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["pruning_bound", "training_speedup"]

Floats = NDArray[np.floating]


def pruning_bound(dense: ArrayLike, block: ArrayLike, prune: ArrayLike) -> Floats:
    """Most pruning steps a block step for which pruning to blocks makes training a layer faster.

    With x steps of the block layer after y pruning steps, training takes less time than x + y steps of the dense layer
    if y / x is below this bound. It is negative where the block layer is the slower one: then nothing pays.

    Parameters
    ----------
    dense, block : (...) seconds of forward and backward of the dense and of the block layer
    prune : (...) seconds that penalty and mask add to a step

    Raises
    ------
    ValueError
        If a time is not positive.

    References
    ----------
    Block diagonal inner product layers, eq. 2.

    Examples
    --------
    >>> pruning_bound(dense=3.0, block=1.0, prune=0.5)
    array(4.)
    """
    times = [np.asarray(time, dtype=float) for time in (dense, block, prune)]
    if not all((time > 0).all() for time in times):
        raise ValueError("times of dense, block and prune must be positive")
    fully, blocks, pruning = times
    return np.asarray((fully - blocks) / pruning)


def training_speedup(sparsity: ArrayLike) -> Floats:
    """Operations of a dense training over those of a sparse one, both up to the end of each epoch.

    ``t / (t - sum of the sparsities of the first t epochs)``: the formula ``T_D / (T_S - sum_t rho_t)`` of the source
    at equally many epochs, ``T_D = T_S = t``. Operations of the sparse products only: 1 / (1 - rho) each.

    Parameters
    ----------
    sparsity : (..., epochs) share of blocks that are zero during each epoch, in [0, 1)

    Returns
    -------
    (..., epochs)

    Raises
    ------
    ValueError
        If a sparsity lies outside [0, 1).

    References
    ----------
    Learning block-sparse neural networks (slides), appendix "Speedup (gradual pruning)".

    Examples
    --------
    >>> training_speedup([0.0, 0.5])
    array([1.        , 1.33333333])
    """
    shares = np.asarray(sparsity, dtype=float)
    if not ((shares >= 0) & (shares < 1)).all():
        raise ValueError("sparsity must lie in [0, 1)")
    epochs = np.arange(1, shares.shape[-1] + 1)
    return np.asarray(epochs / (epochs - shares.cumsum(axis=-1)))
