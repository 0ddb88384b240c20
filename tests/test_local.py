import mpmath
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.special import digamma, gamma
from scipy.stats import kstest

from rmtnet import local
from rmtnet.laws import MarchenkoPastur
from rmtnet.local import vectors


def noise(shape, seed):
    """Singular values of Gaussian matrices (..., m, n)."""
    return np.linalg.svd(np.random.default_rng(seed).normal(size=shape), compute_uv=False)


def goe(shape, seed):
    matrix = np.random.default_rng(seed).normal(size=(*shape, shape[-1]))
    return np.linalg.eigvalsh(matrix + np.swapaxes(matrix, -1, -2))


def brody_spacings(parameter, shape, seed):
    """Independent spacings: powers of exponential ones."""
    k = parameter + 1
    return np.random.default_rng(seed).exponential(size=shape) ** (1 / k) / gamma(1 + 1 / k)


def directions(shape, seed):
    vectors = np.random.default_rng(seed).normal(size=shape)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def log_density(s, parameter):
    """Of Brody's law, as in the literature."""
    a = gamma((parameter + 2) / (parameter + 1)) ** (parameter + 1)
    return np.log((1 + parameter) * a) + parameter * np.log(s) - a * s ** (1 + parameter)


# Gap ratios


def test_gap_ratio_by_hand():
    found = local.gap_ratio([[7.0, 0.0, 1.0, 3.0], [1.0, 2.0, 3.0, 4.0]])
    assert_allclose(found.mean, (1 / 2 + 2 / 4 + 1 + 1) / 4, rtol=1e-15)
    assert found.count == 4


def test_gap_ratio_of_poisson_levels_is_2_ln_2_minus_1():
    found = local.gap_ratio(np.random.default_rng(1).random((4000, 50)))
    assert found.standard_error < 0.0008
    assert_allclose(found.mean, 2 * np.log(2) - 1, atol=3 * found.standard_error)


def test_gap_ratio_of_the_goe():
    three = local.gap_ratio(goe((100_000, 3), 2))
    assert three.standard_error < 0.001
    assert_allclose(three.mean, 4 - 2 * np.sqrt(3), atol=3 * three.standard_error)  # Wigner's surmise is exact here
    large = local.gap_ratio(goe((300, 120), 3))
    assert large.standard_error < 0.002
    assert_allclose(large.mean, 0.5307, atol=3 * large.standard_error)


@pytest.mark.parametrize(
    "levels",
    [
        np.random.default_rng(4).random((5000, 1, 100)),
        np.random.default_rng(5).random((5000, 30, 5)),
        goe((3000, 1, 30), 6),
        noise((3000, 30, 5, 8), 7),
    ],
    ids=["poisson", "poisson blocks", "goe", "noise blocks"],
)
def test_the_standard_error_of_the_gap_ratio_is_its_scatter(levels):
    found = local.gap_ratio(levels)
    error = 1 / np.sqrt(2 * len(levels))
    assert_allclose(np.mean(found.standard_error), np.std(found.mean), rtol=0.02 + 2 * error)


def test_pooled_blocks_look_poisson_and_are_not_pooled():
    levels = noise((30, 30, 12, 20), 8)
    pooled = local.gap_ratio(levels.reshape(30, -1)).mean
    assert_allclose(pooled, 0.3863, atol=0.015)
    assert_allclose(local.gap_ratio(levels).mean.mean(), 0.53, atol=0.01)
    assert_allclose(local.gap_ratio(levels).mean[3], local.gap_ratio(levels[3]).mean, rtol=1e-14)


def test_trim_leaves_out_levels_at_both_ends():
    levels = np.array([-50.0, 0.0, 1.0, 3.0, 4.0, 90.0])
    assert local.gap_ratio(levels, trim=0.17).mean == 0.5
    assert local.gap_ratio(levels, trim=0.17).count == 2
    assert_allclose(local.spacings(levels, trim=0.17), [0.75, 1.5, 0.75])


def test_degenerate_gaps_have_no_ratio_with_each_other():
    found = local.gap_ratio([0.0, 0.0, 0.0, 1.0, 3.0])
    assert found.count == 2
    assert_allclose(found.mean, 0.25)
    rank_one = np.linalg.svd(np.full((6, 9), 0.1), compute_uv=False)  # rounding is no repulsion
    assert (local.gap_ratio(rank_one).count, local.gap_ratio(rank_one).mean) == (1, 0)
    dead = local.gap_ratio(np.stack([np.zeros((2, 5)), np.arange(10.0).reshape(2, 5)]))
    assert_allclose(dead.mean, [np.nan, 1], rtol=1e-14)
    assert_array_equal(dead.count, [0, 6])
    assert np.isnan(dead.standard_error[0])


@pytest.mark.parametrize("scale", [1e300, 1e-300, -1.0])
def test_gap_ratio_has_no_units(scale):
    levels = noise((20, 30), 9)
    assert_allclose(local.gap_ratio(scale * levels).mean, local.gap_ratio(levels).mean, rtol=1e-10)
    assert np.isfinite(local.gap_ratio([0.0, 5e-324, 1.5e-323]).mean)


# Unfolding


def test_the_own_law_unfolds_to_mean_spacing_1():
    levels = noise((300, 1, 60, 90), 10) ** 2 / 90
    unfolded = local.unfold(levels, MarchenkoPastur(60 / 90).cdf)
    mean = np.diff(unfolded, axis=-1).mean(axis=(0, 1))
    assert_allclose(mean[10:-10].mean(), 1, atol=0.012)
    assert_allclose(mean[1:-1], 1, atol=0.12)
    assert np.all((mean[[0, -1]] > 0.8) & (mean[[0, -1]] < 1))  # the outermost levels leak over the edges


def test_spikes_lie_at_the_end_of_a_law():
    unfolded = local.unfold([9.0, 0.5, 1.0, 8.0], MarchenkoPastur(0.5).cdf)
    assert_array_equal(unfolded[2:], 4)
    with pytest.raises(ValueError, match=r"must be positive, got 0.0: levels that coincide, such as spikes"):
        local.fit_brody(local.spacings(unfolded))


@pytest.mark.parametrize(("shape", "seed"), [((300, 1, 60, 90), 11), ((80, 1, 120, 400), 12)])
def test_local_unfolding_needs_no_law_and_keeps_to_its_edges(shape, seed):
    levels = noise(shape, seed)
    unfolded = local.unfold_local(levels)
    mean = np.diff(unfolded, axis=-1).mean(axis=(0, 1))
    assert_allclose(mean, 1, atol=0.12 + 4 * 0.53 / np.sqrt(shape[0]))  # a spacing scatters by 0.53
    assert_allclose(mean[[0, 1, -2, -1]].mean(), 1, atol=0.08)
    assert np.all((unfolded > 0) & (unfolded < shape[-2]))
    assert_allclose(unfolded.mean(), shape[-2] / 2, rtol=0.01)
    assert_allclose(local.unfold_local(3e7 * levels), unfolded, rtol=1e-9)


def test_a_spike_does_not_bend_local_unfolding_far_away():
    levels = np.sort(noise((60, 90), 42))
    spiked = np.append(levels[:-3], levels[-1] * np.array([1.5, 3.0, 8.0]))
    assert_allclose(local.unfold_local(spiked)[:30], local.unfold_local(levels)[:30], atol=0.2)


def test_local_unfolding_is_a_sum_of_cut_gaussians():
    levels = np.array([0.0, 1.0, 1.5, 4.0, 4.2])
    reach = np.array([1.5 / 2, 1.0, 1.5 / 2, 0.2, 2.7 / 2])  # mean spacing of two levels above or below, the smaller
    start, stop = -reach[0] / 2, 4.2 + reach[-1] / 2

    def mass(x, k):
        return quad(lambda t: np.exp(-(((t - levels[k]) / (2 * reach[k])) ** 2) / 2), start, x)[0]

    expected = [sum(mass(x, k) / mass(stop, k) for k in range(5)) for x in levels]
    assert_allclose(local.unfold_local(levels, window=2), expected, rtol=1e-7)


def test_spacings_have_mean_1_in_each_block():
    found = local.spacings(np.random.default_rng(13).random((3, 4, 9)))
    assert found.shape == (3, 4, 8)
    assert_allclose(found.mean(axis=-1), 1, rtol=1e-14)


# Brody


@pytest.mark.parametrize("parameter", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_brody_recovers_what_was_planted(parameter):
    fit = local.fit_brody(brody_spacings(parameter, (20, 1000), 14))
    assert fit.standard_error < 0.012
    assert_allclose(fit.parameter, parameter, atol=3 * fit.standard_error)
    assert fit.count == 20_000


@pytest.mark.parametrize("parameter", [-0.3, 0.0, 0.5, 1.0, 4.0])
def test_brody_maximises_the_likelihood(parameter):
    values = brody_spacings(parameter, 60, 15)
    best = minimize_scalar(lambda b: -log_density(values, b).sum(), bounds=(-0.9, 9), options={"xatol": 1e-9})
    assert_allclose(local.fit_brody(values).parameter, best.x, atol=1e-6)


@pytest.mark.parametrize("parameter", [0.0, 0.4, 1.0, 2.0])
def test_the_standard_error_of_brody_is_that_of_its_influence_function(parameter):
    # Spacings on the quantiles of the law: the estimate is the planted parameter, and means are moments.
    k, places = parameter + 1, (np.arange(200_000) + 0.5) / 200_000
    s = (-np.log1p(-places)) ** (1 / k) / gamma(1 + 1 / k)

    def score(s):
        return (log_density(s, parameter + 1e-5) - log_density(s, parameter - 1e-5)) / 2e-5

    # The mean of the spacings is set to 1, and the score moves with it.
    slope = np.mean(score(s * (1 + 1e-5)) - score(s * (1 - 1e-5))) / 2e-5
    influence = (score(s) - slope * (s - 1)) / np.mean(score(s) ** 2)
    fit = local.fit_brody(s)
    assert_allclose(fit.parameter, parameter, atol=2e-4)
    assert_allclose(fit.standard_error, influence.std() / np.sqrt(len(s)), rtol=1e-3)


@pytest.mark.parametrize("parameter", [0.0, 0.5, 1.0])
def test_the_interval_of_brody_covers(parameter):
    values = brody_spacings(parameter, (4000, 1, 150), 16)
    fit = local.fit_brody(values / values.mean(axis=-1, keepdims=True))
    covered = np.mean((fit.low < parameter) & (parameter < fit.high))
    assert_allclose(covered, 0.95, atol=0.015)
    assert_allclose(fit.standard_error.mean(), fit.parameter.std(), rtol=0.04)


def test_noise_has_brody_parameter_near_1_and_pooled_blocks_near_0():
    levels = noise((60, 60, 96), 17)
    law = MarchenkoPastur(60 / 96).cdf
    unfolded = local.unfold(levels**2 / 96, law)
    # Two levels beyond one edge coincide: trimmed.
    fit, nearby = (local.fit_brody(local.spacings(u, trim=0.05)) for u in (unfolded, local.unfold_local(levels)))
    assert_allclose([fit.parameter, nearby.parameter], 0.96, atol=0.07)
    pooled = local.unfold((levels**2 / 96).ravel(), law)
    assert_allclose(local.fit_brody(local.spacings(pooled, trim=0.05)).parameter, 0, atol=0.07)


def test_real_spacings_scatter_as_the_standard_error_says():
    levels = noise((400, 1, 40, 64), 18) ** 2 / 64
    fit = local.fit_brody(local.spacings(local.unfold(levels, MarchenkoPastur(40 / 64).cdf), trim=0.05))
    assert_allclose(fit.parameter.std() / fit.standard_error.mean(), 1.0, atol=0.15)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0], "two or more, got 1"),
        (1.0, "two or more, got"),
        ([1.0, 0.0, 2.0], "must be positive, got 0.0"),
        ([30.0, 31.0, 29.0], "must have mean 1, got 30"),
        ([1.0, 1.0, 1.0], "nearly equal"),
        ([1e-300, 1e-300, 3.0], "nearly 0"),
        ([1.0, np.nan], "NaN or infinity"),
    ],
)
def test_spacings_that_have_no_brody_parameter_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        local.fit_brody(values)


# Number variance


def goe_by_quadrature(length):
    """From the two-level cluster function, with Mehta's definition of the number variance."""
    mpmath.mp.dps = 30

    def s(r):
        return mpmath.sincpi(r)

    def cluster(r):
        return s(r) ** 2 + mpmath.diff(s, r) * (mpmath.mpf(1) / 2 - mpmath.si(mpmath.pi * r) / mpmath.pi)

    points = mpmath.linspace(0, length, 2 * int(length) + 3)
    return length - 2 * mpmath.quad(lambda r: (length - r) * cluster(r), points)


@pytest.mark.parametrize("length", [0.01, 0.5, 1.0, 3.7])
def test_the_goe_number_variance_is_that_of_its_cluster_function(length):
    assert_allclose(local.goe_number_variance(length), float(goe_by_quadrature(length)), rtol=1e-11)


def test_the_asymptotic_number_variance_is_the_limit():
    assert_allclose(local.goe_number_variance(1.0, asymptotic=True), 0.4420, atol=5e-5)  # Dyson and Mehta's constant
    lengths = np.array([20.0, 200.0, 2000.0])
    gap = local.goe_number_variance(lengths, asymptotic=True) - local.goe_number_variance(lengths)
    assert np.all(np.abs(gap) < 0.02 / lengths)
    assert local.goe_number_variance([0.0])[0] == 0


def test_number_variance_of_a_picket_fence():
    found = local.number_variance(np.arange(20) + 0.5, [0.25, 0.5, 1.0, 7.0, 20.0])
    assert_allclose(found.value, [0.25 * 0.75, 0.25, 0, 0, 0], atol=0.01)
    # Exactly: of the places of a short interval in [0, 20], 20 L hold a level.
    exact = [(20 * L * (1 - L) ** 2 + (20 - L - 20 * L) * L**2) / (20 - L) for L in (0.25, 0.5)]
    assert_allclose(found.value[:2], exact, rtol=1e-12)
    assert np.all(np.isnan(found.standard_error))


def test_number_variance_of_poisson_levels_is_binomial():
    lengths = np.array([0.5, 2.0, 8.0])
    found = local.number_variance(40 * np.random.default_rng(19).random((3000, 40)), lengths, trim=0.1)
    assert np.all(found.standard_error < 0.03 * lengths)
    assert np.all(np.abs(found.value - lengths * (1 - lengths / 40)) < 3.5 * found.standard_error)


def test_number_variance_is_an_average_over_all_places():
    levels = np.sort(10 * np.random.default_rng(20).random(10))
    places = 1 + 5 * (np.arange(200_000) + 0.5) / 200_000
    inside = np.searchsorted(levels, places + 3, side="right") - np.searchsorted(levels, places, side="right")
    found = local.number_variance(levels, 3.0, trim=0.1)
    assert_allclose(found.value, [np.mean((inside - 3) ** 2)], rtol=1e-4)


def test_noise_has_the_number_variance_of_the_goe():
    levels = noise((150, 100, 150), 21) ** 2 / 150
    lengths = np.array([0.5, 1.0, 2.0, 4.0])
    found = local.number_variance(local.unfold(levels, MarchenkoPastur(100 / 150).cdf), lengths, trim=0.1)
    assert np.all(found.standard_error < 0.015 * local.goe_number_variance(lengths))
    assert np.all(np.abs(found.value - local.goe_number_variance(lengths)) < 3 * found.standard_error)
    nearby = local.number_variance(local.unfold_local(noise((150, 100, 150), 21)), lengths, trim=0.1)
    assert_allclose(nearby.value[:3], local.goe_number_variance(lengths[:3]), rtol=0.05)


@pytest.mark.parametrize("length", [0.0, -1.0, 8.5])
def test_lengths_must_fit_the_range(length):
    with pytest.raises(ValueError, match=f"at most 8, got {length}"):
        local.number_variance(np.arange(10.0), [length], trim=0.1)


# Against simulated noise


def test_p_values_count_the_draws():
    null = np.cumsum(np.random.default_rng(22).random((99, 1, 6)), axis=-1)
    ratios = local.gap_ratio(null).mean
    for rank in (0, 1, 49, 98):
        chosen = np.argsort(ratios)[rank]
        below, above = rank + 2, 100 - rank  # itself is in both
        found = local.local_p_values(null[chosen], null)
        assert_allclose(found.gap_ratio, min(1, 2 * min(below, above) / 100))
    assert found.draws == 99


@pytest.mark.parametrize(
    ("blocks", "rows", "columns", "spectra"), [(1, 5, 8, 8000), (6, 5, 8, 4000), (1, 24, 40, 3000)]
)
def test_noise_is_rejected_as_often_as_it_should(blocks, rows, columns, spectra):
    levels = noise((spectra + 3000, blocks, rows, columns), 23)
    found = local.local_p_values(levels[3000:], levels[:3000])
    for p in (found.gap_ratio, found.brody, *found.number_variance.T):
        # Two errors: of the rate, and of the null's own scatter, which all spectra share.
        for nominal, allowed in ((0.01, 0.005), (0.05, 0.01)):
            error = np.sqrt(nominal * (1 - nominal) * (1 / spectra + 1 / 3000))
            assert abs(np.mean(p <= nominal) - nominal) < max(allowed, 3 * error)


@pytest.mark.slow
def test_noise_of_large_matrices_is_rejected_as_often_as_it_should():
    levels = noise((3500, 1, 50, 80), 24)
    found = local.local_p_values(levels[2000:], levels[:2000])
    for p in (found.gap_ratio, found.brody, *found.number_variance.T):
        assert_allclose([np.mean(p <= 0.01), np.mean(p <= 0.05)], [0.01, 0.05], atol=0.019)


def test_poisson_levels_are_told_from_noise_also_in_tiny_blocks():
    null = noise((999, 20, 5, 8), 25)
    found = local.local_p_values(np.random.default_rng(26).random((50, 20, 5)), null)
    assert np.mean(found.gap_ratio < 0.05) > 0.85
    assert np.mean(found.brody < 0.05) > 0.9
    assert np.all(np.mean(found.number_variance < 0.05, axis=0) > 0.9)


def test_p_values_do_not_depend_on_scale_or_on_equal_spectra_beside_them():
    levels, null = noise((4, 3, 8, 12), 27), noise((199, 3, 8, 12), 28)
    found, scaled = local.local_p_values(levels, null), local.local_p_values(1e5 * levels, null)
    assert_array_equal(found.brody, scaled.brody)
    assert found.number_variance.shape == (4, 2)
    assert_array_equal(found.number_variance[2], local.local_p_values(levels[2], null).number_variance)
    single = local.local_p_values(levels[0, 0], null[:, 0], lengths=[1.5], trim=0.13)
    assert np.shape(single.gap_ratio) == ()
    assert single.number_variance.shape == (1,)


def test_a_null_of_other_blocks_is_refused():
    with pytest.raises(ValueError, match=r"blocks and levels of values, \(3, 8\); got shape \(9, 2, 8\)"):
        local.local_p_values(np.ones((3, 8)), np.ones((9, 2, 8)))


# Singular vectors


@pytest.mark.parametrize("length", [2, 5, 8, 11, 64, 300, 2048])
def test_random_directions_are_rejected_as_often_as_they_should(length):
    count = min(40_000, 8_000_000 // length)
    p = local.porter_thomas(directions((count, length), 29))
    assert_allclose(np.mean(p <= 0.01), 0.01, atol=0.005 if count > 5000 else 0.0055)
    assert_allclose(np.mean(p <= 0.05), 0.05, atol=0.01)


def test_textbook_p_values_of_random_directions_are_too_large():
    vectors = directions((100, 200), 30)
    textbook = np.array([kstest(vector * np.sqrt(200), "norm").pvalue for vector in vectors])
    ours = local.porter_thomas(vectors)
    assert np.mean(ours < textbook) > 0.9
    assert np.mean(textbook - ours) > 0.01


def test_the_null_of_long_vectors_stands_on_a_factor_that_holds_from_16_on():
    tails = [np.quantile(vectors._null(length), [0.95, 0.99]) for length in (16, 64, 256)]
    assert_allclose(tails, np.broadcast_to(tails[2], (3, 2)), rtol=0.008)  # 2 Monte Carlo errors


def test_structure_is_found():
    rng = np.random.default_rng(31)
    waves = np.sqrt(2) * np.sin(np.outer(np.arange(1, 5), np.arange(256)) * 0.7 + 1)
    localised = rng.normal(size=(4, 256)) * np.exp(-np.arange(256) / 20)
    assert np.all(local.porter_thomas(waves) < 0.01)
    assert np.all(local.porter_thomas(localised) < 1e-6)
    assert local.porter_thomas(np.ones(256)) < 1e-20


def test_the_tail_of_p_joins_its_body_and_falls():
    steps = np.linspace(0, 1, 400)[:, None]
    p = local.porter_thomas((1 - steps) * directions((1, 128), 32) + steps * np.eye(128)[:1])
    late = p[np.flatnonzero(p < 0.01)[0] :]
    assert np.all(np.diff(late) <= 0)
    assert np.all(late[1:] > 0.5 * late[:-1] - 1e-4)
    assert 0 < late[-1] < 1e-12


def test_signs_and_lengths_of_vectors_do_not_matter():
    vectors = np.random.default_rng(33).normal(size=(5, 3, 30))
    measures = (
        local.porter_thomas,
        local.inverse_participation_ratio,
        local.participation_share,
        local.vector_entropy,
    )
    for measure in measures:
        found = measure(vectors)
        assert found.shape == (5, 3)
        assert_allclose(measure(-vectors), found, rtol=1e-12)
        assert_allclose(measure(1e300 * vectors / np.abs(vectors).max()), found, rtol=1e-12)


def test_participation_counts_components():
    even, alone = np.ones(16), np.eye(16)[3]
    assert_allclose([local.inverse_participation_ratio(even), local.participation_share(even)], [1 / 16, 1])
    assert_allclose([local.inverse_participation_ratio(alone), local.participation_share(alone)], [1, 1 / 16])
    assert_allclose([local.vector_entropy(even), local.vector_entropy(alone)], [np.log(16), 0], atol=1e-14)


def test_random_participation_has_its_exact_moments():
    assert local.random_inverse_participation_ratio(1) == (1, 0)
    # Two components: (3 + cos 4 phi) / 4.
    assert_allclose(local.random_inverse_participation_ratio(2), (3 / 4, np.sqrt(1 / 32)), rtol=1e-15)
    found = local.inverse_participation_ratio(directions((100_000, 20), 34))
    mean, deviation = local.random_inverse_participation_ratio(20)
    assert_allclose(found.mean(), mean, atol=4 * deviation / np.sqrt(1e5))
    assert_allclose(found.std(), deviation, rtol=0.02)


@pytest.mark.parametrize("length", [3, 50])
def test_the_entropy_of_vectors_varies_and_has_its_exact_mean(length):
    found = local.vector_entropy(directions((50_000, length), 35))
    assert found.std() > 0.05
    error = found.std() / np.sqrt(50_000)
    assert_allclose(found.mean(), digamma(length / 2 + 1) - digamma(3 / 2), atol=4 * error)


def test_neighbour_mean():
    p = np.array([0.0, 1.0, 2.0, np.nan, 4.0, 6.0]) / 8
    assert_allclose(local.neighbour_mean(p, window=1), np.array([0.5, 1, 1.5, 3, 5, 5]) / 8)
    assert_array_equal(local.neighbour_mean(p, window=0), p)
    uniform = local.neighbour_mean(np.random.default_rng(36).random((400, 200)), window=3)[:, 50]
    assert_allclose(uniform.std(), np.sqrt(1 / 12 / 7), rtol=0.12)


def test_vectors_of_noise_and_of_a_spike():
    rng = np.random.default_rng(37)
    weight = rng.normal(size=(2, 3, 60, 90))
    weight[1, 2, 7] += 40 * rng.normal(size=90)  # one output: localised on the left, random on the right
    found = local.vector_statistics(weight)
    assert found.singular_values.shape == found.left.porter_thomas.shape == found.right.entropy.shape == (2, 3, 60)
    assert (found.left.length, found.right.length) == (60, 90)
    assert found.left.porter_thomas[1, 2, 0] < 1e-8
    assert found.left.inverse_participation_ratio[1, 2, 0] > 0.9
    assert found.right.porter_thomas[1, 2, 0] > 0.01
    assert abs(np.mean(found.left.porter_thomas[0] < 0.1) - 0.1) < 0.07
    assert abs(np.mean(found.right.porter_thomas[0] < 0.1) - 0.1) < 0.07
    assert found.left.defined.all()
    assert found.right.defined.all()


def test_the_left_vectors_are_those_over_outputs():
    weight = np.random.default_rng(38).normal(size=(4, 9))
    left, _, right = np.linalg.svd(weight, full_matrices=False)
    found, turned = local.vector_statistics(weight), local.vector_statistics(weight.T)
    assert_allclose(found.left.inverse_participation_ratio, (left**4).sum(axis=0), rtol=1e-9)
    assert_allclose(found.right.inverse_participation_ratio, (right**4).sum(axis=1), rtol=1e-9)
    assert_allclose(turned.left.entropy, found.right.entropy, rtol=1e-9)
    assert_allclose(found.singular_values, np.linalg.svd(weight, compute_uv=False), rtol=1e-12)


def test_vectors_of_equal_singular_values_are_not_defined():
    constant = local.vector_statistics(np.full((4, 6), 0.1))
    assert_array_equal(constant.left.defined, [True, False, False, False])
    assert_array_equal(constant.right.defined, [True, False, False, False])
    assert_allclose(constant.left.inverse_participation_ratio[0], 1 / 4)
    assert_array_equal(np.isnan(constant.right.porter_thomas), ~constant.right.defined)
    assert not local.vector_statistics(np.eye(5)).left.defined.any()
    zero = local.vector_statistics(np.zeros((1, 5)))
    assert not (zero.left.defined | zero.right.defined).any()
    # One singular value 0: its vector is known on the short side only, whose complement it is.
    near = np.random.default_rng(39).normal(size=(3, 8))
    near[2] = near[0] + near[1]
    found = local.vector_statistics(near)
    assert_array_equal(found.left.defined, [True, True, True])
    assert_array_equal(found.right.defined, [True, True, False])


@pytest.mark.parametrize("scale", [1e300, 1e-300, 5e-324])
def test_vectors_have_no_units(scale):
    weight = np.random.default_rng(40).integers(-9, 10, size=(6, 8))
    found, scaled = local.vector_statistics(weight), local.vector_statistics(weight * scale)
    assert_allclose(scaled.right.entropy, found.right.entropy, rtol=1e-9)
    assert_allclose(scaled.left.porter_thomas, found.left.porter_thomas, rtol=1e-6)


def test_one_row_is_one_vector():
    found = local.vector_statistics(np.random.default_rng(41).normal(size=(1, 7)))
    assert (found.left.porter_thomas, found.left.inverse_participation_ratio, found.left.entropy) == (1, 1, 0)
    assert found.right.porter_thomas > 0


def test_tensors_are_taken():
    torch = pytest.importorskip("torch")
    weight = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = local.vector_statistics(weight)
    assert_array_equal(found.left.entropy, local.vector_statistics(weight.detach().numpy()).left.entropy)
    assert local.vector_statistics(weight.bfloat16()).left.defined.all()
    levels = torch.nn.Parameter(torch.arange(12.0).reshape(2, 6).square().bfloat16())
    assert_array_equal(local.unfold_local(levels), local.unfold_local(levels.detach().double().numpy()))
    with pytest.raises(TypeError, match="must be real, got dtype complex"):
        local.vector_statistics(weight.detach() * 1j)


# All of them

LEVELS = (local.gap_ratio, local.unfold_local, local.spacings, lambda v: local.number_variance(v, 1.0))
VECTORS = (local.porter_thomas, local.inverse_participation_ratio, local.vector_entropy, local.vector_statistics)


@pytest.mark.parametrize("function", (*LEVELS, *VECTORS))
def test_what_is_no_spectrum_or_vector_is_refused(function):
    for bad in ([[1.0, np.nan, 2.0]], [[1.0, np.inf, 2.0]]):
        with pytest.raises(ValueError, match="NaN or infinity"):
            function(bad)
    for bad in (np.ones((1, 3), dtype=complex), np.array([["a", "b", "c"]])):
        with pytest.raises(TypeError, match="must be real"):
            function(bad)
    for bad in (1.0, [], np.ones((2, 0)), np.ones((0, 4))):
        with pytest.raises(ValueError, match="got shape"):
            function(bad)


@pytest.mark.parametrize("function", LEVELS)
def test_any_kind_of_array_will_do_and_is_left_alone(function):
    values = np.array([[3.0, 0.0, 1.0, 7.0], [2.0, 9.0, 4.0, 8.0]])
    frozen = values.copy()
    frozen.flags.writeable = False
    expected = function(values)
    for same in (frozen, values.astype(np.int8), np.asfortranarray(values), values.tolist(), values[:, ::-1]):
        found = function(same)
        if isinstance(expected, np.ndarray):
            assert_array_equal(found, expected)
        else:
            assert str(found) == str(expected)
    assert_array_equal(values[0], [3, 0, 1, 7])


@pytest.mark.parametrize("trim", [-0.1, 0.5, np.nan])
def test_trim_is_a_fraction_below_one_half(trim):
    for function in (local.gap_ratio, local.spacings):
        with pytest.raises(ValueError, match=rf"must lie in \[0, 0.5\), got {trim}"):
            function(np.arange(10.0), trim=trim)


def test_other_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"trim=0.4 leaves 2 of 10 levels, 3 are needed"):
        local.gap_ratio(np.arange(10.0), trim=0.4)
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        local.unfold_local(np.arange(10.0), window=0)
    with pytest.raises(ValueError, match="probabilities"):
        local.unfold(np.arange(10.0), np.log1p)
    with pytest.raises(ValueError, match="all levels of a block coincide"):
        local.spacings(local.unfold_local(np.ones((2, 6))))
    with pytest.raises(ValueError, match="vectors must not be 0"):
        local.porter_thomas(np.zeros((2, 6)))
    with pytest.raises(ValueError, match="window must be at least 0, got -1"):
        local.neighbour_mean([0.5], window=-1)
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        local.goe_number_variance(-1.0)
    with pytest.raises(ValueError, match="asymptotic"):
        local.goe_number_variance(0.0, asymptotic=True)
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        local.random_inverse_participation_ratio(0)


def test_constant_blocks_unfold_to_their_middle():
    assert_allclose(local.unfold_local(np.full((2, 7), 3.0)), 3.5)
    assert_allclose(local.unfold_local(np.zeros(4)), 2)


GRID = np.arange(24.0).reshape(2, 12) + 0.5
NULL = noise((30, 2, 12, 20), 5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: local.unfold_local(GRID, window=2.5), TypeError, r"^window must be a whole number, got 2\.5"),
        (lambda: local.local_p_values(NULL[0], NULL, window=0), ValueError, "^window must be at least 1, got 0"),
        (lambda: local.local_p_values(NULL[0], NULL, lengths=()), ValueError, r"^lengths must be .* got shape \(0,\)"),
        (lambda: local.local_p_values(NULL[0], NULL, lengths=1j), TypeError, "^lengths must be real"),
        (lambda: local.number_variance(GRID, []), ValueError, r"^lengths must be .* not empty, got shape \(0,\)"),
        (lambda: local.number_variance(GRID, [[1.0]]), ValueError, r"^lengths must be .* got shape \(1, 1\)"),
        (lambda: local.goe_number_variance(1.7e308), ValueError, r"^lengths must be at most 1e300, got 1\.7e\+308"),
        (lambda: local.gap_ratio(GRID, trim="a"), TypeError, "^trim must be real"),
        (lambda: local.gap_ratio(GRID, trim=[0.1]), TypeError, "^trim must be one number"),
        (
            lambda: local.spacings([-1.7e308, 0.0, 1.7e308]),
            ValueError,
            "^unfolded levels lie between 0 and their number",
        ),
        (lambda: local.fit_brody([1.7e308] * 9), ValueError, "^spacings must have mean 1, got inf"),
        (lambda: local.participation_share(3.0), ValueError, r"^vectors must be .* got shape \(\)"),
        (lambda: local.neighbour_mean([0.5, 1.5]), ValueError, r"^p_values must lie in \[0, 1\], got 1\.5"),
        (lambda: local.neighbour_mean([0.5j]), TypeError, "^p_values must be real"),
        (lambda: local.neighbour_mean([0.5], window=1.0), TypeError, r"^window must be a whole number, got 1\.0"),
        (lambda: local.random_inverse_participation_ratio(1e300), TypeError, "^length must be a whole number"),
        (lambda: local.vector_statistics(np.full((4, 4), 1.7e308)), ValueError, r"^a singular value of weight exceeds"),
    ],
)
def test_corners_are_refused_in_one_line(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_windows_and_lengths_may_be_large_or_tensors():
    torch = pytest.importorskip("torch")
    assert_array_equal(local.neighbour_mean([0.0, 0.5, 1.0], window=2**62), [0.5, 0.5, 0.5])
    assert_array_equal(local.neighbour_mean(torch.tensor([0.0, 0.5, 1.0]).bfloat16(), window=1), [0.25, 0.5, 0.75])
    one = local.local_p_values(NULL[0], NULL, lengths=torch.tensor([1.0, 2.0]).bfloat16())
    assert_array_equal(one.number_variance, local.local_p_values(NULL[0], NULL).number_variance)
    assert local.local_p_values(NULL[0], NULL, lengths=2.0).lengths.tolist() == [2.0]
