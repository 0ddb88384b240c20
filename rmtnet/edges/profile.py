"""The extreme singular values of noise whose variance differs from place to place."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet import checks
from rmtnet.bulk import without_largest
from rmtnet.edges.noise import heavy_excess
from rmtnet.edges.simulated import Tail
from rmtnet.edges.testing import Extreme
from rmtnet.laws import TracyWidom, VarianceProfile, connected_components
from rmtnet.spectra import as_blocks, singular_values

Floats = NDArray[np.float64]
Counts = NDArray[np.intp]

# Up to this short side noise with the profile is simulated as it is; beyond, at the smaller one.
_SIMULATED, _REDUCED = 512, 256


def largest_in_profile(
    weight: ArrayLike,
    variances: ArrayLike,
    *,
    heights: ArrayLike | None = None,
    widths: ArrayLike | None = None,
    draws: int = 400,
    seed: int = 0,
) -> Extreme:
    """Test the largest singular value against noise with a profile of variances, known up to one factor.

    For masks and for layers whose parts started with other variances; to plain noise such a layer shows many spikes.

    Parameters
    ----------
    weight : (out, in)
    variances : (R, C) array_like
        Relative variances on a grid of blocks, 0 where there are no weights.
    heights, widths : (R,), (C,) array_like of int
        Rows and columns of the grid's blocks; equal ones by default.
    draws, seed : of the simulation
        The layer's own entries are permuted within the profile and given random signs; 400 draws leave 15 % error of a
        p-value of 1 %. From a short side of 512 on the same profile is simulated at a side of 256, and what its law
        has beside Tracy-Widom's centre and scale is extrapolated; heavy-tailed entries and grids too fine to be made
        smaller are permuted as they are, with a quarter of the draws.

    Raises
    ------
    TypeError, ValueError
        As :func:`largest`; if the profile does not fit the weight, which is not 0 where the variance is, or falls
        into parts that share no row or column.
    """
    layer = _Layer.of(weight, variances, heights, widths, draws)
    if layer.short > _SIMULATED and not layer.heavy and (small := layer.reduced()) is not None:
        return layer.result(_extrapolated(layer, small, draws, seed), layer.values[0], f"{draws} of a smaller size")
    found, kind = _permuted(layer, draws, seed)
    p = float(Tail.of(found[:, 0]).p(layer.values[0] ** 2 / layer.mean_square))
    return layer.result(p, layer.values[0], kind)


def smallest_in_profile(
    weight: ArrayLike,
    variances: ArrayLike,
    *,
    heights: ArrayLike | None = None,
    widths: ArrayLike | None = None,
    draws: int = 400,
    seed: int = 0,
) -> Extreme:
    """Test the smallest of the min(out, in) singular values, as :func:`largest_in_profile`; at every size simulated."""
    layer = _Layer.of(weight, variances, heights, widths, draws)
    found, kind = _permuted(layer, draws, seed)
    least = np.log(np.maximum([layer.values[-1] ** 2 / layer.mean_square, *found[:, 1]], 1e-300))
    return layer.result(float(Tail.of(-least[1:]).p(-least[0])), layer.values[-1], kind)


@dataclass(frozen=True)
class _Layer:
    """A weight in units of its largest entry, and its profile."""

    unit: float
    values: Floats
    """Singular values, descending."""
    grid: Floats
    sides: tuple[Counts, Counts]
    entries: Floats
    """Where there may be some, over their deviations."""
    rest: Floats
    """The same without the spikes: a strong one would pass for heavy-tailed noise."""

    @classmethod
    def of(
        cls, weight: ArrayLike, variances: ArrayLike, heights: ArrayLike | None, widths: ArrayLike | None, draws: int
    ) -> "_Layer":
        stack = as_blocks(weight)
        if len(stack) != 1 or checks.count(draws, "draws") < 20:
            raise ValueError(
                f"weight must be one matrix and draws at least 20, got shape {stack.shape} and draws={draws}"
            )
        unit = float(np.abs(stack).max())
        if not unit:
            raise ValueError("all weights are 0: there is no noise to compare with")
        matrix = stack[0] / unit
        grid, sides = _grid(matrix, variances, heights, widths)
        profile, values = _spread(grid, sides), singular_values(matrix)
        entries = _standardised(matrix, profile)
        layer = cls(unit, values, grid, sides, entries, entries)
        spikes = int(np.sum(layer.variable(values**2 / layer.mean_square) > TracyWidom(1).isf(0.01)))
        rest = _standardised(without_largest(matrix, spikes), profile)
        return replace(layer, rest=rest) if rest.any() else layer

    @property
    def short(self) -> int:
        return int(min(side.sum() for side in self.sides))

    @property
    def mean_square(self) -> float:
        return float(np.mean(self.entries**2))

    @property
    def heavy(self) -> bool:
        return bool(np.mean(self.rest**4) > (3 + heavy_excess(self.rest.size)) * np.mean(self.rest**2) ** 2)

    def variable(self, squares: Floats) -> Floats:
        """Squared singular values over the mean square, from the edge of the law on, in its scale."""
        limit, long = VarianceProfile(self.grid, *self.sides), max(side.sum() for side in self.sides)
        return (squares / long - limit.edges[1]) / limit.edge_scale(self.short)

    def reduced(self) -> "_Layer | None":
        """Of a short side near 256, if each part of the grid keeps some rows and columns."""
        sides = [np.rint(side * (_REDUCED / self.short)).astype(np.intp) for side in self.sides]
        return replace(self, sides=(sides[0], sides[1])) if min(side.min() for side in sides) >= 8 else None

    def result(self, p: float, value: float, kind: str) -> Extreme:
        return Extreme(p, float(value) * self.unit, 0, np.array([p]), f"{kind} permuted within the profile")


def _permuted(layer: _Layer, draws: int, seed: int) -> tuple[Floats, str]:
    draws = draws if layer.short <= _SIMULATED else max(20, draws // 4)
    pool = layer.entries if layer.heavy else layer.rest
    return _simulated(layer, pool, draws, seed), str(draws)


def _extrapolated(layer: _Layer, small: _Layer, draws: int, seed: int) -> float:
    """P-value of the largest: the mean's distance from Tracy-Widom's goes as side^(-1/3), the deviation's as ^(-2/3).

    So do the kurtosis' shift, of order 1 beside a scale of side^(1/3), and what it adds to the width.
    """
    law, size = TracyWidom(1), small.short / layer.short
    variable = small.variable(_simulated(small, layer.rest, draws, seed)[:, 0])
    deviation = math.sqrt(law.var())
    mean = law.mean() + (variable.mean() - law.mean()) * size ** (1 / 3)
    spread = 1 + (variable.std(ddof=1) / deviation - 1) * size ** (2 / 3)
    found = layer.variable(layer.values[:1] ** 2 / layer.mean_square)[0]
    return float(law.sf(law.mean() + (found - mean) / spread))


def _standardised(matrix: Floats, profile: Floats) -> Floats:
    """Entries where there may be some, over their deviations."""
    present = profile > 0
    return matrix[present] / np.sqrt(profile[present])


def _spread(grid: Floats, sides: tuple[Counts, Counts]) -> Floats:
    """Variance of each entry."""
    return np.repeat(np.repeat(grid, sides[0], axis=0), sides[1], axis=1)


def _grid(
    matrix: Floats, variances: ArrayLike, heights: ArrayLike | None, widths: ArrayLike | None
) -> tuple[Floats, tuple[Counts, Counts]]:
    """Variances over the largest, and the sides of the grid's blocks."""
    grid = checks.real(variances, "variances", negative=False)
    if grid.ndim != 2 or not grid.any():
        raise ValueError(f"variances must be a grid (R, C) and not all 0, got shape {grid.shape}")
    given = zip((heights, widths), ("heights", "widths"), matrix.shape, grid.shape, strict=True)
    sides = [
        np.full(parts, side // parts) if own is None else checks.real(own, name, negative=False)
        for own, name, side, parts in given
    ]
    wanted = list(zip(sides, grid.shape, matrix.shape, strict=True))
    if any(own.shape != (parts,) or own.sum() != side or (own % 1).any() for own, parts, side in wanted):
        raise ValueError(
            f"heights and widths of the {grid.shape} grid must be whole and add up to the weight's {matrix.shape}, "
            f"got {sides[0].tolist()} and {sides[1].tolist()}"
        )
    grid, whole = grid / grid.max(), (sides[0].astype(np.intp), sides[1].astype(np.intp))
    if matrix[_spread(grid, whole) == 0].any():
        raise ValueError("weight is not 0 where the variance is: is the profile another layer's?")
    if len(connected_components(grid)) != 1:
        raise ValueError("the profile falls into parts that share no row or column: test them by largest(weight)")
    return grid, whole


def _simulated(layer: _Layer, pool: Floats, draws: int, seed: int) -> Floats:
    """(draw, end) largest and smallest squared singular value over the mean square, of permuted entries with signs."""
    deviation = np.sqrt(_spread(layer.grid, layer.sides))
    rng, present, found = checks.generator(seed, "seed"), deviation > 0, np.empty((draws, 2))
    size, matrix = int(present.sum()), np.zeros_like(deviation)
    for draw in range(draws):
        # A smaller layer's entries are drawn from the pool.
        own = rng.permutation(pool) if size == pool.size else rng.choice(pool, size)
        matrix[present] = own * rng.choice([-1.0, 1.0], size) * deviation[present]
        found[draw] = singular_values(matrix, method="gram")[[0, -1]] ** 2 / np.mean(own**2)
    return found
