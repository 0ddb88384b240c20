"""Hill's plot."""

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from rmtnet.plots.lines import NOISE, R, noise_band

_COLOUR = matplotlib.colormaps["viridis"](0.15)


def plot_hill(k: ArrayLike, index: ArrayLike, *, ax: Axes, band: ArrayLike | None = None, **plot_kws: Any) -> Axes:
    """Hill's tail index from the k largest values against k, +- its standard error; a power law shows a plateau.

    The standard error ``index / sqrt(k)`` is that of independent values. The axis ends where the first few k, of
    which an index may be arbitrarily large, do not squash the rest; ``plot_kws`` go to ``Axes.plot``.

    Parameters
    ----------
    k, index : (n,) array_like
        From :func:`rmtnet.tails.hill`; what is not finite is not drawn.
    band : (draw, n) array_like, 20 draws or more
        The same of noise matched to the matrix: 5 to 95 % of it, grey.

    Raises
    ------
    ValueError
        If the shapes do not fit, or no index is finite and positive.
    """
    x, y = np.asarray(k), np.asarray(index, dtype=float)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"k and index must be (n,), got shapes {x.shape} and {y.shape}")
    y = np.where(np.isfinite(y), y, np.nan)
    if not np.any(y > 0):
        raise ValueError("index must be finite and positive for one k at least: do all values coincide?")
    drawn = [y]
    if band is not None:
        low, high = noise_band(band, count=len(x))
        ax.fill_between(x, low, high, label=R, **NOISE | {"color": "0.85"})
        drawn += [low, high]
    style = {"color": _COLOUR, "linewidth": 1, "label": "W, $\\pm$ standard error", **plot_kws}
    (line,) = ax.plot(x, y, marker="." if len(x) == 1 else None, **style)
    error = y / np.sqrt(x)
    ax.fill_between(x, y - error, y + error, color=line.get_color(), alpha=0.5, linewidth=0)
    ax.set(xlabel="k largest values", ylabel="tail index", ylim=(0, 1.5 * np.nanquantile(drawn, 0.9)))
    return ax
