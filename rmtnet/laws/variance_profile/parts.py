"""The law of one matrix as a sum over connected components, each in units that equal ones share."""

import functools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rmtnet.laws.elementwise import Floats
from rmtnet.laws.variance_profile.components import structural_rank
from rmtnet.laws.variance_profile.density import Band, bands
from rmtnet.laws.variance_profile.equation import DysonEquation

Cut = tuple[Floats, Floats, Floats]
Tuple = tuple[float, ...]


@dataclass(frozen=True)
class Part:
    """One interval of the support of a component, and of its copies, per eigenvalue of the whole matrix."""

    band: Band
    scale: float
    """Eigenvalues are ``scale * s^2``, s the band's singular values."""
    weight: float
    """Of one copy."""
    copies: int

    @property
    def interval(self) -> tuple[float, float]:
        """Its ends."""
        return self.scale * self.band.first**2, self.scale * self.band.last**2

    @property
    def mesh(self) -> Floats:
        """Points that follow the density, both ends included."""
        return np.append(np.array(self.interval), self.scale * self.band.mesh[1:-1] ** 2)

    def values(self, kind: Literal["density", "below", "above"], x: Floats) -> Floats:
        """Density at x, or mass below or above x."""
        with np.errstate(over="ignore"):
            s = np.minimum(np.sqrt(np.fmax(x, 0) / self.scale), 2 * self.band.last)
            share = self.copies * self.weight
            if kind == "density":
                density = np.where(x >= 0, share * self.band.density(s), 0.0)
                at_zero = np.where(density > 0, np.inf, 0.0)
                return np.divide(density / 2, self.scale * s, out=at_zero, where=s > 0)
        below = self.band.mass_below(s)
        return share * (below if kind == "below" else self.band.mass - below)

    def edge_scale(self, count: float) -> float:
        """Scale of the largest eigenvalue at the upper end: ``count * density ~ sqrt(edge - x) / pi / scale^1.5``."""
        edge = self.band.upper
        return 2 * edge.place * self.scale / (math.pi * self.weight * edge.steepness * count) ** (2 / 3)


def parts(components: list[Cut], long: float, short: float) -> tuple[Part, ...]:
    """Of components (variances, heights, widths) of a matrix with these sides."""
    found: dict[tuple[Band, float, float], int] = {}
    for component in components:
        variances, heights, widths = _merged(*component)
        total, top = float(heights.sum() + widths.sum()), float(variances.max())
        table = tuple(map(tuple, (variances / top).tolist()))
        for band in _unit_bands(table, tuple((heights / total).tolist()), tuple((widths / total).tolist())):
            place = band, top * (total / long), total / short
            found[place] = found.get(place, 0) + 1
    return tuple(Part(*place, copies) for place, copies in found.items())


def _merged(variances: Floats, heights: Floats, widths: Floats) -> Cut:
    """Rows alike made one, and columns."""
    table, row = np.unique(variances, axis=0, return_inverse=True)
    table, column = np.unique(table, axis=1, return_inverse=True)
    sizes = np.bincount(row.ravel(), heights), np.bincount(column.ravel(), widths)
    return table, sizes[0].astype(np.float64), sizes[1].astype(np.float64)


@functools.lru_cache(maxsize=256)
def _unit_bands(variances: tuple[Tuple, ...], heights: Tuple, widths: Tuple) -> tuple[Band, ...]:
    table, rows, columns = np.array(variances), np.array(heights), np.array(widths)
    mass = structural_rank(table, rows, columns)
    if len(rows) > len(columns):
        table, rows, columns = table.T, columns, rows
    return tuple(bands(DysonEquation(table * columns, table.T * rows), rows, mass))
