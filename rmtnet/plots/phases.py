"""All layers of a network over its training, as one picture."""

import textwrap
from typing import Any, Literal

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator
from numpy.typing import NDArray

from rmtnet.plots.lines import whole_ticks
from rmtnet.plots.selection import one_run, require

_CAPPED = 10.0


def plot_phases(
    results: xr.Dataset, *, value: str, ax: Axes, log_steps: bool = False, robust: bool = False, **mesh_kws: Any
) -> Axes:
    """A statistic of all layers (down) over the iterations (across) as colour, with a colour bar.

    Cells lie at their true steps and reach halfway to their neighbours; layers and steps without a value are
    hatched (labelled, for the legend). p-values, such as ``largest_p``, are shown as ``-log10 p``, those below
    1e-10 alike; ``stable_rank`` over the number of singular values.

    Parameters
    ----------
    results : of one run
    value : a variable over (layer, step): spikes, stable_rank, alpha, largest_p, ...
    log_steps : logarithmic steps (linear from 0 to the first positive one); else the scale that `ax` has
    robust : let the colours end at the 2 and 98 % quantile
    mesh_kws : to ``Axes.pcolormesh``

    Raises
    ------
    ValueError
        If the variable is missing, is not over (layer, step) or has no value, or if there are several runs.
    """
    shown, label = _statistic(results, value)
    values = np.ma.masked_invalid(shown.transpose("layer", "step").values)
    steps = shown["step"].values.astype(float)
    if log_steps and len(steps) > 1:
        ax.set_xscale("symlog", linthresh=min(steps[steps > 0], default=1.0))
    else:
        whole_ticks(ax)
    edges, rows = _cell_edges(steps, ax), np.arange(len(values) + 1) - 0.5
    # Limits of a given norm are its own.
    limits = {} if "norm" in mesh_kws else _limits(values.compressed(), capped=value.endswith("_p"), robust=robust)
    mesh = ax.pcolormesh(edges, rows, values, **{"cmap": "viridis", "rasterized": True, **limits, **mesh_kws})
    if np.ma.is_masked(values):
        look: Any = {"facecolor": "white", "edgecolor": "0.7", "linewidth": 0, "hatch": "////", "zorder": 0.5}
        ax.add_patch(Rectangle((0, 0), 1, 1, transform=ax.transAxes, label="no value", **look))
    bar = ax.figure.colorbar(mesh, ax=ax, extend=_beyond(values, *mesh.get_clim()))
    bar.set_label(textwrap.fill(label, 36))
    _name_rows(list(map(str, shown["layer"].values)), ax)
    ax.set(xlabel="iteration", xlim=(edges[0], edges[-1]), ylim=(rows[-1], rows[0]))
    return ax


def _statistic(results: xr.Dataset, value: str) -> tuple[xr.DataArray, str]:
    """Over layer and step, and what it is."""
    require(results, value, "layer", "step")
    of_run = one_run(results)
    shown = of_run[value]
    if set(shown.dims) != {"layer", "step"}:
        raise ValueError(f"value must name a variable over (layer, step), got {value!r} over {shown.dims}")
    label = str(shown.attrs.get("long_name", value))
    if value.endswith("_p"):
        shown, label = -xr.apply_ufunc(np.log10, shown.clip(min=1e-300)), f"$-\\log_{{10}}$ {label}"
    elif value == "stable_rank":
        require(results, "blocks", "m", "n")
        count = of_run["blocks"] * of_run[["m", "n"]].to_array().min("variable")
        shown, label = shown / count.where(count > 0), f"{label} / number of singular values"
    if not np.isfinite(shown).any():
        raise ValueError(f"no layer has a {value}: are all weights 0?")
    return shown, label


def _limits(values: NDArray[np.floating], *, capped: bool, robust: bool) -> dict[str, float]:
    """Of the colours, of values without missing ones."""
    low, high = (float(end) for end in np.quantile(values, [0.02, 0.98] if robust else [0, 1]))
    return {"vmin": 0.0, "vmax": min(max(high, 2.0), _CAPPED)} if capped else {"vmin": low, "vmax": high}


def _cell_edges(steps: NDArray[np.floating], ax: Axes) -> NDArray[np.floating]:
    """Halfway between steps on the scale of the axis, and as far beyond the first and last."""
    scale = ax.xaxis.get_transform()
    places = scale.transform(steps)
    halves = np.diff(places) / 2 if len(places) > 1 else np.array([0.5])
    ends = np.concatenate([[places[0] - halves[0]], places[:-1] + halves[: len(places) - 1], [places[-1] + halves[-1]]])
    return np.asarray(scale.inverted().transform(ends))


def _beyond(values: NDArray[np.floating], low: float, high: float) -> Literal["neither", "both", "min", "max"]:
    """The ends of the colours that values go beyond."""
    below, above = bool(values.min() < low), bool(values.max() > high)
    return "both" if below and above else "min" if below else "max" if above else "neither"


def _name_rows(names: list[str], ax: Axes) -> None:
    ax.yaxis.set_major_locator(_FittingLocator(range(len(names))))
    ax.yaxis.set_major_formatter(lambda place, _: names[round(place)])
    ax.tick_params(axis="y", which="minor", left=False)


class _FittingLocator(FixedLocator):
    """As many of the places, evenly chosen, as there is room for labels when the figure is drawn."""

    def __call__(self) -> Any:
        # matplotlib counts two heights of a label for each; names may stand closer.
        self.nbins = max(1, int(1.7 * self.axis.get_tick_space()))  # type: ignore[union-attr]
        return super().__call__()
