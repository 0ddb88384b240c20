"""How far the extreme eigenvalues of noise reach: limiting laws with their finite-size corrections, or simulation."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmtnet import checks, nulls
from rmtnet.edges.simulated import Tail, extreme_tails
from rmtnet.laws.formulas import wishart_edge
from rmtnet.laws.tracy_widom import tail_and_density

Floats = NDArray[np.float64]

# From this short side on the limiting laws serve: their false alarm rates at 1 % and 5 % are in docs/statistics.md.
ASYMPTOTIC = 64
# Excess kurtosis over the root of the number of entries, from which on they do not (simulated: 64 x 64 to 256 x 256,
# kurtosis 6 to 60).
_HEAVY = 0.02
_MEAN, _STEP = -1.2065335745820, 1e-3


def heavy_excess(entries: float) -> float:
    """Excess kurtosis from which on entries are heavy-tailed."""
    return max(1.0, _HEAVY * math.sqrt(entries))


@dataclass(frozen=True)
class Noise:
    """A matrix of iid noise whose variance is fitted to the mean square of ``sharing`` matrices like it.

    Eigenvalues are squared singular values over that mean square.

    Largest, for a short side from 64: Tracy-Widom with the centring and scaling of [1]_. The fitted variance takes its
    share of the fluctuation off by the term of [2]_, which stands in an exponent here: as it is, it would turn p-values
    far out negative. Entries with another kurtosis than 3 move the edge by ``(kurtosis - 3)
    (sqrt m + sqrt n)^2 / sqrt(m n)`` [3]_, less ``2 / sqrt m`` of it at finite size, and widen its fluctuation (both
    measured, short sides 48 to 256, kurtosis 1 to 6).

    Smallest: Tracy-Widom for its log [1]_; ``1 - exp(-x / 2 - sqrt x)`` with ``x = m lambda`` for a square matrix [4]_;
    simulated at side 32 for 1 to 3 columns more.

    Below a short side of 64 both are simulated, and wherever ``tails`` are given these serve instead.

    References
    ----------
    .. [1] Ma, Bernoulli 18 (2012) 322.
    .. [2] Nadler, J. Multivariate Anal. 102 (2011) 363.
    .. [3] Hwang, Lee and Schnelli, Ann. Appl. Probab. 29 (2019) 3006, for sparse entries.
    .. [4] Edelman, SIAM J. Matrix Anal. Appl. 9 (1988) 543.
    """

    short: float
    long: float
    kurtosis: float = 3.0
    sharing: float = 1.0
    """1: the variance is fitted to this matrix alone; infinite: it is known."""
    tails: tuple[Tail, Tail] | None = None
    """Of the largest eigenvalue and of minus the log of the smallest, where the layer's own entries were permuted."""

    def __post_init__(self) -> None:
        checks.kurtosis(self.kurtosis)

    def largest_p(self, eigenvalue: ArrayLike, *, others: ArrayLike = 0) -> Floats:
        """Probability that the largest eigenvalue is as large, ``others`` spikes having been taken out before."""
        center, scale = self._edge(others)
        x = (np.asarray(eigenvalue, dtype=float) - center) / scale
        if not self.simulated:
            return self._fitted(x, center / scale)
        center, scale = self._edge(0)
        return self._tails[0].p(center + scale * x)

    def smallest_p(self, eigenvalue: ArrayLike) -> Floats:
        """Probability that the smallest eigenvalue is as small."""
        values = np.maximum(np.asarray(eigenvalue, dtype=float), 1e-300)
        if self.simulated:
            return self._tails[1].p(-np.log(values))
        if self._gap == 0:
            return -np.expm1(-(self.short * values / 2 + np.sqrt(self.short * values)))
        if self._gap < 4:
            side = ASYMPTOTIC // 2
            sides = (self.short + self.long) / (2 * side + self._gap)
            return extreme_tails(side, side + self._gap, 3.0, math.inf)[1].p(-np.log(values * sides))
        center, scale = self._log_edge
        return self._fitted((center - np.log(values)) / scale, 1 / scale)

    def source(self, end: str, p: float) -> str:
        """Where a p-value comes from, in words."""
        if self.simulated:
            tail = self._tails[end == "smallest"]
            what = f"simulated, kurtosis {nulls.rounded(self.kurtosis):.3g}" if self.tails is None else "permuted"
            return f"{tail.draws} {what}{', tail fitted' if p < tail.fitted_below else ''}"
        if end == "largest":
            return "Tracy-Widom"
        return "hard edge" if self._gap == 0 else "hard edge, simulated" if self._gap < 4 else "Tracy-Widom of the log"

    @property
    def heavy(self) -> bool:
        """Whether a heavy tail moves and widens the law of the largest value by more than the kurtosis tells."""
        return self.kurtosis - 3 > heavy_excess(self.short * self.long)

    @property
    def simulated(self) -> bool:
        return self.short < ASYMPTOTIC or self.tails is not None

    @property
    def _gap(self) -> int:
        """Columns more than rows: the lower edge is hard if there are few."""
        return round(self.long - self.short)

    @property
    def _tails(self) -> tuple[Tail, Tail]:
        if self.tails is not None:
            return self.tails
        sharing = self.sharing if self.sharing < 1000 else math.inf
        return extreme_tails(round(self.short), round(self.long), nulls.rounded(self.kurtosis), sharing)

    def _edge(self, others: ArrayLike) -> tuple[Floats, Floats]:
        """Where the Tracy-Widom variable is 0, and its unit."""
        short, long = (np.maximum(side - np.asarray(others), 1) for side in (self.short, self.long))
        center, scale = wishart_edge(short, long)
        excess = self.kurtosis - 3
        shift = excess * center / np.sqrt(short * long) * np.maximum(1 - 2 / np.sqrt(short), 0)
        width = 1 + (1.0 if excess > 0 else 0.35) * excess / short ** (2 / 3)
        return center + shift + scale * _MEAN * (1 - width), scale * width

    @property
    def _log_edge(self) -> tuple[float, float]:
        """Where the Tracy-Widom variable of minus the log is 0, and its unit."""
        a, b = math.sqrt(self.short - 0.5), math.sqrt(self.long - 0.5)
        scale = (1 / a - 1 / b) ** (1 / 3) / (b - a)
        return 2 * math.log(b - a) + scale**2 / 8 - (self.kurtosis - 3) / (a * b), scale

    def _fitted(self, x: Floats, position: float | Floats) -> Floats:
        """Tail of the Tracy-Widom variable, its eigenvalue ``position`` units from 0 being over a fitted variance."""
        around = np.stack([x - _STEP, x, x + _STEP])
        (_, tail, _), (before, _, after) = (part.reshape(around.shape) for part in tail_and_density(around.ravel()))
        slope = (after - before) / (2 * _STEP)
        spread = ((self.kurtosis - 1) * (1 - 1 / self.sharing) - 2) / (self.short * self.long)
        change = -0.5 * spread * position**2 * np.divide(slope, tail, out=np.zeros_like(tail), where=tail > 1e-290)
        return np.minimum(tail * np.exp(np.minimum(change, -np.log(np.maximum(tail, 1e-300)))), 1.0)
