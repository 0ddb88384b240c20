"""Singular values against their order, and what noise has there."""

from typing import Protocol

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from rmtnet.plots.lines import NOISE, R, note, plot_groups
from rmtnet.plots.selection import at_step, layer_values


class NullBand(Protocol):
    """Ordered ratios of noise, each (order,): :class:`rmtnet.sisters.SisterNull` is one."""

    @property
    def low(self) -> ArrayLike: ...
    @property
    def high(self) -> ArrayLike: ...
    @property
    def band_low(self) -> ArrayLike: ...
    @property
    def band_high(self) -> ArrayLike: ...


def plot_singular_values(results: xr.Dataset, *, layer: str, step: int, ax: Axes, label: str = "b = {b}") -> Axes:
    """Singular values of a layer at one step against order, one line a sister, over R's mean (wide and grey).

    R is an iid matrix of the dense sister's shape and of its variance at that step; it is drawn where all runs have
    the same R. The axis ends as in :func:`plot_singular_value_ratio`.
    """
    values = at_step(layer_values(results, "singular_values", layer=layer), step)
    variance = at_step(layer_values(results, "reference_variance", layer=layer), step)
    plot_groups(values, results, layer=layer, ax=ax, label=label)
    _limit_to_bulk(values.values, ax=ax)
    null = _shared(layer_values(results, "null_mean", layer=layer))
    if null is not None and np.ptp(variance.values) < 0.05 * variance.values.min():
        null = null * float(np.sqrt(variance.mean()))
        ax.plot(null["order"], null, color="0.75", linewidth=2.5, zorder=1, label="R")
    ax.set(xlabel="order", ylabel=f"singular value of {layer}")
    return ax


def plot_singular_value_ratio(
    results: xr.Dataset,
    *,
    layer: str,
    step: int,
    ax: Axes,
    label: str = "b = {b} / R",
    null: NullBand | None = None,
) -> Axes:
    """Ordered singular values over R's mean ones at one step, one line a sister; grey: 90 % of single draws of R.

    A few extreme orders would squash all others: the axis holds the central 98 % of the values, triangles at
    its ends mark the lines that go on, and the furthest value is written there.

    Parameters
    ----------
    null : the noise to draw with :func:`plot_null_band` in place of R's band; it is that of one number of blocks
    """
    ratios = at_step(layer_values(results, "singular_value_ratio", layer=layer), step)
    plot_groups(ratios, results, layer=layer, ax=ax, label=label)
    if null is None:
        _limit_to_bulk(ratios.values, ax=ax)
        _plot_band_of_r(results, layer=layer, ax=ax)
    else:
        plot_null_band(null, ax=ax)
        _limit_to_bulk(np.concatenate([np.ravel(part) for part in (ratios, null.band_low, null.band_high)]), ax=ax)
    ax.set(xlabel="order", ylabel=f"singular value ratio of {layer}")
    return ax


def plot_null_band(null: NullBand, *, ax: Axes, label: str = "noise") -> Axes:
    """Bands of the ordered singular-value ratios of noise, as :func:`rmtnet.sisters.sister_null` gives them.

    Dark: each order by itself, so that a curve of noise leaves it at some orders. Light: whole curves.

    Raises
    ------
    ValueError
        If the four are not (order,) each.
    """
    low, high, band_low, band_high = (
        np.asarray(end, dtype=float) for end in (null.low, null.high, null.band_low, null.band_high)
    )
    shapes = [end.shape for end in (low, high, band_low, band_high)]
    if len(set(shapes)) > 1 or low.ndim != 1:
        raise ValueError(f"null must hold four ends of bands, each (order,), got shapes {shapes}")
    order = np.arange(1, len(low) + 1)
    whole, single = NOISE | {"color": "0.93", "zorder": 0.9}, NOISE | {"color": "0.82"}
    ax.fill_between(order, band_low, band_high, label=f"{label}, all orders at once", **whole)
    ax.fill_between(order, low, high, label=f"{label}, each order by itself", **single)
    return ax


def _plot_band_of_r(results: xr.Dataset, *, layer: str, ax: Axes) -> None:
    low, high = (_shared(layer_values(results, f"null_{end}", layer=layer)) for end in ("low", "high"))
    if low is not None and high is not None:
        ax.fill_between(low["order"], low, high, label=R, **NOISE)


def _shared(of_runs: xr.DataArray) -> xr.DataArray | None:
    """What all runs have alike; None where they differ: then there is no one R to draw."""
    first = of_runs.isel(run=0, drop=True)
    return (
        first.dropna("order")
        if first.broadcast_equals(of_runs.max("run")) and first.broadcast_equals(of_runs.min("run"))
        else None
    )


def _limit_to_bulk(values: np.ndarray, *, ax: Axes) -> None:
    low, high = np.nanquantile(values, [0.01, 0.99])
    margin = 0.2 * (high - low)
    bottom, top = max(low - margin, 0.0), high + margin
    if values.shape[-1] == 1 or bottom == top:
        return
    _mark_cut_lines(-1, bottom, ax=ax)
    _mark_cut_lines(1, top, ax=ax)
    ax.set_ylim(bottom, top)


def _mark_cut_lines(sign: int, end: float, *, ax: Axes) -> None:
    """A triangle where a line first goes beyond ``end`` (up for sign 1), and beside them the furthest value."""
    lines = [(line.get_color(), np.asarray(line.get_xydata())) for line in ax.get_lines()]
    cut = [(colour, xy[sign * xy[:, 1] > sign * end]) for colour, xy in lines]
    cut = [(colour, xy) for colour, xy in cut if len(xy)]
    # The line that goes furthest has its triangle on top.
    for colour, xy in sorted(cut, key=lambda line: (sign * line[1][:, 1]).max()):
        ax.plot(xy[0, 0], end, "^" if sign > 0 else "v", color=colour, markersize=3, clip_on=False)
    if cut:
        x, y = np.concatenate([xy for _, xy in cut]).T
        middle, furthest = np.mean(ax.get_xlim()), np.argmax(sign * y)
        left = bool(x[furthest] < middle)
        at = float(x[x < middle].max() if left else x[x >= middle].min()), end
        ha, va = "left" if left else "right", "top" if sign > 0 else "bottom"
        note(f"to {y[furthest]:.2f}", at, (6 if left else -6, -2 * sign), ax=ax, ha=ha, va=va, in_layout=False)
