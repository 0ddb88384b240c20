"""Extreme singular values over training."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from rmtnet.plots.lines import Group, sister_groups, whole_ticks
from rmtnet.plots.selection import layer_values

End = Literal["largest", "smallest"]
_MARKERS = {"largest": "^", "smallest": "v"}


def plot_extremes(
    results: xr.Dataset,
    *,
    layer: str,
    ax: Axes,
    ends: Sequence[End] = ("largest",),
    level: float = 0.01,
    label: str = "b = {b}",
) -> Axes:
    """Largest (and smallest) singular value over R's expectation against iteration, one line a sister.

    Triangles (up: largest, down: smallest) mark the steps where p < ``level`` in all runs of a line. A vertical rule
    in the line's look is the first departure of the largest from noise, where results hold one: for several runs that
    of the last to leave, and none if one never does.

    R is the reference's: a sister of many blocks is off 1 at both ends as noise already. The p-values know its blocks.

    Raises
    ------
    ValueError
        If an end is neither "largest" nor "smallest", or results lack a variable, the layer or its values.
    """
    if not ends or not set(ends) <= _MARKERS.keys():
        raise ValueError(f"ends must be 'largest', 'smallest' or both, got {ends!r}")
    whole_ticks(ax)
    ax.axhline(1, color="0.75", linewidth=2.5, zorder=1, label="R")
    for end in ends:
        p = layer_values(results, f"{end}_p", layer=layer)
        for group in sister_groups(_ratio(results, end, layer), results, layer=layer, label=label):
            group.plot(ax, label=None if end == ends[0] else "_")
            _mark(group, p, end, level, ax=ax)
        ax.plot([], [], _MARKERS[end], color="0.3", markersize=4, label=f"{end}: p < {level:g}")
    if "largest" in ends and "first_departure" in results:
        _rule_departures(results, layer=layer, ax=ax, label=label)
    ax.set(xlabel="iteration", ylabel=f"{' and '.join(ends)} singular\nvalue of {layer} / R's")
    return ax


def _ratio(results: xr.Dataset, end: End, layer: str) -> xr.DataArray:
    if end == "largest":
        return layer_values(results, "largest_ratio", layer=layer)
    value, variance, null = (
        layer_values(results, name, layer=layer)
        for name in ("smallest_singular_value", "reference_variance", "null_mean")
    )
    ratio = value / (null.min("order") * np.sqrt(variance))
    return ratio.transpose("run", "step").assign_coords(blocks=value["blocks"].sel(run=ratio["run"]))


def _mark(group: Group, p: xr.DataArray, end: End, level: float, *, ax: Axes) -> None:
    of_group = p.reindex(run=group.runs["run"], step=group.x)
    beyond = (of_group < level).all("run").values
    y = group.runs.mean("run").values
    ax.plot(group.x.values[beyond], y[beyond], _MARKERS[end], color=group.colour, markersize=3, label="_")


def _rule_departures(results: xr.Dataset, *, layer: str, ax: Axes, label: str) -> None:
    steps = results["first_departure"].sel(layer=layer)
    for group in sister_groups(layer_values(results, "largest_ratio", layer=layer), results, layer=layer, label=label):
        last = float(steps.sel(run=group.runs["run"].values).max(skipna=False))
        if not np.isnan(last):
            ax.axvline(last, color=group.colour, linestyle=group.dashes, linewidth=0.8, zorder=0.8)
    ax.plot([], [], "|", color="0.3", markersize=9, label="first departure")
