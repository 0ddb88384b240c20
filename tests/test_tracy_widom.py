import json
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from rmtnet.laws import TracyWidom
from rmtnet.laws.tracy_widom import tail_and_density

GOLDEN = json.loads((Path(__file__).parent / "golden" / "tracy_widom.json").read_text())
BETAS = [1, 2, 4]


@pytest.mark.parametrize("side", ["cdf", "sf"])
@pytest.mark.parametrize("beta", BETAS)
def test_cdf_and_sf_match_determinants_of_25_digits_in_both_tails(beta, side):
    cases = [case for case in GOLDEN if case["beta"] == beta]
    expected = np.array([float(case[side]) for case in cases])
    assert np.min(expected) < 1e-18
    # For beta 4 the first 2 x 2 minors decide, and far right V is nearly of rank 1: they lose digits as s^1.5.
    rtol = np.where((beta == 4) & (expected < 1e-40), 1e-9, 1e-11)
    found = getattr(TracyWidom(beta), side)([case["x"] for case in cases])
    assert np.all(np.abs(found - expected) <= rtol * expected)


@pytest.mark.parametrize(
    "beta, mean, variance",
    [(1, -1.2065335745820, 1.6077810345810), (2, -1.7710868074116, 0.8131947928329), (4, -2.306884893, 0.5177237)],
)
def test_mean_and_variance_are_the_published_ones(beta, mean, variance):
    # Bornemann, Markov Process. Relat. Fields 16 (2010) 803, table 8; beta 4: Tracy and Widom's tables.
    assert_allclose(TracyWidom(beta).mean(), mean, rtol=3e-10 if beta == 4 else 2e-12)
    assert_allclose(TracyWidom(beta).var(), variance, rtol=1e-7 if beta == 4 else 2e-12)


def test_the_quantiles_of_beta_1_are_the_published_ones():
    law = TracyWidom()
    assert_allclose(law.ppf([0.95, 0.99]), [0.9793, 2.0234], atol=5e-5)
    assert_allclose(law.isf([0.05, 0.01]), law.ppf([0.95, 0.99]), rtol=1e-13)


def test_the_three_laws_are_bound_by_one_identity():
    s = np.linspace(-8, 8, 33)
    one, two, four = TracyWidom(1).cdf(s), TracyWidom(2).cdf(s), TracyWidom(4).cdf(s / np.sqrt(2))
    assert_allclose(four, (one + two / one) / 2, rtol=1e-11)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("seam", [-12.0, -2.0, 6.0])
def test_the_pieces_meet(beta, seam):
    law = TracyWidom(beta)
    seam = seam / np.sqrt(2) if beta == 4 else seam
    left, right = np.nextafter(seam, -99), np.nextafter(seam, 99)
    for name in ("pdf", "cdf", "sf"):
        assert_allclose(getattr(law, name)(left), getattr(law, name)(right), rtol=2e-10 if name == "pdf" else 2e-11)


@pytest.mark.parametrize("beta", BETAS)
def test_far_right_sf_takes_its_asymptotic_form(beta):
    # Borot and Nadal, Random Matrices Theory Appl. 1 (2012) 1250006; their beta 4 is 2^(-1/6) times ours.
    x = np.array([20.0, 40.0])
    own = x / 2 ** (1 / 6) if beta == 4 else x
    constant = math.gamma(beta / 2) / ((4 * beta) ** (beta / 2) * 2 * np.pi)
    leading = constant * own ** (-0.75 * beta) * np.exp(-2 / 3 * beta * own**1.5)
    # The next term is of the order x^-1.5.
    miss = (TracyWidom(beta).sf(x) / leading - 1) * own**1.5
    assert np.all((miss > -12) & (miss < -0.5))
    assert_allclose(miss[0], miss[1], rtol=0.15)


@pytest.mark.parametrize("beta", BETAS)
def test_quantiles_reach_the_smallest_floats(beta):
    law = TracyWidom(beta)
    p = np.array([1e-300, 1e-200, 1e-100, 1e-14, 1e-5, 0.2, 0.5])
    # A last digit of the logarithm, up to 690, is 1e-13 of p.
    assert_allclose(law.cdf(law.ppf(p)), p, rtol=1e-12)
    assert_allclose(law.sf(law.isf(p)), p, rtol=1e-12)
    assert np.isfinite(law.isf(5e-324))
    assert np.isfinite(law.ppf(5e-324))
    assert law.isf(0) == law.ppf(1) == np.inf
    assert law.isf(1) == law.ppf(0) == -np.inf
    assert np.isnan(law.isf(np.nan))


@pytest.mark.parametrize("beta", BETAS)
def test_quantiles_never_turn_back(beta):
    law = TracyWidom(beta)
    p = np.linspace(0, 1, 4001)
    assert np.all(np.diff(law.ppf(p)[1:-1]) > 0)
    near = law.cdf(-2.0 / (np.sqrt(2) if beta == 4 else 1)) + 1e-9 * np.linspace(-1, 1, 201)
    assert np.all(np.diff(law.ppf(near)) > 0)


@pytest.mark.parametrize("bad", [0, 3, -1, 1.5, np.nan, "1", None])
def test_other_betas_are_refused(bad):
    with pytest.raises(ValueError, match=f"beta must be 1, 2 or 4, got {bad}"):
        TracyWidom(bad)


@pytest.mark.parametrize("bad", [-1e-9, 1.5])
def test_isf_refuses_shares_outside_0_to_1(bad):
    with pytest.raises(ValueError, match=r"p must lie in \[0, 1\], got " + str(bad)):
        TracyWidom().isf(bad)


def test_tail_and_density_together_are_those_of_the_law():
    x, law = np.array([-40.0, -20, -2, -1.9, 0, 5.9, 6.1, 50, 200, np.nan]), TracyWidom(1)
    tail, density = tail_and_density(x)
    assert_array_equal(tail, law.sf(x))
    assert_array_equal(density, law.pdf(x))
