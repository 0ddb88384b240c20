"""The Porter-Thomas law: components of the singular vectors of noise."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rmtnet import checks
from rmtnet.laws.elementwise import Floats, elementwise, quantiles


@dataclass(frozen=True)
class PorterThomas:
    """Law of one component of a random real unit vector, times ``sqrt(length)``.

    Exact for every length, with the vector uniform on the sphere, as singular vectors of Gaussian noise are:
    ``component^2 / length`` has the law Beta(1/2, (length - 1) / 2), which tends to N(0, 1) for the component. This is
    the law of *components*. The name first meant that of their squares, the intensities, chi-square with 1 degree of
    freedom for a long vector: ``P(component^2 <= t) = 2 cdf(sqrt(t)) - 1``. Methods take array_like and keep its shape;
    a scalar gives a scalar, NaN gives NaN.

    Parameters
    ----------
    length : int
        Number of components of the vector, at least 2: one of length 1 is -1 or 1.

    Raises
    ------
    ValueError
        If length is below 2.
    TypeError
        If it is no whole number.

    References
    ----------
    .. [1] Porter and Thomas, Phys. Rev. 104 (1956) 483.

    Examples
    --------
    >>> round(float(PorterThomas(length=800).ppf(0.975)), 3)
    1.959
    """

    length: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", checks.count(self.length, "length", 2))

    @property
    def edges(self) -> tuple[float, float]:
        """The two ends, ``-+ sqrt(length)``."""
        return -math.sqrt(self.length), math.sqrt(self.length)

    def pdf(self, x: ArrayLike) -> Floats:
        """Density at component x, infinite at the edges for length 2."""
        return elementwise(self._density, x)

    def cdf(self, x: ArrayLike) -> Floats:
        """Probability of a component at or below x."""
        return elementwise(self._below, x)

    def sf(self, x: ArrayLike) -> Floats:
        """Probability of a component above x, ``1 - cdf(x)`` to full relative accuracy."""
        return elementwise(lambda x: self._below(-x), x)

    def ppf(self, p: ArrayLike) -> Floats:
        """The inverse of cdf, 1 % off for p below 1e-300; ValueError if a p lies outside [0, 1]."""
        return quantiles(self._quantile, p)

    def mean(self) -> float:
        """Mean: 0."""
        return 0.0

    def var(self) -> float:
        """Variance: 1, at every length."""
        return 1.0

    def sample(self, size: int | tuple[int, ...], rng: int | np.random.Generator) -> Floats:
        """Independent draws, shape `size`; the components of one vector are not."""
        rng = checks.generator(rng)
        component, rest = rng.standard_normal(size), rng.chisquare(self.length - 1, size)
        return math.sqrt(self.length) * component / np.sqrt(component**2 + rest)

    def _density(self, x: Floats) -> Floats:
        from scipy.special import poch, xlog1py

        edge = self.edges[1]
        scale = poch((self.length - 1) / 2, 0.5) / math.sqrt(math.pi * self.length)
        shape = np.exp(xlog1py((self.length - 3) / 2, -(np.clip(x / edge, -1, 1) ** 2)))
        return np.where(np.abs(x) > edge, 0.0, scale * shape)

    def _below(self, x: Floats) -> Floats:
        from scipy.special import betainc

        half = (self.length - 1) / 2
        return betainc(half, half, np.clip((1 + x / self.edges[1]) / 2, 0, 1))

    def _quantile(self, p: Floats) -> Floats:
        from scipy.special import betaincinv

        half, tail = (self.length - 1) / 2, np.minimum(p, 1 - p)
        # Far out the root for the component itself is not found at lengths of 7 to 14; that for its square is.
        near, far = 2 * betaincinv(half, half, tail) - 1, -np.sqrt(1 - betaincinv(half, 0.5, 2 * tail))
        return self.edges[1] * np.where(tail < 1e-100, far, near) * np.where(p > 0.5, -1, 1)
