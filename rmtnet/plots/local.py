"""Spacings of neighbouring levels and their number in intervals, over the laws of random matrices."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from rmtnet.laws import Brody, PoissonSpacing, WignerSurmise
from rmtnet.local import goe_number_variance
from rmtnet.plots.lines import COLOUR, DASHES, note_beyond

_END = 4.0
_WIGNER, _POISSON = ({"color": "black", "linestyle": dashes, "linewidth": 1} for dashes in DASHES[:2])


def plot_spacings(
    spacings: ArrayLike, *, ax: Axes, brody: float | None = None, bins: int | str = "auto", **hist_kws: Any
) -> Axes:
    """Density of spacings over Wigner's surmise (noise, one block), Poisson's law, and Brody's fitted one.

    The axis ends at 4 mean spacings, where larger ones are counted; ``hist_kws`` go to ``Axes.hist``.

    Parameters
    ----------
    spacings : (...) array_like
        Of unfolded levels, mean 1, as :func:`rmtnet.local.spacings` gives; those of several blocks are pooled.
    brody : float
        ``fit_brody(spacings).parameter``.
    bins : int or str
        Between 0 and 4, as of ``numpy.histogram``.

    Raises
    ------
    ValueError
        If there are none, or one is negative or not finite.
    """
    values = np.ravel(np.asarray(spacings, dtype=float))
    if not values.size or not np.isfinite(values).all() or values.min() < 0:
        raise ValueError("spacings must be finite and not negative, one at least: pass those of unfolded levels")
    edges = np.histogram_bin_edges(values, bins, range=(0, _END))
    weights = np.full(values.size, 1 / (values.size * (edges[1] - edges[0])))
    style = {"histtype": "stepfilled", "color": "0.8", "linewidth": 0, **hist_kws}
    heights, _, _ = ax.hist(values, edges.tolist(), weights=weights, **style)
    x = np.linspace(0, _END, 401)
    ax.plot(x, WignerSurmise().pdf(x), label="Wigner surmise", **_WIGNER)
    ax.plot(x, PoissonSpacing().pdf(x), label="Poisson", **_POISSON)
    if brody is not None:
        # Not from 0: below parameter 0 the density is infinite there.
        label = f"Brody, parameter {brody:.2f}"
        ax.plot(x[1:], Brody(brody).pdf(x[1:]), color=COLOUR, linestyle=DASHES[2], linewidth=1.5, label=label)
    note_beyond(int(np.sum(values > _END)), float(values.max()), ax=ax)
    top = 1.15 * max(1.0, np.max(heights))
    ax.set(xlabel="spacing / mean spacing", ylabel="density", xlim=(0, _END), ylim=(0, top))
    return ax


def plot_number_variance(
    lengths: ArrayLike, value: ArrayLike, *, ax: Axes, error: ArrayLike | None = None, **plot_kws: Any
) -> Axes:
    """Number variance against the length of the interval, over the GOE's and that of independent (Poisson) levels.

    The axis ends a third above the values and the GOE's; ``plot_kws`` go to ``Axes.errorbar``.

    Parameters
    ----------
    lengths, value, error : (length,) array_like
        Of a :class:`rmtnet.local.NumberVariance`, its standard error as `error`; NaN is not drawn.

    Raises
    ------
    ValueError
        If the shapes differ, or no value is finite.
    """
    x, y = np.asarray(lengths, dtype=float), np.asarray(value, dtype=float)
    spread = np.zeros_like(y) if error is None else np.asarray(error, dtype=float)
    if x.ndim != 1 or not x.shape == y.shape == spread.shape:
        raise ValueError(f"lengths, value and error must be (length,), got shapes {x.shape}, {y.shape}, {spread.shape}")
    if not np.isfinite(y).any():
        raise ValueError("value must be finite at one length at least")
    style = {"fmt": "o", "markersize": 3, "color": COLOUR, "linewidth": 1, **plot_kws}
    ax.errorbar(x, y, error, **style)
    grid = np.linspace(0, x.max(), 400)
    goe = goe_number_variance(grid)
    ax.plot(grid, goe, label="GOE", **_WIGNER)
    ax.plot(grid, grid, label="Poisson", **_POISSON)
    top = max(np.nanmax(y + np.nan_to_num(spread)), goe.max()) * 4 / 3
    ax.set(xlabel="length / mean spacing", ylabel="number variance", xlim=(0, None), ylim=(0, top))
    return ax
