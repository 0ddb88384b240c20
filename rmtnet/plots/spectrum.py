"""The density of a spectrum over its law."""

from functools import partial
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from rmtnet.laws import MarchenkoPastur, MarchenkoPasturSingular, VarianceProfile
from rmtnet.plots.lines import COLOUR, Floats, R, noise_band, note_beyond

_NAMES = {
    MarchenkoPastur: "Marchenko-Pastur",
    MarchenkoPasturSingular: "Marchenko-Pastur",
    VarianceProfile: "variance profile",
}


class Law(Protocol):
    """A density between edges, and an atom at 0."""

    @property
    def edges(self) -> tuple[float, float]: ...
    @property
    def atom(self) -> float: ...
    def pdf(self, x: Any) -> Any: ...


def plot_spectrum(
    eigenvalues: ArrayLike,
    law: Law,
    *,
    ax: Axes,
    noise: ArrayLike | None = None,
    band: ArrayLike | None = None,
    bins: int = 40,
    **hist_kws: Any,
) -> Axes:
    """Density of nonzero eigenvalues (or singular values) against their law's, and against that of R's.

    As ``law.pdf`` does, each integrates to ``1 - law.atom``. Eigenvalues above the law's upper edge are ticked;
    the axis ends at most half the bulk's width above it, where those further out are counted. ``bins`` lie
    between the law's edges, and more of their width outside; ``hist_kws`` go to ``Axes.hist``.

    Parameters
    ----------
    eigenvalues : (K,) array_like
        Without structural zeros, for which the atom stands.
    law : MarchenkoPastur, VarianceProfile; for singular values MarchenkoPasturSingular; or what has edges, atom, pdf
    noise : (K,) array_like
        Of R: a step line.
    band : (draw, K) array_like, 20 draws or more
        Of simulated R: 5 to 95 % of the heights of their histograms, bin by bin.

    Raises
    ------
    ValueError
        If an eigenvalue is negative or not finite, or the band has too few draws.
    """
    values = _checked(eigenvalues, "eigenvalues")
    edges = _bin_edges(values, law.edges, bins)
    height = (1 - law.atom) / (edges[1] - edges[0])
    style = {"histtype": "stepfilled", "color": "0.8", "linewidth": 0, **hist_kws}
    heights, _, _ = ax.hist(values, edges.tolist(), weights=np.full(values.size, height / values.size), **style)
    tops = [np.max(heights), np.max(law.pdf((edges[1:] + edges[:-1]) / 2))]
    if band is not None:
        low, high = noise_band(band, of=partial(_shares, edges=edges)) * height
        ax.stairs(high, edges, baseline=low, fill=True, color=COLOUR, alpha=0.4, linewidth=0, label=R)
        tops.append(high.max())
    if noise is not None:
        heights = np.histogram(noise, edges)[0] * height / np.size(noise)
        ax.stairs(heights, edges, color=COLOUR, label="R")
        tops.append(heights.max())
    _plot_law(law, ax=ax)
    _tick_spikes(values[values > law.edges[1]], float(edges[-1]), ax=ax)
    name = "singular value" if isinstance(law, MarchenkoPasturSingular) else "eigenvalue"
    # A density may be infinite at an edge: the bins, not the curve, set the height.
    ax.set(xlabel=name, ylabel="density", xlim=_limits(values, law.edges, edges[-1]), ylim=(0, 1.15 * max(tops)))
    return ax


def _checked(values: ArrayLike, name: str) -> Floats:
    array = np.ravel(np.asarray(values, dtype=float))
    if not array.size or not np.isfinite(array).all() or array.min() < 0:
        raise ValueError(f"{name} must be finite and not negative: pass those of W W^T, without NaN")
    return array


def _bin_edges(values: Floats, edges: tuple[float, float], bins: int) -> Floats:
    lower, upper = edges
    width = (upper - lower) / bins
    end = min(max(values.max(), upper), (3 * upper - lower) / 2)
    return lower + width * np.arange(-np.floor(lower / width), np.ceil((end - lower) / width) + 1)


def _limits(values: Floats, edges: tuple[float, float], end: float) -> tuple[float, float]:
    """From 0, unless that would squash a narrow bulk."""
    width = edges[1] - edges[0]
    start = min(values.min(), edges[0]) - width / 2
    return (start if start > width else 0.0), end


def _shares(draw: Floats, edges: Floats) -> Floats:
    """Of a draw that fall into each bin."""
    return np.histogram(_checked(draw, "band"), edges)[0] / draw.size


def _plot_law(law: Law, *, ax: Axes) -> None:
    lower, upper = law.edges
    # Denser towards the lower edge, where a law is steepest.
    x = lower + (upper - lower) * np.linspace(0, 1, 500) ** 2
    label = next((name for kind, name in _NAMES.items() if isinstance(law, kind)), type(law).__name__)
    ax.plot(x, law.pdf(x), color="black", label=label)


def _tick_spikes(spikes: Floats, end: float, *, ax: Axes) -> None:
    ax.plot(spikes, np.zeros(spikes.size), "|", color="black", markersize=8)
    note_beyond(int(np.sum(spikes > end)), float(spikes.max(initial=0)), ax=ax)
