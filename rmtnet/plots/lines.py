"""Lines of sister networks, the notes beside them, and where their axis ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from rmtnet.plots.selection import layer_values

Floats = NDArray[np.floating]

DASHES: tuple[Any, ...] = ("-", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (2, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (1, 0.7)))
NOISE: dict[str, Any] = {"color": "0.75", "linewidth": 0, "zorder": 1}
"""Look of a band of noise."""
R = "R, 5 to 95 %"
COLOUR = matplotlib.colormaps["viridis"](0.4)
"""Of what is neither grey nor one of several sisters."""


@dataclass(frozen=True)
class Group:
    """The runs of one line."""

    name: str
    colour: Any
    dashes: Any
    runs: xr.DataArray
    """(run, x), at the x that all of them have; one x at least."""

    @property
    def x(self) -> xr.DataArray:
        (dim,) = set(self.runs.dims) - {"run"}
        return self.runs[dim]

    def plot(self, ax: Axes, *, label: str | None = None) -> None:
        """Their mean."""
        look = {"color": self.colour, "linestyle": self.dashes, "linewidth": 1}
        marker = "." if self.x.size == 1 else None
        ax.plot(self.x, self.runs.mean("run"), marker=marker, label=self.name if label is None else label, **look)

    def fill(self, ax: Axes, low: xr.DataArray, high: xr.DataArray) -> None:
        ax.fill_between(self.x, low, high, color=self.colour, alpha=0.25, linewidth=0)


def sister_groups(values: xr.DataArray, results: xr.Dataset, *, layer: str, label: str) -> Iterator[Group]:
    """What is to be one line each: sisters with equal blocks, or single runs where ``label`` says ``{run}``."""
    key = "run" if "{run}" in label else "blocks"
    # Ranked among all, also those that this panel leaves out.
    every = layer_values(results, "blocks", layer=layer)[key].values
    every = np.unique(every) if key == "blocks" else every
    # The light end of the map is lost on paper.
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.8, len(every)))
    (x,) = set(values.dims) - {"run"}
    for rank, group in enumerate(every):
        runs = values.sel(run=values[key].values == group).dropna(x)
        if runs.size:
            yield Group(label.format(b=group, run=group), colours[rank], DASHES[rank % len(DASHES)], runs)


def plot_groups(
    values: xr.DataArray,
    results: xr.Dataset,
    *,
    layer: str,
    ax: Axes,
    label: str,
    interval: tuple[xr.DataArray, xr.DataArray] | None = None,
) -> None:
    """A line a group; the band of several runs is their range, that of one its interval."""
    whole_ticks(ax)
    for group in sister_groups(values, results, layer=layer, label=label):
        group.plot(ax)
        if group.runs.sizes["run"] > 1:
            group.fill(ax, group.runs.min("run"), group.runs.max("run"))
        elif interval is not None:
            low, high = (end.sel({"run": group.runs["run"][0], group.x.name: group.x}) for end in interval)
            group.fill(ax, low, high)


def whole_ticks(ax: Axes) -> None:
    """Iterations and orders are whole numbers, and so are their ticks; a scale of the caller's has its own."""
    if ax.get_xscale() == "linear":
        ax.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


def noise_band(draws: ArrayLike, *, count: int | None = None, of: Callable[[Floats], ArrayLike] = np.asarray) -> Floats:
    """(2, x) 5 and 95 % of what ``of`` makes of each draw; a ValueError unless they are (draw, count), 20 or more."""
    stack = np.asarray(draws, dtype=float)
    if stack.ndim != 2 or len(stack) < 20 or count not in (None, stack.shape[1]):
        shape = f"(draw, {'K' if count is None else count})"
        raise ValueError(f"band must be {shape}, 20 draws or more, got shape {stack.shape}")
    return np.quantile([of(draw) for draw in stack], [0.05, 0.95], axis=0)


def plot_line_ends(ax: Axes, form: str = "{:.2f}") -> Axes:
    """Write the last value of each line of ``ax`` beside its right end, in the line's colour."""
    for line in ax.get_lines():
        x, y = np.asarray(line.get_xydata())[-1]
        note(form.format(y), (x, y), (3, 0), ax=ax, color=line.get_color(), va="center")
    return ax


def note(text: str, at: tuple[float, float], shift: tuple[float, float], *, ax: Axes, **look: Any) -> None:
    """Small text ``shift`` points from ``at``, also outside the frame."""
    ax.annotate(text, at, shift, textcoords="offset points", fontsize="small", annotation_clip=False, **look)


def note_beyond(count: int, furthest: float, *, ax: Axes) -> None:
    """How many values the axis leaves out at its right end, and how far they go."""
    if count:
        look: Any = {"xycoords": "axes fraction", "ha": "right", "in_layout": False}
        # Above the ticks and the low bars at the end of a density.
        note(f"{count} beyond,\nup to {furthest:.2g}", (1, 0.2), (-2, 0), ax=ax, **look)
