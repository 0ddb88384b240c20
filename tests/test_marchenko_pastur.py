import json
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import quad
from scipy.stats import kstest

from rmtnet.laws import MarchenkoPastur

GOLDEN = json.loads((Path(__file__).parent / "golden" / "marchenko_pastur.json").read_text())
CENTRAL = [case for case in GOLDEN if 1e-3 <= case["place"] <= 0.999]
REPRESENTATIVE = [1e-6, 0.1, 0.625, 1 - 1e-9, 1.0, 1 + 1e-9, 4.0, 1e3]

ratios = st.one_of(
    st.floats(-6, 6).map(lambda power: 10**power),
    st.floats(-9, -1).map(lambda power: 1 - 10**power),
    st.just(1.0),
)
variances = st.floats(-12, 6).map(lambda power: 10**power)
shares = st.floats(0, 1)
quick = settings(deadline=None, max_examples=200)


@pytest.mark.parametrize("side", ["cdf", "sf"])
def test_cdf_and_sf_match_30_digit_quadrature(side):
    found = [getattr(MarchenkoPastur(case["ratio"], case["variance"]), side)(case["x"]) for case in CENTRAL]
    assert_allclose(found, [float(case[side]) for case in CENTRAL], rtol=2e-14)


@pytest.mark.parametrize("side", ["cdf", "sf"])
def test_cdf_and_sf_keep_their_relative_accuracy_at_the_edges(side):
    near = [case for case in GOLDEN if case not in CENTRAL]
    found = [getattr(MarchenkoPastur(case["ratio"], case["variance"]), side)(case["x"]) for case in near]
    assert near
    assert_allclose(found, [float(case[side]) for case in near], rtol=2e-14)


@pytest.mark.parametrize("ratio", [0.1, 0.625, 1.0, 4.0])
def test_pdf_integrates_to_the_cdf(ratio):
    law = MarchenkoPastur(ratio, 2.0)
    lower, upper = law.edges
    for x in np.linspace(lower, upper, 5)[1:]:
        # x = lower + s^2 takes the square root, or at ratio 1 the pole, out of the lower edge.
        mass, error = quad(lambda s: 2 * s * law.pdf(lower + s * s), 0, np.sqrt(x - lower), epsabs=1e-11)
        assert_allclose(law.atom + mass, law.cdf(x), atol=max(10 * error, 1e-11))


@pytest.mark.parametrize("ratio", [0.1, 0.625, 1.0, 4.0])
def test_eigenvalues_of_a_large_random_matrix_follow_the_law(ratio):
    columns = 400
    noise = np.random.default_rng(1).normal(scale=np.sqrt(3.0), size=(round(ratio * columns), columns))
    eigenvalues = np.linalg.eigvalsh(noise @ noise.T / columns)
    law = MarchenkoPastur(ratio, 3.0)
    eigenvalues = eigenvalues[round(law.atom * len(eigenvalues)) :]
    # Eigenvalues repel: their counting function strays O(log n / n), far below the sqrt(1/n) of free draws.
    share = (law.cdf(eigenvalues) - law.atom) * max(ratio, 1)
    ranks = (np.arange(len(eigenvalues)) + 0.5) / len(eigenvalues)
    assert np.max(np.abs(share - ranks)) < 3 / len(eigenvalues)


def test_mean_and_variance_match_the_trace_moments_of_random_matrices():
    rng = np.random.default_rng(2)
    for rows, columns in [(30, 120), (120, 30)]:
        noise = rng.normal(scale=0.5, size=(300, rows, columns))
        eigenvalues = np.linalg.svd(noise, compute_uv=False) ** 2 / columns
        first = np.sum(eigenvalues, axis=1) / rows
        second = np.sum(eigenvalues**2, axis=1) / rows
        law = MarchenkoPastur(rows / columns, 0.25)
        assert_allclose(np.mean(first), law.mean(), atol=4 * np.std(first) / np.sqrt(300))
        # Exact for Gaussian entries: E tr(S^2) / m exceeds the limit by variance^2 / n.
        expected = law.var() + law.mean() ** 2 + 0.25**2 / columns
        assert_allclose(np.mean(second), expected, atol=4 * np.std(second) / np.sqrt(300))


@pytest.mark.parametrize("ratio", [0.3, 1.0, 2.5])
def test_samples_follow_the_law(ratio):
    law = MarchenkoPastur(ratio, 2.0)
    draws = law.sample((100, 100), np.random.default_rng(3)).ravel()
    assert_allclose(np.mean(draws), law.mean(), atol=4 * np.sqrt(law.var() / draws.size))
    zero = draws == 0
    assert_allclose(np.mean(zero), law.atom, atol=4 * np.sqrt(law.atom / draws.size))
    scaled = (law.cdf(draws[~zero]) - law.atom) / (1 - law.atom)
    assert kstest(scaled, "uniform").pvalue > 1e-4


def test_samples_depend_on_the_generator_alone():
    law = MarchenkoPastur(0.5)
    first, second = (law.sample(5, np.random.default_rng(4)) for _ in range(2))
    assert_array_equal(first, second)


@quick
@given(ratios, variances, shares)
def test_cdf_undoes_ppf_above_the_atom(ratio, variance, p):
    law = MarchenkoPastur(ratio, variance)
    x = law.ppf(p)
    if p > law.atom:
        assert_allclose(law.cdf(x), p, rtol=0, atol=1e-12)
    else:
        assert x == (0 if law.atom else law.edges[0])


@quick
@given(ratios, variances, st.floats(1e-3, 0.999))
def test_ppf_undoes_cdf_inside_the_edges(ratio, variance, place):
    law = MarchenkoPastur(ratio, variance)
    lower, upper = law.edges
    x = lower + place * (upper - lower)
    # Above ratio 1 the cdf has only the digits that the atom leaves.
    assert_allclose(law.ppf(law.cdf(x)), x, rtol=0, atol=(1e-13 + 1e-15 * ratio) * (upper - lower))


@quick
@given(ratios, variances, st.floats(-0.5, 1.5))
def test_cdf_and_sf_add_to_one(ratio, variance, place):
    law = MarchenkoPastur(ratio, variance)
    x = law.edges[0] + place * (law.edges[1] - law.edges[0])
    assert_allclose(law.cdf(x) + law.sf(x), 1, rtol=5e-16)


@quick
@given(ratios, st.lists(shares, min_size=2, max_size=20))
def test_cdf_and_ppf_never_decrease(ratio, places):
    law = MarchenkoPastur(ratio)
    places = np.sort(places)
    x = law.edges[0] + places * (law.edges[1] - law.edges[0])
    assert np.all(np.diff(law.cdf(x)) >= -4e-16)
    assert np.all(np.diff(law.sf(x)) <= 4e-16)
    assert np.all(np.diff(law.ppf(places)) >= -1e-15 * law.edges[1])


@quick
@given(ratios, variances, shares)
def test_variance_only_scales_the_eigenvalues(ratio, variance, p):
    unit, scaled = MarchenkoPastur(ratio), MarchenkoPastur(ratio, variance)
    assert_allclose(scaled.ppf(p), variance * unit.ppf(p), rtol=1e-13)
    assert_allclose(scaled.edges, variance * np.array(unit.edges), rtol=1e-13, atol=0)


@quick
@given(ratios, st.floats(1e-3, 0.999))
def test_a_transposed_matrix_has_the_same_nonzero_eigenvalues(ratio, place):
    # X X^T / n and X^T X / m differ by the factor n / m = 1 / ratio; the rest are zeros.
    law, dual = MarchenkoPastur(ratio), MarchenkoPastur(1 / ratio, ratio)
    x = law.edges[0] + place * (law.edges[1] - law.edges[0])
    width = law.edges[1] - law.edges[0]
    # 1 / ratio is rounded: that alone moves a narrow law by 1e-16 / width of its mass.
    assert_allclose(law.sf(x) * max(ratio, 1), dual.sf(x) * max(1 / ratio, 1), rtol=1e-12 + 1e-13 * x / width)


@pytest.mark.parametrize("ratio", REPRESENTATIVE)
def test_the_law_ends_at_its_edges(ratio):
    law = MarchenkoPastur(ratio, 2.0)
    lower, upper = law.edges
    assert_allclose(law.edges, 2 * (1 + np.array([-1, 1]) * np.sqrt(ratio)) ** 2, rtol=1e-6)
    assert law.cdf(lower) == law.atom
    assert law.sf(upper) == 0
    assert law.cdf(upper) == law.cdf(np.inf) == law.sf(-np.inf) == 1
    assert law.pdf(upper) == law.pdf(np.inf) == law.pdf(-1.0) == law.pdf(-np.inf) == law.cdf(-1e-300) == 0
    assert law.pdf(lower) == (np.inf if ratio == 1 else 0)
    assert law.ppf(1) == upper
    assert law.ppf(0) == (0 if ratio >= 1 else lower)


def test_the_atom_holds_the_structural_zeros():
    law = MarchenkoPastur(4.0)
    assert law.atom == 0.75
    assert law.cdf(-1e-9) == 0
    assert law.sf(-1e-9) == 1
    assert law.cdf(0) == 0.75
    assert law.sf(0) == 0.25
    assert law.ppf([0, 0.75]).tolist() == [0, 0]
    assert law.ppf(0.7500001) > law.edges[0] > 0
    assert MarchenkoPastur(1.0).atom == 0


@pytest.mark.parametrize("name", ["pdf", "cdf", "sf", "ppf"])
@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_shapes_are_kept_and_nan_passes(name, ratio):
    method = getattr(MarchenkoPastur(ratio), name)
    assert isinstance(method(0.9), np.float64)
    assert method([]).shape == (0,)
    table = method([[0.8, np.nan, 0.9], [0.1, 0.2, 0.3]])
    assert table.shape == (2, 3)
    assert np.argwhere(np.isnan(table)).tolist() == [[0, 1]]
    assert table[0, 2] == method(0.9)


def test_long_arrays_give_what_their_elements_give():
    law = MarchenkoPastur(0.4)
    p = np.random.default_rng(5).random(100_000)
    x = law.ppf(p)
    assert_allclose(law.cdf(x), p, atol=1e-14)
    picked = [0, 2**15 - 1, 2**15, 99_999]
    assert_array_equal(x[picked], [law.ppf(one) for one in p[picked]])


@pytest.mark.parametrize("bad", [0, -1.0, np.inf, np.nan, 1e-310, 1e308])
@pytest.mark.parametrize("name", ["ratio", "variance"])
def test_parameters_out_of_their_range_are_refused(name, bad):
    with pytest.raises(ValueError, match=rf"^{name} must lie in \[1e-.*\], got {re.escape(str(bad))}"):
        MarchenkoPastur(**{"ratio": 0.5, "variance": 1.0, name: bad})


@pytest.mark.parametrize("bad", [-1e-9, 1.1, np.inf])
def test_shares_outside_0_to_1_are_refused(bad):
    with pytest.raises(ValueError, match=r"p must lie in \[0, 1\], got " + str(bad)):
        MarchenkoPastur(0.5).ppf([0.5, bad])


def test_a_law_is_a_value():
    law = MarchenkoPastur(np.float32(0.5), 2)
    assert law.cdf(1.0) > 0
    assert law == MarchenkoPastur(0.5, 2.0)
    assert len({law, MarchenkoPastur(0.5, 2.0)}) == 1
    assert repr(law) == "MarchenkoPastur(ratio=0.5, variance=2.0)"
    with pytest.raises(FrozenInstanceError):
        law.ratio = 1.0


def test_the_law_needs_no_scipy_stats():
    program = "import sys, rmtnet.laws.marchenko_pastur; sys.exit('scipy.stats' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
