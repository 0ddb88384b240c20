"""The law of the eigenvalues of a random matrix whose blocks differ in variance or are absent."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from rmtnet import checks
from rmtnet.laws.elementwise import Floats, elementwise, quantiles
from rmtnet.laws.marchenko_pastur import VARIANCES
from rmtnet.laws.variance_profile.components import connected_components, structural_rank
from rmtnet.laws.variance_profile.parts import Cut, Part, parts

_SIZES = (1e-100, 1e100)


@dataclass(frozen=True)
class VarianceProfile:
    """Law of the eigenvalues ``s^2 / max(out, in)`` of a matrix whose blocks differ in variance or are absent.

    s are the ``min(out, in)`` singular values. The entries are independent, of mean 0, and of one variance within
    each block of a grid. The law holds for large blocks; Marchenko-Pastur is its case of one block. Eigenvalues that
    are 0 whatever the entries (rows without any, four rows on three columns) are the ``atom``; zeros beyond
    ``min(out, in)`` are not counted. Methods take array_like and keep its shape; a scalar gives a scalar, NaN gives
    NaN. The equation is solved once, at the first use: about a second for a random mask of 50 x 50 blocks.

    Parameters
    ----------
    variances : (R, C) array_like
        Variances of the entries of each block, from 1e-300 to 1e305, or 0 for an absent one.
    heights, widths : (R,) and (C,) array_like
        Rows and columns of the blocks, as numbers or as proportions to one common length, from 1e-100 to 1e100; equal
        and square by default.

    Raises
    ------
    ValueError
        If variances are no table of finite numbers, negative or all 0, or if one or a size is out of its range.
    RuntimeError
        At the first use, if parts of the grid are so nearly detached that the support is not resolved, as they can be
        where variances or sizes differ by more than 1e12.

    Notes
    -----
    Inside the support the density is accurate to 1e-10 relative, but for the last 1e-6 of an interval; edges to
    1e-13. Connected components are solved apart and added.

    References
    ----------
    .. [1] Girko, Theory of Stochastic Canonical Equations, Kluwer 2001.
    .. [2] Hachem, Loubaton and Najim, Ann. Appl. Probab. 17 (2007) 875.
    .. [3] Alt, Erdos and Krueger, Electron. J. Probab. 22 (2017) 25.
    .. [4] Ajanki, Erdos and Krueger, Mem. Amer. Math. Soc. 261 (2019) 1261: the square-root edges.

    Examples
    --------
    >>> law = VarianceProfile([[1, 1], [1, 0]])
    >>> round(law.edges[1], 6), law.atom
    (3.375, 0.0)
    """

    variances: ArrayLike
    """Stored as a tuple of tuples, sizes as tuples: equal laws are equal and hashable."""
    heights: ArrayLike | None = None
    widths: ArrayLike | None = None

    def __post_init__(self) -> None:
        variances = checks.real(self.variances, "variances", negative=False)
        if variances.ndim != 2 or 0 in variances.shape:
            raise ValueError(f"variances must be a table (R, C) of blocks, got shape {variances.shape}")
        if not np.any(variances):
            raise ValueError("variances are all 0: a matrix without entries has no law; is the layer dead?")
        _lie_in(variances[variances > 0], VARIANCES, "variances other than 0")
        object.__setattr__(self, "variances", tuple(map(tuple, variances.tolist())))
        for axis, name in enumerate(("heights", "widths")):
            given = getattr(self, name)
            sizes = np.ones(variances.shape[axis]) if given is None else checks.floats(given, name)
            if sizes.shape != variances.shape[axis : axis + 1]:
                raise ValueError(f"{name} must be one a block, {variances.shape[axis]}, got shape {sizes.shape}")
            _lie_in(sizes, _SIZES, name)
            object.__setattr__(self, name, tuple(sizes.tolist()))

    @classmethod
    def of_blocks(
        cls, block_row: ArrayLike, block_col: ArrayLike, variances: ArrayLike, heights: ArrayLike, widths: ArrayLike
    ) -> "VarianceProfile":
        """Law of a block layer, from the blocks that it has.

        Parameters
        ----------
        block_row, block_col : (block,) int array_like
            Place of each block on the grid.
        variances : (block,) or scalar array_like
            Variance of each block's entries.
        heights, widths : (R,) and (C,) array_like
            Sizes of the grid's rows and columns, also of those without blocks.

        Raises
        ------
        ValueError
            If two blocks share a place, or if one lies off the grid.
        """
        rows, columns = checks.real(block_row, "block_row"), checks.real(block_col, "block_col")
        if rows.ndim != 1 or rows.shape != columns.shape:
            raise ValueError(f"block_row and block_col must both be (block,), got shapes {rows.shape}, {columns.shape}")
        sizes = checks.floats(heights, "heights"), checks.floats(widths, "widths")
        table, places = np.zeros((sizes[0].size, sizes[1].size)), np.column_stack([rows, columns])
        if len(np.unique(places, axis=0)) < len(places):
            raise ValueError("block_row and block_col name a place twice")
        if np.any((places < 0) | (places >= table.shape) | (places % 1 > 0)):
            raise ValueError(
                f"block_row and block_col must lie on the grid of {table.shape[0]} x {table.shape[1]} blocks"
            )
        given = checks.floats(variances, "variances")
        if given.shape not in ((), rows.shape):
            raise ValueError(f"variances must be one or one a block, {len(rows)}, got shape {given.shape}")
        table[tuple(places.T.astype(int))] = given
        return cls(table, *sizes)

    @property
    def edges(self) -> tuple[float, float]:
        """Lower and upper end of the continuous part."""
        return self.support[0][0], self.support[-1][1]

    @cached_property
    def support(self) -> tuple[tuple[float, float], ...]:
        """The intervals of the continuous part, ascending, with gaps between them."""
        merged: list[tuple[float, float]] = []
        for low, high in sorted(part.interval for part in self._parts):
            if merged and low <= merged[-1][1]:
                low, high = merged[-1][0], max(high, merged.pop()[1])
            merged.append((low, high))
        return tuple(merged)

    @cached_property
    def atom(self) -> float:
        """Fraction of the eigenvalues that are 0 whatever the entries."""
        rank = sum(structural_rank(*cut) for cut in self._components)
        atom = 1 - rank / min(self._sides)
        return atom if atom > 1e-14 else 0.0

    def edge_scale(self, count: float) -> float:
        """Tracy-Widom scale of the largest eigenvalue of a matrix with `count` eigenvalues.

        The largest eigenvalue is ``edges[1] + edge_scale(count) * t`` in the limit of large matrices, t of the
        Tracy-Widom law of order 1; for one block it is Johnstone's scale with n for n - 1. Of several connected
        components that share the edge, each has its own largest eigenvalue on this scale.

        Parameters
        ----------
        count : float
            ``min(out, in)`` of the whole matrix.
        """
        count = checks.number(count, "count", 1, 1e100)
        return max(self._parts, key=lambda part: part.interval[1]).edge_scale(count)

    def pdf(self, x: ArrayLike) -> Floats:
        """Density of the continuous part, per unit eigenvalue; it integrates to ``1 - atom``."""
        return elementwise(lambda x: self._sum("density", x), x)

    def cdf(self, x: ArrayLike) -> Floats:
        """Fraction of eigenvalues at or below x, the atom included."""
        return elementwise(lambda x: np.minimum(self._sum("below", x) + self.atom * (x >= 0), 1), x)

    def sf(self, x: ArrayLike) -> Floats:
        """Fraction of eigenvalues above x, ``1 - cdf(x)``."""
        return elementwise(lambda x: self._sum("above", x) + self.atom * (x < 0), x)

    def ppf(self, p: ArrayLike) -> Floats:
        """Eigenvalue below which a fraction p lies: 0 up to the atom, the inverse of cdf above it.

        Raises
        ------
        ValueError
            If a p lies outside [0, 1].
        """
        return quantiles(self._quantile, p)

    def mean(self) -> float:
        """Mean of the whole law, the atom included."""
        return self._moments[0]

    def var(self) -> float:
        """Variance of the whole law, the atom included."""
        return checks.in_range(self._moments[1], "var")

    def sample(self, size: int | tuple[int, ...], rng: int | np.random.Generator) -> Floats:
        """Independent draws from the law, shape `size`; unlike eigenvalues they do not repel."""
        return self.ppf(checks.generator(rng).random(size))

    @property
    def _sides(self) -> tuple[float, float]:
        return float(np.array(self.heights).sum()), float(np.array(self.widths).sum())

    @cached_property
    def _moments(self) -> tuple[float, float]:
        """Mean and variance, from the sums of the variances over rows and over columns."""
        sides = self._sides
        rows, columns = np.array(self.heights) / max(sides), np.array(self.widths) / max(sides)
        top, short = float(np.max(self.variances)), min(sides) / max(sides)
        table = np.array(self.variances) / top
        mean = rows @ table @ columns / short
        square = (rows @ (table @ columns) ** 2 + columns @ (rows @ table) ** 2) / short
        return top * float(mean), top * (top * float(square - mean**2))

    @cached_property
    def _components(self) -> list[Cut]:
        table, heights, widths = np.array(self.variances), np.array(self.heights), np.array(self.widths)
        places = connected_components(table)
        return [(table[np.ix_(rows, columns)], heights[rows], widths[columns]) for rows, columns in places]

    @cached_property
    def _parts(self) -> tuple[Part, ...]:
        return parts(self._components, max(self._sides), min(self._sides))

    def _sum(self, kind: Literal["density", "below", "above"], x: Floats) -> Floats:
        return np.where(np.isnan(x), np.nan, sum(part.values(kind, x) for part in self._parts))

    @cached_property
    def _mesh(self) -> tuple[Floats, Floats]:
        """Eigenvalues so dense that the law is nearly a line between them, and the continuous mass below each."""
        x = np.unique(np.concatenate([part.mesh for part in self._parts]))
        return x, np.maximum.accumulate(self._sum("below", x))

    def _quantile(self, p: Floats) -> Floats:
        mesh, masses = self._mesh
        target = np.where(np.isnan(p), 0.5, p) - self.atom
        place = np.clip(np.searchsorted(masses, target), 1, len(mesh) - 1)
        low, high = mesh[place - 1], mesh[place]
        x = (low + high) / 2
        for _ in range(60):
            off, slope = self._sum("below", x) - target, self._sum("density", x)
            low, high = np.where(off < 0, x, low), np.where(off < 0, high, x)
            newton = x - np.divide(off, slope, out=np.full_like(x, np.inf), where=slope > 0)
            following = np.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
            settled = (np.abs(following - x) <= 1e-15 * following) | (np.abs(off) < 2e-16)
            x = following
            if np.all(settled):
                break
        x = np.where(p == 1, mesh[-1], x)
        return np.where(np.isnan(p), np.nan, np.where(target > 0, x, 0.0 if self.atom else mesh[0]))


def _lie_in(values: Floats, ends: tuple[float, float], name: str) -> None:
    outside = values[~((values >= ends[0]) & (values <= ends[1]))]
    if outside.size:
        raise ValueError(f"{name} must lie in [{ends[0]:g}, {ends[1]:g}], got {outside[0]}")
