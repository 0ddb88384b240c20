"""Laws of the spacing of neighbouring eigenvalues, unfolded to mean 1: Wigner's surmise, Poisson, and Brody between."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rmtnet import checks
from rmtnet.laws.elementwise import Floats, elementwise, quantiles, symmetry_class


@dataclass(frozen=True)
class WignerSurmise:
    """Spacings of a 2 x 2 Gaussian matrix, scaled to mean 1: within 1 % the law of large ones.

    The density is ``a s^beta exp(-b s^2)``. Real symmetric matrices have ``beta = 1``, complex 2, quaternion 4. Methods
    take array_like and keep its shape; a scalar gives a scalar, NaN gives NaN.

    Parameters
    ----------
    beta : int
        1, 2 or 4.

    Raises
    ------
    ValueError
        If beta is none of these.

    References
    ----------
    .. [1] Mehta, Random Matrices, 3rd ed. (Elsevier, 2004), chapter 1.

    Examples
    --------
    >>> round(float(WignerSurmise().pdf(1.0)), 4)
    0.7162
    """

    beta: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", symmetry_class(self.beta))

    def pdf(self, x: ArrayLike) -> Floats:
        """Density at spacing x."""
        scale = 2 * math.sqrt(self._rate) / math.gamma(self._shape)
        return elementwise(lambda x: scale * self._root(x) ** self.beta * np.exp(-(self._root(x) ** 2)), x)

    def cdf(self, x: ArrayLike) -> Floats:
        """Probability of a spacing at or below x."""
        from scipy.special import gammainc

        return elementwise(lambda x: gammainc(self._shape, self._root(x) ** 2), x)

    def sf(self, x: ArrayLike) -> Floats:
        """Probability of a spacing above x, ``1 - cdf(x)`` to full relative accuracy."""
        from scipy.special import gammaincc

        return elementwise(lambda x: gammaincc(self._shape, self._root(x) ** 2), x)

    def ppf(self, p: ArrayLike) -> Floats:
        """The inverse of cdf; ValueError if a p lies outside [0, 1]."""
        from scipy.special import gammaincinv

        return quantiles(lambda p: np.sqrt(gammaincinv(self._shape, p) / self._rate), p)

    def mean(self) -> float:
        """Mean: 1."""
        return 1.0

    def var(self) -> float:
        """Variance: ``4 / pi - 1``, ``3 pi / 8 - 1``, ``45 pi / 128 - 1``."""
        return self._shape / self._rate - 1

    def sample(self, size: int | tuple[int, ...], rng: int | np.random.Generator) -> Floats:
        """Independent draws, shape `size`."""
        return np.sqrt(checks.generator(rng).gamma(self._shape, 1 / self._rate, size))

    @property
    def _shape(self) -> float:
        """Of the gamma law of the squared spacing."""
        return (self.beta + 1) / 2

    @property
    def _rate(self) -> float:
        return (math.gamma(self._shape + 0.5) / math.gamma(self._shape)) ** 2

    def _root(self, x: Floats) -> Floats:
        # Beyond 40 no float of the density or of sf is left, and the square of a float can overflow.
        return math.sqrt(self._rate) * np.clip(x, 0, 40)


@dataclass(frozen=True)
class PoissonSpacing:
    """Spacings of eigenvalues that do not repel, such as those of many pooled blocks: exponential, with mean 1.

    Methods take array_like and keep its shape; a scalar gives a scalar, NaN gives NaN.

    Examples
    --------
    >>> PoissonSpacing().pdf(0.0)
    np.float64(1.0)
    """

    def pdf(self, x: ArrayLike) -> Floats:
        """Density at spacing x."""
        return elementwise(lambda x: np.exp(-np.maximum(x, 0)) * ~(x < 0), x)

    def cdf(self, x: ArrayLike) -> Floats:
        """Probability of a spacing at or below x."""
        return elementwise(lambda x: -np.expm1(-np.maximum(x, 0)), x)

    def sf(self, x: ArrayLike) -> Floats:
        """Probability of a spacing above x."""
        return elementwise(lambda x: np.exp(-np.maximum(x, 0)), x)

    def ppf(self, p: ArrayLike) -> Floats:
        """The inverse of cdf; ValueError if a p lies outside [0, 1]."""
        return quantiles(_exponential_quantile, p)

    def mean(self) -> float:
        """Mean: 1."""
        return 1.0

    def var(self) -> float:
        """Variance: 1."""
        return 1.0

    def sample(self, size: int | tuple[int, ...], rng: int | np.random.Generator) -> Floats:
        """Independent draws, shape `size`."""
        return checks.generator(rng).standard_exponential(size)


@dataclass(frozen=True)
class Brody:
    """Law between Poisson (parameter 0) and Wigner's surmise for beta 1 (parameter 1), with mean 1.

    The survival function is ``exp(-(g s)^(1 + parameter))``, ``g = Gamma(1 + 1 / (1 + parameter))``: a Weibull law. It
    describes spacings, it is not derived. Parameters beyond [0, 1] are laws too: below 0 levels cluster. Methods take
    array_like and keep its shape; a scalar gives a scalar, NaN gives NaN.

    Parameters
    ----------
    parameter : float
        Exponent of the repulsion, from -0.98 to 199, as :func:`rmtnet.local.fit_brody` gives it.

    Raises
    ------
    ValueError
        If the parameter is out of its range.

    References
    ----------
    .. [1] Brody, Lett. Nuovo Cimento 7 (1973) 482.

    Examples
    --------
    >>> Brody(0.0).sf(2.0) == PoissonSpacing().sf(2.0)
    np.True_
    """

    parameter: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameter", checks.number(self.parameter, "parameter", -0.98, 199))

    def pdf(self, x: ArrayLike) -> Floats:
        """Density at spacing x, infinite at 0 for a parameter below 0."""
        return elementwise(self._density, x)

    def cdf(self, x: ArrayLike) -> Floats:
        """Probability of a spacing at or below x."""
        return elementwise(lambda x: -np.expm1(-(self._scaled(x) ** self._power)), x)

    def sf(self, x: ArrayLike) -> Floats:
        """Probability of a spacing above x, ``1 - cdf(x)`` to full relative accuracy."""
        return elementwise(lambda x: np.exp(-(self._scaled(x) ** self._power)), x)

    def ppf(self, p: ArrayLike) -> Floats:
        """The inverse of cdf; ValueError if a p lies outside [0, 1]."""
        return quantiles(lambda p: _exponential_quantile(p) ** (1 / self._power) / self._scale, p)

    def mean(self) -> float:
        """Mean: 1."""
        return 1.0

    def var(self) -> float:
        """Variance: from 1 at 0 down to ``4 / pi - 1`` at 1."""
        return math.expm1(math.lgamma(1 + 2 / self._power) - 2 * math.lgamma(1 + 1 / self._power))

    def sample(self, size: int | tuple[int, ...], rng: int | np.random.Generator) -> Floats:
        """Independent draws, shape `size`."""
        return checks.generator(rng).standard_exponential(size) ** (1 / self._power) / self._scale

    @property
    def _power(self) -> float:
        return 1 + self.parameter

    @property
    def _scale(self) -> float:
        return math.gamma(1 + 1 / self._power)

    def _scaled(self, x: Floats) -> Floats:
        # exp(-800) is 0: beyond it nothing is left, and no power overflows.
        return self._scale * np.clip(x, 0, 800 ** (1 / self._power) / self._scale)

    def _density(self, x: Floats) -> Floats:
        y = self._scaled(x)
        with np.errstate(divide="ignore"):
            density = self._power * self._scale * y**self.parameter * np.exp(-(y**self._power))
        return np.where(x < 0, 0.0, density)


def _exponential_quantile(p: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return -np.log1p(-p) + 0.0
