"""Statistics of sisters against iteration."""

import xarray as xr
from matplotlib.axes import Axes

from rmtnet.plots.lines import plot_groups, sister_groups
from rmtnet.plots.selection import layer_values


def plot_variance(results: xr.Dataset, *, layer: str, ax: Axes, label: str = "b = {b}") -> Axes:
    """Variance of a layer's in-block weights against iteration, one line a sister.

    Of runs that hold spectra in place of weights the second moment, all that their singular values tell.
    """
    name = "variance"
    if "second_moment" in results and results[name].sel(layer=layer).isnull().all():
        name = "second_moment"
    plot_groups(layer_values(results, name, layer=layer), results, layer=layer, ax=ax, label=label)
    ax.set(xlabel="iteration", ylabel=f"{name.replace('_', ' ')} of {layer}")
    return ax


def plot_variance_ratio(results: xr.Dataset, *, layer: str, ax: Axes, label: str = "b = {b} / b = 1") -> Axes:
    """Variance over the dense sister's against iteration, one line a block diagonal sister (a ValueError if none).

    The band of a line of one run is its 95 % interval, where results hold ``variance_ratio_low`` and ``_high``: the
    error of sampling the entries. That of several seeds is their range, which says how far another seed would end.
    """
    ratios = layer_values(results, "variance_ratio", layer=layer)
    ratios = ratios.sel(run=ratios["blocks"].values > 1)
    if not ratios.sizes["run"]:
        raise ValueError(f"no run with more than one block in {layer}: a variance ratio needs two sisters")
    ends = [f"variance_ratio_{end}" for end in ("low", "high")]
    low, high = (results[end].sel(layer=layer) if end in results else None for end in ends)
    interval = None if low is None or high is None else (low, high)
    plot_groups(ratios, results, layer=layer, ax=ax, label=label, interval=interval)
    ax.set(xlabel="iteration", ylabel=f"variance ratio of {layer}")
    return ax


def plot_mean_deviation(results: xr.Dataset, *, layer: str, ax: Axes, label: str = "b = {b}") -> Axes:
    """Mean over order of ``|1 - sigma_W / sigma_R|`` against iteration, one line a sister.

    It is not 0 for noise: dotted, in the line's colour, is what noise has, where results hold ``mean_deviation_null``.
    """
    plot_groups(layer_values(results, "mean_deviation", layer=layer), results, layer=layer, ax=ax, label=label)
    if "mean_deviation_null" in results and results["mean_deviation_null"].sel(layer=layer).notnull().any():
        null = layer_values(results, "mean_deviation_null", layer=layer)
        for group in sister_groups(null, results, layer=layer, label=label):
            ax.plot(group.x, group.runs.mean("run"), ":", color=group.colour, linewidth=0.7, label="_")
        ax.plot([], [], ":", color="0.3", linewidth=0.7, label="noise")
    ax.set(xlabel="iteration", ylabel=r"mean of $|1 - \sigma_W / \sigma_R|$", ylim=(0, None))
    return ax
