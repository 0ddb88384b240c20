"""Axes-level plots of the Dataset of results that ``rmtnet analyze`` writes.

Every function takes the data first, draws on the ``ax`` it is given and returns it; figure, scales and legend are
the caller's. Sister networks keep one look in all panels: colour and dashes follow the rank of their
number of blocks, so that a figure reads in grey too. With several seeds a line is the mean over the runs, at
the steps that all of them have, and a thin band spans their minimum and maximum. ``label`` is a format of the
number of blocks ``b``; a format of ``run`` gives every run its own line.
"""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from rmtnet.laws import MarchenkoPastur

DASHES: tuple[Any, ...] = ("-", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (2, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (1, 0.7)))


def layer_values(results: xr.Dataset, variable: str, *, layer: str) -> xr.DataArray:
    """One variable of one layer, for the runs that have it, with their number of ``blocks`` as a coordinate.

    Raises
    ------
    ValueError
        If the variable or the layer is not there, or no run has a value.
    """
    for name in (variable, "blocks", "layer", "seed"):
        if name not in results:
            raise ValueError(f"results hold no {name}: write them with rmtnet analyze RUNS -o results.nc")
    if layer not in results["layer"].values:
        there = ", ".join(map(str, results["layer"].values))
        raise ValueError(f"results hold no layer {layer!r}: there is {there}")
    values = results[variable].sel(layer=layer).dropna("run", how="all")
    if not values.sizes["run"]:
        raise ValueError(f"no run has a {variable} of {layer}: all weights are 0, or a --reference is missing")
    blocks = results["blocks"].sel(layer=layer, run=values["run"].values)
    return values.assign_coords(blocks=("run", blocks.values.astype(int)))


def sisters(results: xr.Dataset, *, layer: str) -> xr.Dataset:
    """The runs that differ by nothing but the number of blocks in ``layer``: all other layers held are dense.

    Raises
    ------
    ValueError
        If two of them have the same number of blocks and the same seed, hence differ by something else.
    """
    blocks = layer_values(results, "blocks", layer=layer)["blocks"]
    others = results["blocks"].sel(run=blocks["run"].values, layer=results["layer"].values != layer)
    blocks = blocks[~(others > 1).any("layer").values]
    kept = results.sel(run=blocks["run"].values)
    first: dict[tuple[int, int], str] = {}
    for run, b, seed in zip(kept["run"].values, blocks.values, kept["seed"].values, strict=True):
        twin = first.setdefault((int(b), int(seed)), run)
        if twin != run:
            raise ValueError(f"{twin} and {run} both have {b} blocks in {layer} and seed {seed}: keep one")
    return kept


def last_step(results: xr.Dataset, variable: str, *, layer: str) -> int:
    """The last step at which every run that has the variable at all has a value of it (a ValueError if none)."""
    present = layer_values(results, variable, layer=layer).notnull()
    if "order" in present.dims:
        present = present.any("order")
    common = present["step"].values[present.all("run").values]
    if not len(common):
        raise ValueError(f"the runs share no step with a {variable} of {layer}: record them on one schedule")
    return int(common[-1])


def plot_variance(results: xr.Dataset, *, layer: str, ax: Axes, label: str = "b = {b}") -> Axes:
    """Variance of a layer's in-block weights against iteration, one line a sister."""
    _plot_lines(layer_values(results, "variance", layer=layer), results, layer=layer, ax=ax, label=label)
    ax.set(xlabel="iteration", ylabel=f"variance of {layer}")
    return ax


def plot_variance_ratio(results: xr.Dataset, *, layer: str, ax: Axes, label: str = "b = {b} / b = 1") -> Axes:
    """Variance over the dense sister's against iteration, one line a block diagonal sister (a ValueError if none)."""
    ratios = layer_values(results, "variance_ratio", layer=layer)
    ratios = ratios.sel(run=ratios["blocks"].values > 1)
    if not ratios.sizes["run"]:
        raise ValueError(f"no run with more than one block in {layer}: a variance ratio needs two sisters")
    _plot_lines(ratios, results, layer=layer, ax=ax, label=label)
    ax.set(xlabel="iteration", ylabel=f"variance ratio of {layer}")
    return ax


def plot_mean_deviation(results: xr.Dataset, *, layer: str, ax: Axes, label: str = "b = {b}") -> Axes:
    """Mean over order of ``|1 - sigma_W / sigma_R|`` against iteration, one line a sister."""
    _plot_lines(layer_values(results, "mean_deviation", layer=layer), results, layer=layer, ax=ax, label=label)
    ax.set(xlabel="iteration", ylabel=r"mean of $|1 - \sigma_W / \sigma_R|$", ylim=(0, None))
    return ax


def plot_singular_values(results: xr.Dataset, *, layer: str, step: int, ax: Axes, label: str = "b = {b}") -> Axes:
    """Singular values of a layer at one step against order, one line a sister, over R's mean (wide and grey).

    R is an iid matrix of the dense sister's shape and of its variance at that step; it is drawn where all runs have
    the same R. The axis ends as in :func:`plot_singular_value_ratio`.
    """
    values = _at(layer_values(results, "singular_values", layer=layer), step)
    variance = _at(layer_values(results, "reference_variance", layer=layer), step)
    _plot_lines(values, results, layer=layer, ax=ax, label=label)
    _limit_to_bulk(values, ax=ax)
    null = _shared(layer_values(results, "null_mean", layer=layer))
    if null is not None and np.ptp(variance.values) < 0.05 * variance.values.min():
        null = null * float(np.sqrt(variance.mean()))
        ax.plot(null["order"], null, color="0.75", linewidth=2.5, zorder=1, label="R")
    ax.set(xlabel="order", ylabel=f"singular value of {layer}")
    return ax


def plot_singular_value_ratio(
    results: xr.Dataset, *, layer: str, step: int, ax: Axes, label: str = "b = {b} / R"
) -> Axes:
    """Ordered singular values over R's mean ones at one step, one line a sister; grey: 90 % of single draws of R.

    A few extreme orders would squash all others: the axis holds the central 98 % of the values, triangles at
    its ends mark the lines that go on, and the furthest value is written there.
    """
    ratios = _at(layer_values(results, "singular_value_ratio", layer=layer), step)
    low, high = (_shared(layer_values(results, f"null_{end}", layer=layer)) for end in ("low", "high"))
    _plot_lines(ratios, results, layer=layer, ax=ax, label=label)
    _limit_to_bulk(ratios, ax=ax)
    if low is not None and high is not None:
        ax.fill_between(low["order"], low, high, color="0.75", linewidth=0, zorder=1, label="R, 5 to 95 %")
    ax.set(xlabel="order", ylabel=f"singular value ratio of {layer}")
    return ax


def plot_spectrum(
    eigenvalues: ArrayLike,
    law: MarchenkoPastur,
    *,
    ax: Axes,
    noise: ArrayLike | None = None,
    bins: int = 40,
    **hist_kws: Any,
) -> Axes:
    """Density of nonzero eigenvalues against their law's, and against that of R's (``noise``, a step line).

    As ``law.pdf`` does, each integrates to ``1 - law.atom``. Eigenvalues above the law's upper edge are ticked;
    the axis ends at most half the bulk's width above it, where those further out are counted. ``bins`` lie
    between the law's edges, and more of their width outside; ``hist_kws`` go to ``Axes.hist``.

    Parameters
    ----------
    eigenvalues, noise : (K,) array_like
        Without structural zeros, for which the atom stands.

    Raises
    ------
    ValueError
        If an eigenvalue is negative or not finite.
    """
    values = np.ravel(np.asarray(eigenvalues, dtype=float))
    if not values.size or not np.isfinite(values).all() or values.min() < 0:
        raise ValueError("eigenvalues must be finite and not negative: pass those of W W^T, without NaN")
    lower, upper = law.edges
    width = (upper - lower) / bins
    end = min(max(values.max(), upper), (3 * upper - lower) / 2)
    edges = lower + width * np.arange(-np.floor(lower / width), np.ceil((end - lower) / width) + 1)
    height = (1 - law.atom) / width
    style = {"histtype": "stepfilled", "color": "0.8", "linewidth": 0, **hist_kws}
    ax.hist(values, edges.tolist(), weights=np.full(values.size, height / values.size), **style)
    if noise is not None:
        ax.stairs(
            np.histogram(noise, edges)[0] * height / np.size(noise),
            edges,
            color=matplotlib.colormaps["viridis"](0.4),
            label="R",
        )
    x = np.linspace(lower, upper, 500)
    ax.plot(x, law.pdf(x), color="black", label="Marchenko-Pastur")
    _tick_outliers(values[values > upper], float(edges[-1]), ax=ax)
    ax.set(xlabel="eigenvalue", ylabel="density", xlim=(0, edges[-1]))
    return ax


def plot_line_ends(ax: Axes, form: str = "{:.2f}") -> Axes:
    """Write the last value of each line of ``ax`` beside its right end, in the line's colour."""
    for line in ax.get_lines():
        x, y = np.asarray(line.get_xydata())[-1]
        _note(form.format(y), (x, y), (3, 0), ax=ax, color=line.get_color(), va="center")
    return ax


def _note(text: str, at: tuple[float, float], shift: tuple[float, float], *, ax: Axes, **look: Any) -> None:
    """Small text ``shift`` points from ``at``, also outside the frame."""
    ax.annotate(text, at, shift, textcoords="offset points", fontsize="small", annotation_clip=False, **look)


def _shared(of_runs: xr.DataArray) -> xr.DataArray | None:
    """What all runs have alike; None where they differ: then there is no one R to draw."""
    first = of_runs.isel(run=0, drop=True)
    return (
        first.dropna("order")
        if first.broadcast_equals(of_runs.max("run")) and first.broadcast_equals(of_runs.min("run"))
        else None
    )


def _at(values: xr.DataArray, step: int) -> xr.DataArray:
    at = values.sel(step=values["step"].values == step).dropna("run", how="all")
    if not at.size:
        raise ValueError(f"no run has a {values.name} at step {step}: last_step finds one that all runs have")
    return at.squeeze("step")


def _plot_lines(values: xr.DataArray, results: xr.Dataset, *, layer: str, ax: Axes, label: str) -> None:
    key = "run" if "{run}" in label else "blocks"
    # Ranked among all, also those that this panel leaves out.
    every = layer_values(results, "blocks", layer=layer)[key].values
    every = np.unique(every) if key == "blocks" else every
    # The light end of the map is lost on paper.
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.8, len(every)))
    (x,) = set(values.dims) - {"run"}
    # Iterations and orders are whole numbers, and so are their ticks.
    ax.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    for rank, group in enumerate(every):
        runs = values.sel(run=values[key].values == group).dropna(x)
        if not runs.size:
            continue
        name, dashes = label.format(b=group, run=group), DASHES[rank % len(DASHES)]
        ax.plot(
            runs[x],
            runs.mean("run"),
            color=colours[rank],
            linestyle=dashes,
            linewidth=1,
            label=name,
            marker="." if runs.sizes[x] == 1 else None,
        )
        if runs.sizes["run"] > 1:
            ax.fill_between(runs[x], runs.min("run"), runs.max("run"), color=colours[rank], alpha=0.25, linewidth=0)


def _limit_to_bulk(values: xr.DataArray, *, ax: Axes) -> None:
    low, high = np.nanquantile(values, [0.01, 0.99])
    margin = 0.2 * (high - low)
    bottom, top = max(low - margin, 0.0), high + margin
    if values.sizes["order"] == 1 or bottom == top:
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
        _note(f"to {y[furthest]:.2f}", at, (6 if left else -6, -2 * sign), ax=ax, ha=ha, va=va, in_layout=False)


def _tick_outliers(outliers: NDArray[np.floating], end: float, *, ax: Axes) -> None:
    ax.plot(outliers, np.zeros(outliers.size), "|", color="black", markersize=8)
    beyond = int(np.sum(outliers > end))
    if beyond:
        text = f"{beyond} beyond,\nup to {outliers.max():.2g}"
        _note(text, (1, 0), (-2, 8), ax=ax, xycoords="axes fraction", ha="right", in_layout=False)
