import math

import mpmath as mp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import chi2, kstest, norm

from rmtnet.laws import PorterThomas


@pytest.mark.parametrize("length", [2, 3, 4, 11, 100, 5000])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.4, 0.9, 0.999])
def test_pdf_and_both_tails_match_30_digits(length, share):
    x = share * min(length**0.5, 20.0)
    with mp.workdps(40):
        half = mp.mpf(length - 1) / 2
        tail = mp.betainc(half, half, 0, (1 - mp.mpf(x) / mp.sqrt(length)) / 2, regularized=True)
        scale = mp.gamma(half + 0.5) / mp.gamma(half) / mp.sqrt(mp.pi * length)
        density = scale * (1 - mp.mpf(x) ** 2 / length) ** (half - 1)
    law = PorterThomas(length)
    assert_allclose(law.sf(x), float(tail), rtol=2e-12)
    assert_allclose(law.cdf(-x), float(tail), rtol=2e-12)
    assert_allclose([law.pdf(x), law.pdf(-x)], float(density), rtol=5e-12)
    assert_allclose(law.ppf(float(tail)), -x, rtol=1e-9, atol=1e-13)


def test_singular_vectors_of_noise_follow_the_law():
    noise = np.random.default_rng(50).normal(size=(3000, 5, 8))
    left, _, right = np.linalg.svd(noise)
    rng = np.random.default_rng(51)
    for vectors, length in [(np.swapaxes(left, 1, 2), 5), (right, 8)]:
        # One component of one vector of each matrix: independent. Its sign is the routine's choice.
        signs = rng.choice([-1, 1], size=3000)
        components = signs * vectors[:, 2, 1] * np.sqrt(length)
        assert kstest(components, PorterThomas(length).cdf).pvalue > 1e-3
        assert kstest(components, norm.cdf).pvalue < 0.05 or length == 8


@pytest.mark.parametrize("name", ["pdf", "cdf", "sf"])
def test_a_long_vector_has_normal_components(name):
    x = np.linspace(-4, 4, 41)
    misses = [getattr(PorterThomas(length), name)(x) - getattr(norm, name)(x) for length in (10**3, 10**5, 10**7)]
    largest = np.max(np.abs(misses), axis=1)
    # The next term is of the order 1 / length.
    assert np.all(largest < 0.6 / np.array([10**3, 10**5, 10**7]))
    assert_allclose(largest[1] / largest[0], 1e-2, rtol=0.02)


def test_the_squares_of_a_long_vector_are_chi_square_of_order_1():
    t = np.array([1e-4, 0.1, 1.0, 4.0, 9.0])
    assert_allclose(2 * PorterThomas(10**6).cdf(np.sqrt(t)) - 1, chi2(1).cdf(t), atol=1e-6)


def test_vectors_of_length_3_have_uniform_components():
    law = PorterThomas(3)
    x = np.array([-1.7, -0.3, 0.0, 1.2])
    assert_allclose(law.pdf(x), 1 / (2 * np.sqrt(3)), rtol=1e-14)
    assert_allclose(law.cdf(x), (x + np.sqrt(3)) / (2 * np.sqrt(3)), rtol=1e-14)


def test_the_fourth_moment_gives_the_participation_ratio_of_noise():
    # sum v^4 has mean 3 / (length + 2).
    draws = PorterThomas(6).sample(200_000, np.random.default_rng(52)) ** 4
    assert_allclose(np.mean(draws), 6 * 3 / 8, atol=5 * np.std(draws) / np.sqrt(200_000))


@pytest.mark.parametrize("length", [2, 3, 4, 100])
def test_the_law_ends_at_its_edges(length):
    law = PorterThomas(length)
    assert law.edges == (-np.sqrt(length), np.sqrt(length))
    assert law.cdf(law.edges[0]) == law.sf(law.edges[1]) == 0
    assert law.ppf([0, 1]).tolist() == list(law.edges)
    beyond = np.nextafter(law.edges[1], 100)
    assert law.pdf(beyond) == law.pdf(-beyond) == 0
    assert law.pdf(law.edges[1]) == (np.inf if length == 2 else law.pdf(0) if length == 3 else 0)


@pytest.mark.parametrize("bad", [1, 0, -5])
def test_short_lengths_are_refused(bad):
    with pytest.raises(ValueError, match=f"length must be at least 2, got {bad}"):
        PorterThomas(bad)


@pytest.mark.parametrize("bad", [3.0, "3", None, np.nan])
def test_lengths_that_are_no_integers_are_refused(bad):
    with pytest.raises(TypeError, match="length must be a whole number, got"):
        PorterThomas(bad)


def test_numpy_integers_are_lengths():
    assert PorterThomas(np.int32(7)) == PorterThomas(7)


@pytest.mark.parametrize("length", [2, 7, 8, 13, 57, 800, 4096])
@pytest.mark.parametrize("p", [1e-20, 1e-99, 1e-101, 1e-150, 1e-200, 1e-300])
def test_far_quantiles_match_40_digits(length, p):
    """The quantile lies where the tail, a steep function, crosses p: between two points 1e-13 apart."""
    x = float(PorterThomas(length).ppf(p)) / math.sqrt(length)
    half = mp.mpf(length - 1) / 2
    with mp.workdps(400):  # at length 2 the room to the edge is p^2

        def tail(x):
            return mp.betainc(half, half, 0, (1 + x) / 2, regularized=True) if x > -1 else mp.mpf(0)

        assert tail(mp.mpf(x) - 1e-13) <= p <= tail(mp.mpf(x) + 1e-13)
