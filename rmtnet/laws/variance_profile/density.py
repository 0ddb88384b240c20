"""Support and density of the singular values of one connected profile, tabulated once.

Inside each interval of the support ``m`` is analytic but for the square roots at the ends: ``Im m = w(s) g(s)`` with
``w = sqrt((s - A)(B - s))``. The analytic g is kept as Chebyshev series on panels, halved until they resolve it. An
interval that reaches 0 continues to -B, so that ``w = sqrt(B^2 - s^2)``; where ``g`` has a power-law singularity at 0
the panels shrink towards it, and below the last one the power law is integrated.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from rmtnet.laws.variance_profile.equation import Complexes, DysonEquation, Floats

_ORDER = 20
_NODES = chebyshev.chebpts1(_ORDER)
_TO_SERIES = np.linalg.inv(chebyshev.chebvander(_NODES, _ORDER - 1))
_FINE = chebyshev.chebpts1(32)
_FINE_TO_SERIES = np.linalg.inv(chebyshev.chebvander(_FINE, 31))
_RESOLVED = 3e-12
_NEGLIGIBLE = 1e-7
_POWER_LAW = 1e-10


@dataclass(frozen=True)
class Edge:
    """One end of an interval of the support, in singular values."""

    place: float
    steepness: float
    """The density is ``steepness * sqrt(|s - place|)`` there."""


class Band:
    """Density of the singular values on one interval of the support."""

    def __init__(self, equation: DysonEquation, weights: Floats, lower: Edge | None, upper: Edge) -> None:
        self.equation, self.weights = equation, weights
        self.lower, self.upper = lower, upper
        self.first, self.last = lower.place if lower else 0.0, upper.place
        self._tabulate()

    def root(self, s: Floats) -> Floats:
        """w(s) of the module docstring, 0 outside."""
        start = self.first if self.lower else -self.last
        return np.sqrt(np.clip(s - start, 0, None)) * np.sqrt(np.clip(self.last - s, 0, None))

    def density(self, s: Floats) -> Floats:
        """Per unit singular value, 0 outside."""
        density = self._tabulated(s)
        if self.power:
            with np.errstate(divide="ignore"):
                density *= np.minimum(s / self.starts[0], 1) ** self.power
        return np.where((s >= self.first) & (s <= self.last), density, 0.0)

    def _tabulated(self, s: Floats) -> Floats:
        panel = np.clip(np.searchsorted(self.starts, s, side="right") - 1, 0, len(self.starts) - 1)
        return self.root(s) * _clenshaw(self.series[panel].T, _within(s, self.starts[panel], self.ends[panel]))

    @property
    def mass(self) -> float:
        """Integral of the density."""
        return float(self.masses[-1])

    def mass_below(self, s: Floats) -> Floats:
        """Integral of the density up to s."""
        angle = self._angle(np.clip(s, self.first, self.last))
        panel = np.clip(np.searchsorted(self.angles, angle, side="right") - 1, 0, len(self.starts) - 1)
        low, high = self.angles[panel], self.angles[panel + 1]
        within = _clenshaw(self.integrals[panel].T, _within(angle, low, high))
        mass = self.masses[panel] + (high - low) / 2 * within
        if not self.angles[0]:
            return mass
        # Below the first panel the density is a power law.
        return mass * np.minimum(angle / self.angles[0], 1) ** (1 + self.power)

    @property
    def mesh(self) -> Floats:
        """Singular values that follow the density, both ends included."""
        share = np.linspace(0, 1, 8, endpoint=False)
        angles = (self.angles[:-1, None] + np.diff(self.angles)[:, None] * share).ravel()
        return np.concatenate([[self.first], self._from_angle(angles)[0], [self.last]])

    def _angle(self, s: Floats) -> Floats:
        if self.lower is None:
            return np.arcsin(s / self.last)
        return 2 * np.arcsin(np.sqrt(np.clip((s - self.first) / (self.last - self.first), 0, 1)))

    def _from_angle(self, angle: Floats) -> tuple[Floats, Floats]:
        """s and ``ds/dangle``."""
        if self.lower is None:
            return self.last * np.sin(angle), self.last * np.cos(angle)
        width = self.last - self.first
        return self.first + width * np.sin(angle / 2) ** 2, width * np.sin(angle) / 2

    def _tabulate(self) -> None:
        panels = sorted(self._panels(), key=lambda panel: panel[0])
        self.starts, self.ends = np.array([panel[0] for panel in panels]), np.array([panel[1] for panel in panels])
        self.series = np.array([panel[2] for panel in panels])
        self.angles = self._angle(np.append(self.starts, self.last))
        self.power, rest = 0.0, 0.0
        if self.starts[0] > self.first:
            at_start, beyond = self._tabulated(self.starts[0] * np.array([1.0, 2.0]))
            self.power = float(np.log2(beyond / at_start))
            rest = float(self.starts[0] * at_start / (1 + self.power))
        half = np.diff(self.angles)[:, None] / 2
        s, slope = self._from_angle(self.angles[:-1, None] + half * (1 + _FINE))
        values = self.density(s.ravel()).reshape(s.shape) * slope
        self.integrals = chebyshev.chebint(values @ _FINE_TO_SERIES.T, lbnd=-1, axis=1)
        self.masses = np.cumsum(np.append(rest, half[:, 0] * self.integrals.sum(axis=1)))

    def _panels(self) -> Iterator[tuple[float, float, Floats]]:
        waiting: list[tuple[float, float, Complexes | None]] = [(self.first, self.last, None)]
        coarser: Complexes | None = None
        while waiting:
            low, high, guess = waiting.pop()
            s = (low + high) / 2 + (high - low) / 2 * _NODES
            try:
                m = self.equation.on_axis(s, guess)
            except RuntimeError:
                if low > 0 or high > _POWER_LAW * self.last:
                    raise
                continue  # the power law of the panels above goes on to 0
            smooth = m.real + 1j * m.imag / self.root(s)[:, None]
            series = 2 / math.pi * _TO_SERIES @ (smooth.imag @ self.weights)
            density, tail = self.root(s) * np.abs(series).max(), np.abs(series[-3:]).max()
            # Towards a singularity at 0 the rounding errors of the density grow, those of its integral do not.
            rounding = 1e-13 if self.lower is None and high < 1e-3 * self.last else 1e-15
            if tail < _RESOLVED * np.abs(series).max() or tail * self.root(s).max() * (high - low) < rounding:
                yield low, high, series
            elif low > 0 or high * density.max() > _NEGLIGIBLE:
                middle = (low + high) / 2
                left = self._guess(smooth, (low, high), (low, middle))
                if low == 0:  # m is nearly a product of powers of s there
                    left, coarser = (left if coarser is None else m * (m / coarser)), m
                waiting += [(low, middle, left), (middle, high, self._guess(smooth, (low, high), (middle, high)))]

    def _guess(self, smooth: Complexes, parent: tuple[float, float], child: tuple[float, float]) -> Complexes:
        """m on a child's nodes from its parent's."""
        s = sum(child) / 2 + (child[1] - child[0]) / 2 * _NODES
        place = (2 * s - sum(parent)) / (parent[1] - parent[0])
        values = chebyshev.chebvander(place, _ORDER - 1) @ (_TO_SERIES @ smooth)
        return values.real + 1j * self.root(s)[:, None] * values.imag


def _within(x: NDArray[np.floating], low: Floats, high: Floats) -> NDArray[np.floating]:
    """Place between low and high, from -1 to 1."""
    return np.clip((2 * x - low - high) / (high - low), -1, 1)


def _clenshaw(series: NDArray[np.floating], x: NDArray[np.floating]) -> Floats:
    """Chebyshev series, its own for each x: (order, point) and (point,)."""
    ahead, now = np.zeros(x.shape), np.zeros(x.shape)
    for coefficient in series[:0:-1]:
        now, ahead = coefficient + 2 * x * now - ahead, now
    return series[0] + x * now - ahead


def bands(equation: DysonEquation, weights: Floats, mass: float) -> list[Band]:
    """The intervals of the support; `mass` is what the density must integrate to.

    Raises
    ------
    RuntimeError
        If it does not: an interval is too narrow to be found.
    """
    for points in (48, 192, 768):
        found = [Band(equation, weights, *ends) for ends in _intervals(equation, weights, points)]
        if abs(sum(band.mass for band in found) - mass) < 1e-8 * mass:
            return found
    raise RuntimeError("the support of the law was not resolved: is a group of rows or columns almost detached?")


def _intervals(equation: DysonEquation, weights: Floats, points: int) -> list[tuple[Edge | None, Edge]]:
    grid = np.concatenate([np.geomspace(1e-9, 1 / points, points, endpoint=False), np.linspace(1 / points, 1, points)])
    s = grid * equation.bound
    m = equation.on_axis(s)
    for _ in range(4):
        s, m = _around_minima(equation, weights, s, m)
    real = np.all(m.imag == 0, axis=1)
    turns = np.flatnonzero(real[1:] != real[:-1])
    edges = [_edge(equation, weights, (s[k], m[k]), (s[k + 1], m[k + 1])) for k in turns]
    ends: list[Edge | None] = [*edges] if real[0] else [None, *edges]
    return [(ends[k], upper) for k in range(0, len(ends), 2) if (upper := ends[k + 1]) is not None]


def _around_minima(equation: DysonEquation, weights: Floats, s: Floats, m: Complexes) -> tuple[Floats, Complexes]:
    """The grid with more points around each minimum of a positive density: a narrow gap may hide there."""
    density = m.imag @ weights
    places = 1 + np.flatnonzero((density[1:-1] > 0) & (density[1:-1] < density[:-2]) & (density[1:-1] < density[2:]))
    if not len(places):
        return s, m
    share = np.linspace(0, 1, 8)[1:-1]
    between = np.concatenate([places - 1, places])
    new = (s[between, None] * (1 - share) + s[between + 1, None] * share).ravel()
    s, m = np.append(s, new), np.concatenate([m, equation.on_axis(new)])
    order = np.argsort(s)
    return s[order], m[order]


def _edge(
    equation: DysonEquation, weights: Floats, left: tuple[float, Complexes], right: tuple[float, Complexes]
) -> Edge:
    """The edge between two points of the axis, one outside the support and one inside."""
    for _ in range(50):
        outside = left if np.all(left[1].imag == 0) else right
        try:
            place, steepness = equation.fold(float(outside[0]), outside[1].real)
        except (RuntimeError, np.linalg.LinAlgError):
            place = math.nan
        if left[0] <= place <= right[0]:
            return Edge(place, float(2 / math.pi * steepness @ weights))
        s = (left[0] + right[0]) / 2
        m = equation.on_axis(np.array([s]))[0]
        if np.all(m.imag == 0) == np.all(left[1].imag == 0):
            left = s, m
        else:
            right = s, m
    raise RuntimeError(f"no square-root edge was found between {left[0]} and {right[0]}")
