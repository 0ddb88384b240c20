"""The variance budget: what changes the variance of the weights."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from rmtnet.plots.lines import whole_ticks
from rmtnet.plots.selection import check_layer, one_run, require

_TERMS: dict[str, tuple[str, dict[str, Any]]] = {
    "variance_change": (r"change of Var($W$)", {"color": "0.7", "marker": "o", "markersize": 4, "linestyle": ""}),
    "update_variance": (r"Var($\Delta W$)", {"color": "black", "linewidth": 1}),
    "covariance_term": (
        r"2 Cov($W$, $\Delta W$)",
        {"color": "#3b528b", "marker": ".", "markersize": 3, "linestyle": ""},
    ),
}


def plot_variance_budget(results: xr.Dataset, *, ax: Axes, layer: str | None = None, cumulative: bool = False) -> Axes:
    """Change of a layer's variance by what follows a recorded step (large and grey), and the two terms that make it.

    The scale is logarithmic both ways from 0, linear below the smallest tenth of the terms (four decades below the
    largest, at most). What has either sign is drawn as dots: where signs alternate a line would be all jumps.

    Parameters
    ----------
    results : of one run; ``variance_change``, ``update_variance`` and ``covariance_term`` over step, or layer and step
    layer : which, where there are several
    cumulative : sums from the first step on, which do not depend on how far apart steps were recorded

    Raises
    ------
    ValueError
        If a variable is missing, there are several runs or no such layer, or no step has all three.
    """
    require(results, *_TERMS, "step")
    if "layer" in results.dims:
        check_layer(results, str(layer) if layer is not None else "")
        results = results.sel(layer=layer)
    terms = one_run(results[list(_TERMS)]).dropna("step")
    if not terms.sizes["step"]:
        raise ValueError("no step has a variance budget: it needs two recorded steps or more")
    terms = terms.cumsum("step").assign_coords(step=terms["step"]) if cumulative else terms
    whole_ticks(ax)
    ax.axhline(0, color="0.5", linewidth=0.6, zorder=0.5)
    alone = {"marker": "."} if terms.sizes["step"] == 1 else {}
    for name, (label, look) in _TERMS.items():
        ax.plot(terms["step"], terms[name], label=label, **(alone | look))
    if linear := _linear_below(np.abs(terms.to_array().values)):
        ax.set_yscale("symlog", linthresh=linear)
    of = f" of {layer}" if layer is not None else ""
    ax.set(xlabel="iteration", ylabel=f"{'summed ' if cumulative else ''}terms of the variance budget{of}")
    return ax


def _linear_below(sizes: np.ndarray) -> float:
    """A power of ten that few terms are below, 4 decades below the largest at most; 0 where all terms are 0."""
    present = sizes[sizes > 1e-280]  # An axis of matplotlib holds nothing smaller.
    if not present.size:
        return 0.0
    return float(10 ** np.floor(np.log10(max(np.quantile(present, 0.1), present.max() / 1e4))))
