import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import expon, kstest, weibull_min

from rmtnet.laws import Brody, PoissonSpacing, WignerSurmise

S = np.array([0.0, 1e-8, 0.1, 0.5, 1.0, 1.7, 3.0, 6.0, 20.0])
METHODS = ["pdf", "cdf", "sf"]

# Mehta, Random Matrices: the surmises as they are printed.
SURMISES = {
    1: lambda s: math.pi / 2 * s * np.exp(-math.pi / 4 * s**2),
    2: lambda s: 32 / math.pi**2 * s**2 * np.exp(-4 / math.pi * s**2),
    4: lambda s: 2**18 / (3**6 * math.pi**3) * s**4 * np.exp(-64 / (9 * math.pi) * s**2),
}


@pytest.mark.parametrize("beta", [1, 2, 4])
def test_the_surmise_is_the_printed_one(beta):
    assert_allclose(WignerSurmise(beta).pdf(S), SURMISES[beta](S), rtol=1e-12)


@pytest.mark.parametrize("beta, second", [(1, 4 / math.pi), (2, 3 * math.pi / 8), (4, 45 * math.pi / 128)])
def test_the_surmise_has_mean_1_and_the_printed_second_moment(beta, second):
    assert_allclose(WignerSurmise(beta).var(), second - 1, rtol=1e-12)


def spacings_of_two(beta, draws, rng):
    """Distances of the two eigenvalues of 2 x 2 matrices: the norm of beta + 1 normal numbers."""
    return np.linalg.norm(rng.normal(size=(draws, beta + 1)), axis=1)


@pytest.mark.parametrize("beta", [1, 2, 4])
def test_the_surmise_is_the_law_of_2_by_2_matrices(beta):
    rng = np.random.default_rng(40 + beta)
    if beta == 1:
        noise = rng.normal(size=(20_000, 2, 2))
        gaps = np.diff(np.linalg.eigvalsh(noise + np.swapaxes(noise, 1, 2)), axis=1).ravel()
    elif beta == 2:
        noise = rng.normal(size=(20_000, 2, 2)) + 1j * rng.normal(size=(20_000, 2, 2))
        gaps = np.diff(np.linalg.eigvalsh(noise + np.conj(np.swapaxes(noise, 1, 2))), axis=1).ravel()
    else:
        gaps = spacings_of_two(4, 20_000, rng)
    law = WignerSurmise(beta)
    # The scale is free, its estimate the mean: that only raises the p-value.
    assert kstest(gaps / np.mean(gaps), law.cdf).pvalue > 1e-3
    for other in {1, 2, 4} - {beta}:
        assert kstest(gaps / np.mean(gaps), WignerSurmise(other).cdf).pvalue < 1e-9


@pytest.mark.parametrize("parameter", [-0.9, -0.3, 0.0, 0.4, 1.0, 7.0])
def test_brody_is_a_weibull_law_of_mean_1(parameter):
    law = Brody(parameter)
    twin = weibull_min(1 + parameter, scale=1 / math.gamma(1 + 1 / (1 + parameter)))
    x = S[1:] if parameter < 0 else S
    for name in METHODS:
        assert_allclose(getattr(law, name)(x), getattr(twin, name)(x), rtol=1e-12, atol=1e-300)
    p = np.array([1e-9, 0.01, 0.5, 0.99])
    assert_allclose(law.ppf(p), twin.ppf(p), rtol=1e-12)
    assert_allclose(law.mean(), twin.mean(), rtol=1e-12)
    assert_allclose(law.var(), twin.var(), rtol=1e-9)


def test_levels_that_cluster_have_an_infinite_density_at_0():
    assert Brody(-0.3).pdf(0.0) == np.inf
    assert Brody(0.3).pdf(0.0) == 0
    assert Brody(-0.3).pdf(-1.0) == Brody(-0.3).cdf(0.0) == 0


@pytest.mark.parametrize("name", [*METHODS, "ppf"])
def test_brody_ends_in_poisson_and_in_the_surmise(name):
    x = S / 20 if name == "ppf" else S
    assert_allclose(getattr(Brody(0.0), name)(x), getattr(PoissonSpacing(), name)(x), rtol=1e-14)
    assert_allclose(getattr(Brody(1.0), name)(x), getattr(WignerSurmise(1), name)(x), rtol=1e-12)
    assert_allclose([Brody(0.0).var(), Brody(1.0).var()], [PoissonSpacing().var(), WignerSurmise().var()], rtol=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_poisson_spacings_are_exponential(name):
    assert_allclose(getattr(PoissonSpacing(), name)(S), getattr(expon, name)(S), rtol=1e-15)
    assert_allclose(getattr(PoissonSpacing(), name)([-1.0, -np.inf]), getattr(expon, name)([-1.0, -np.inf]))


def test_small_probabilities_keep_their_digits():
    assert_allclose(PoissonSpacing().cdf(1e-20), 1e-20, rtol=1e-14)
    assert_allclose(Brody(1.0).cdf(1e-20), math.pi / 4 * 1e-40, rtol=1e-14)
    assert_allclose(WignerSurmise(1).cdf(1e-20), math.pi / 4 * 1e-40, rtol=1e-14)
    assert_allclose(WignerSurmise(1).sf(29.0), math.exp(-math.pi / 4 * 29**2), rtol=1e-12)


@pytest.mark.parametrize("bad", [0, 3, np.nan])
def test_other_betas_are_refused(bad):
    with pytest.raises(ValueError, match=f"beta must be 1, 2 or 4, got {bad}"):
        WignerSurmise(bad)


@pytest.mark.parametrize("bad", [-1.0, -0.99, np.nan, np.inf])
def test_parameters_without_a_law_are_refused(bad):
    with pytest.raises(ValueError, match=rf"parameter must lie in \[-0.98, 199\], got {bad}"):
        Brody(bad)
