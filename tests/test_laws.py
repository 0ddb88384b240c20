"""What every law promises, checked on all of them alike."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import kstest

from rmtnet.laws import (
    Brody,
    MarchenkoPastur,
    MarchenkoPasturSingular,
    PoissonSpacing,
    PorterThomas,
    TracyWidom,
    VarianceProfile,
    WignerSurmise,
)

LAWS = [
    *(MarchenkoPastur(ratio, variance) for ratio, variance in [(0.25, 1.0), (1.0, 2.0), (4.0, 0.5)]),
    *(MarchenkoPasturSingular(ratio, variance) for ratio, variance in [(0.25, 1.0), (1.0, 2.0), (4.0, 0.5)]),
    *(TracyWidom(beta) for beta in (1, 2, 4)),
    *(WignerSurmise(beta) for beta in (1, 2, 4)),
    PoissonSpacing(),
    *(Brody(parameter) for parameter in (0.0, 0.4, 2.5)),
    *(PorterThomas(length) for length in (2, 3, 50)),
]
every_law = pytest.mark.parametrize("law", LAWS, ids=repr)
METHODS = ["pdf", "cdf", "sf", "ppf"]
NODES, WEIGHTS = np.polynomial.legendre.leggauss(300)


def atom(law):
    return getattr(law, "atom", 0.0)


def support(law):
    """The edges, or where all but 1e-16 of the law lies."""
    return getattr(law, "edges", (law.ppf(1e-18), law.ppf(1 - 1e-16)))


def integral(law, function, lower, upper):
    """Of function times pdf; ``x = a + (b - a) sin(t)^2`` removes the square roots and poles at edges."""
    a, b = support(law)
    first, last = (np.arcsin(np.sqrt((x - a) / (b - a))) for x in (lower, upper))
    t = (first + last) / 2 + (last - first) / 2 * NODES
    x = a + (b - a) * np.sin(t) ** 2
    return WEIGHTS @ (function(x) * law.pdf(x) * (b - a) * np.sin(2 * t)) * (last - first) / 2


def inner_shares(law):
    return atom(law) + (1 - atom(law)) * np.array([1e-3, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 0.999])


@every_law
def test_pdf_is_the_derivative_of_cdf(law):
    x = law.ppf(inner_shares(law))
    masses = [integral(law, lambda x: 1.0, *ends) for ends in pairwise(x)]
    assert_allclose(masses, np.diff(law.cdf(x)), rtol=1e-10)


@every_law
def test_pdf_integrates_to_all_but_the_atom(law):
    assert_allclose(integral(law, lambda x: 1.0, *support(law)), 1 - atom(law), rtol=1e-10)


@every_law
def test_cdf_and_sf_add_to_one_and_never_turn_back(law):
    lower, upper = support(law)
    x = np.linspace(lower - 0.1 * (upper - lower), upper + 0.1 * (upper - lower), 2001)
    assert_allclose(law.cdf(x) + law.sf(x), 1, rtol=5e-15)
    assert np.all(np.diff(law.cdf(x)) >= -3e-15)
    assert np.all(np.diff(law.sf(x)) <= 3e-15)
    assert np.all(law.pdf(x) >= 0)


@every_law
def test_ppf_inverts_cdf_to_the_last_digits_of_x(law):
    shares = np.concatenate([atom(law) + (1 - atom(law)) * np.array([1e-12, 1e-9, 1e-6]), inner_shares(law)])
    x = law.ppf(shares)
    near = 4 * np.spacing(np.maximum(np.abs(x), 1e-3))
    assert np.all(law.cdf(x - near) <= shares * (1 + 2e-13))
    assert np.all(law.cdf(x + near) >= shares * (1 - 2e-13))


@every_law
def test_mean_and_var_are_those_of_the_density(law):
    mean = integral(law, lambda x: x, *support(law))
    assert_allclose(law.mean(), mean, rtol=1e-10, atol=1e-10)
    # The atom lies at 0.
    spread = integral(law, lambda x: (x - mean) ** 2, *support(law)) + atom(law) * mean**2
    assert_allclose(law.var(), spread, rtol=1e-10)
    assert type(law.mean()) is type(law.var()) is float


@every_law
def test_samples_follow_the_law(law):
    draws = law.sample((100, 200), np.random.default_rng(31))
    assert draws.shape == (100, 200)
    assert_allclose(np.mean(draws), law.mean(), atol=5 * np.sqrt(law.var() / draws.size))
    positive = draws[draws != 0]
    assert_allclose(positive.size / draws.size, 1 - atom(law), atol=5 * np.sqrt(atom(law) / draws.size))
    assert kstest((law.cdf(positive) - atom(law)) / (1 - atom(law)), "uniform").pvalue > 1e-5


@every_law
def test_samples_depend_on_the_generator_alone(law):
    first, second, other = (law.sample(5, np.random.default_rng(seed)) for seed in (4, 4, 5))
    assert_array_equal(first, second)
    assert not np.any(first == other) or atom(law)


@every_law
@pytest.mark.parametrize("name", METHODS)
def test_shapes_are_kept_and_nan_passes(law, name):
    method = getattr(law, name)
    assert type(method(0.9)) is type(method(1)) is np.float64
    assert method([]).shape == (0,)
    assert method(np.nan) != method(np.nan)
    table = method([[0.8, np.nan, 0.9], [0.1, 0.2, 0.3]])
    assert table.shape == (2, 3)
    assert np.argwhere(np.isnan(table)).tolist() == [[0, 1]]
    assert table[0, 2] == method(0.9)


@every_law
@pytest.mark.parametrize("name", METHODS)
def test_any_array_of_real_numbers_is_read_and_left_alone(law, name):
    method = getattr(law, name)
    values = np.arange(35_008) % 16 / 16
    expected = method(values[:16])
    values.flags.writeable = False
    assert_array_equal(method(values), np.tile(expected, 2188))
    assert_array_equal(method(values[::-1]), np.tile(expected, 2188)[::-1])
    assert_array_equal(method(values[:16].astype(np.float32)), expected)
    assert_array_equal(method(np.array([0, 1])), method([0.0, 1.0]))


@every_law
def test_infinities_and_giants_lie_outside(law):
    for giant in (np.inf, 1e300):
        assert law.cdf(-giant) == law.pdf(-giant) == law.sf(giant) == law.pdf(giant) == 0
        assert law.cdf(giant) == law.sf(-giant) == 1
    assert np.all(np.isfinite(law.cdf([5e-324, -5e-324, 0.0])))


@every_law
def test_the_ends_of_ppf_are_the_ends_of_the_law(law):
    assert law.cdf(law.ppf(0)) <= atom(law)
    assert law.sf(law.ppf(1)) <= 1e-300 or law.ppf(1) == support(law)[1]
    assert law.ppf(1) > law.ppf(1 - 1e-16) or law.ppf(1) == support(law)[1]
    assert law.ppf(0) < law.ppf(atom(law) + 1e-6)


@every_law
@pytest.mark.parametrize("bad", [-1e-9, 1.1, np.inf])
def test_shares_outside_0_to_1_are_refused(law, bad):
    with pytest.raises(ValueError, match=r"p must lie in \[0, 1\], got " + str(bad)):
        law.ppf([0.5, bad, np.nan])


@every_law
@pytest.mark.parametrize("name", METHODS)
def test_complex_numbers_are_refused(law, name):
    with pytest.raises(TypeError):
        getattr(law, name)(0.5 + 0.1j)


@every_law
def test_a_law_is_a_value(law):
    twin = type(law)(**vars(law) if not hasattr(law, "ratio") else {"ratio": law.ratio, "variance": law.variance})
    assert twin == law
    assert hash(twin) == hash(law)
    assert eval(repr(law)) == law


@every_law
@pytest.mark.parametrize("name", METHODS)
def test_tensors_of_any_precision_are_arrays(law, name):
    torch = pytest.importorskip("torch")
    x, method = np.array([[0.125, 0.5], [0.75, 1.0]]), getattr(law, name)
    for kind in (torch.bfloat16, torch.float16, torch.float64):
        assert_array_equal(method(torch.nn.Parameter(torch.tensor(x).to(kind))), method(x))


@every_law
@pytest.mark.parametrize("bad", [0.5j, "0.5", None, [[0.5], [0.5, 0.5]]])
def test_what_is_not_real_is_refused_by_name(law, bad):
    for name in METHODS:
        with pytest.raises(TypeError, match=rf"^{'p' if name == 'ppf' else 'x'} must be "):
            getattr(law, name)(bad)


@every_law
def test_a_seed_serves_for_a_generator(law):
    assert_array_equal(law.sample((2, 3), 7), law.sample((2, 3), np.random.default_rng(7)))
    for bad in (None, 1.5, np.random.RandomState(0)):
        with pytest.raises(TypeError, match=r"^rng must be a whole number or a numpy\.random\.Generator"):
            law.sample(3, bad)


@pytest.mark.parametrize(
    ("law", "parameters", "error", "message"),
    [
        (law, parameters, ValueError, message)
        for law in (MarchenkoPastur, MarchenkoPasturSingular)
        for parameters, message in [
            ((1e-13,), r"^ratio must lie in \[1e-12, 1e\+12\], got 1e-13"),
            ((0.5, 1e-310), r"^variance must lie in \[1e-300, 1e\+305\], got 1e-310"),
            ((0.5, 1e308), r"^variance must lie in \[1e-300, 1e\+305\], got 1e\+308"),
            ((1e10, 1e300), r"^variance must lie in \[1e-300, 1e\+295\], got 1e\+300"),
        ]
    ]
    + [
        (MarchenkoPastur, ([0.5],), TypeError, r"^ratio must be one number, got shape \(1,\)"),
        (MarchenkoPastur, (0.5, 1j), TypeError, "^variance must be real"),
        (Brody, (300.0,), ValueError, r"^parameter must lie in \[-0.98, 199\], got 300"),
        (PorterThomas, (10**400,), ValueError, "^length must be at most"),
        (TracyWidom, (np.array([1, 2]),), ValueError, r"^beta must be 1, 2 or 4, got \[1 2\]"),
        (WignerSurmise, ([1],), ValueError, r"^beta must be 1, 2 or 4, got \[1\]"),
    ],
)
def test_parameters_that_no_float_can_serve_are_refused(law, parameters, error, message):
    with pytest.raises(error, match=message):
        law(*parameters)


@pytest.mark.parametrize("law", [MarchenkoPastur, MarchenkoPasturSingular])
@pytest.mark.parametrize(
    "ratio, variance", [(0.5, 1e305), (1.0, 1e-300), (1e-12, 1e-300), (1e6, 1e298), (1e12, 1e-300)]
)
def test_the_ends_of_the_range_only_scale_the_law(law, ratio, variance):
    unit, scaled = law(ratio), law(ratio, variance)
    factor = variance if law is MarchenkoPastur else np.sqrt(variance)
    x = unit.ppf(atom(unit) + (1 - atom(unit)) * np.array([0.2, 0.5, 0.9]))
    # Of a narrow law the factor's rounding moves x.
    rtol = 1e-12 + 1e-15 * x.max() / (x.max() - x.min())
    assert_allclose(scaled.pdf(factor * x) * factor, unit.pdf(x), rtol=rtol)
    assert_allclose(scaled.sf(factor * x), unit.sf(x), rtol=rtol)
    assert_allclose(np.array(scaled.edges) / factor, unit.edges, rtol=1e-14)
    assert_allclose(scaled.mean() / factor, unit.mean(), rtol=1e-14)


def test_a_moment_beyond_float64_is_an_error():
    for law in (MarchenkoPastur(0.5, 1e200), VarianceProfile([[1e200]])):
        with pytest.raises(ValueError, match=r"^var exceeds 1\.8e308"):
            law.var()
