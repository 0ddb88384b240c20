import re

import mpmath as mp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from rmtnet.laws import MarchenkoPastur, MarchenkoPasturSingular

RATIOS = [1e-9, 1e-3, 0.2, 0.5, 0.9, 1.0, 1.3, 4.0, 1e3]


@pytest.mark.parametrize("ratio", RATIOS)
def test_mean_and_variance_match_30_digits(ratio):
    with mp.workdps(50):
        g = mp.mpf(ratio)
        small = min(g, 1 / g)
        mean = mp.hyp2f1(-0.5, 0.5, 2, small) / mp.sqrt(max(g, 1))
        expected = float(mp.sqrt(3) * mean), float(3 * (1 - mean**2))
    law = MarchenkoPasturSingular(ratio, 3.0)
    assert_allclose([law.mean(), law.var()], expected, rtol=5e-15)


@pytest.mark.parametrize("ratio", [0.2, 0.9, 1.0, 4.0])
def test_the_mean_is_the_integral_of_the_raw_density(ratio):
    with mp.workdps(30):
        g = mp.mpf(ratio)
        lower, upper = abs(1 - mp.sqrt(g)), 1 + mp.sqrt(g)
        # Half the density of the squares, by definition: 2 s rho(s^2), times s.
        raw = mp.quad(lambda s: mp.sqrt((upper**2 - s**2) * (s**2 - lower**2)) / (mp.pi * g), [lower, 1, upper])
    assert_allclose(MarchenkoPasturSingular(ratio).mean(), float(raw), rtol=1e-14)


@pytest.mark.parametrize("variance", [1.0, 3e-12, 7e5])
def test_a_square_matrix_has_the_quarter_circle(variance):
    law, radius = MarchenkoPasturSingular(1.0, variance), 2 * np.sqrt(variance)
    place = np.array([0.0, 1e-12, 0.1, 0.5, 0.9, 0.999])
    assert_allclose(law.pdf(place * radius), 4 / np.pi * np.sqrt(1 - place**2) / radius, rtol=1e-12)
    area = 2 / np.pi * (place * np.sqrt(1 - place**2) + np.arcsin(place))
    assert_allclose(law.cdf(place * radius), area, rtol=1e-12, atol=1e-17)
    assert_allclose(law.mean(), radius * 4 / (3 * np.pi), rtol=1e-14)
    assert_allclose(law.var(), variance * (1 - 64 / (9 * np.pi**2)), rtol=1e-13)
    assert law.pdf(5e-324) == law.pdf(0.0) > 0
    assert law.atom == law.cdf(0.0) == 0


@pytest.mark.parametrize("ratio", [0.1, 0.625, 1.0, 4.0])
def test_squares_follow_the_law_of_eigenvalues(ratio):
    law, squares = MarchenkoPasturSingular(ratio, 2.0), MarchenkoPastur(ratio, 2.0)
    lower, upper = law.edges
    assert_allclose(np.square(law.edges), squares.edges, rtol=1e-15)
    s = lower + (upper - lower) * np.linspace(0.01, 0.99, 50)
    assert_allclose(law.pdf(s), 2 * s * squares.pdf(s**2), rtol=1e-12)
    assert_allclose(law.cdf(s), squares.cdf(s**2), rtol=1e-15)
    assert_allclose(law.sf(s), squares.sf(s**2), rtol=1e-15)
    assert law.atom == squares.atom
    assert law.cdf(-1e-9) == 0
    assert law.cdf(0) == law.atom


@pytest.mark.parametrize("ratio", [0.1, 0.625, 1.0, 4.0])
def test_singular_values_of_a_large_random_matrix_follow_the_law(ratio):
    columns = 400
    noise = np.random.default_rng(60).normal(scale=np.sqrt(3.0), size=(round(ratio * columns), columns))
    law = MarchenkoPasturSingular(ratio, 3.0)
    values = np.sort(np.linalg.svd(noise / np.sqrt(columns), compute_uv=False))
    # Singular values repel: their counting function strays O(log n / n), far below the sqrt(1/n) of free draws.
    share = (law.cdf(values) - law.atom) * max(ratio, 1)
    assert np.max(np.abs(share - (np.arange(len(values)) + 0.5) / len(values))) < 3 / len(values)
    # The sum moves with the sum of squares, whose relative error is sqrt(2 / entries).
    assert_allclose(np.sum(values) / len(noise), law.mean(), rtol=4 * np.sqrt(0.5 / noise.size) + 1 / columns)


@pytest.mark.parametrize("variance", [1e-300, 1e300])
def test_extreme_variances_only_scale_the_law(variance):
    law, unit = MarchenkoPasturSingular(0.5, variance), MarchenkoPasturSingular(0.5)
    x, root = np.array([0.4, 0.8, 1.2, 1.6]), np.sqrt(variance)
    assert_allclose(law.pdf(x * root) * root, unit.pdf(x), rtol=1e-12)
    assert_allclose(law.cdf(x * root), unit.cdf(x), rtol=1e-12)
    assert_allclose(law.ppf([0.1, 0.9]), root * unit.ppf([0.1, 0.9]), rtol=1e-12)
    assert_allclose([law.mean() / root, law.var() / variance], [unit.mean(), unit.var()], rtol=1e-12)


@pytest.mark.parametrize("bad", [0, -1.0, np.inf, np.nan, 1e-310, 1e308])
@pytest.mark.parametrize("name", ["ratio", "variance"])
def test_parameters_out_of_their_range_are_refused(name, bad):
    with pytest.raises(ValueError, match=rf"^{name} must lie in \[1e-.*\], got {re.escape(str(bad))}"):
        MarchenkoPasturSingular(**{"ratio": 0.5, "variance": 1.0, name: bad})
