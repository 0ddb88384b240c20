import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from rmtnet.nulls import iid_blocks, ordered_null
from rmtnet.sisters import (
    EntryMoments,
    NullDeviation,
    entry_moments,
    mean_deviation,
    null_mean_deviation,
    singular_value_ratio,
    sister_null,
    variance_change_interval,
    variance_ratio,
    variance_ratio_interval,
)
from rmtnet.spectra import aggregate, singular_values
from rmtnet.spectra import variance as entry_variance

DENSE = (1, 500, 800)


def test_variance_ratio_divides_step_by_step():
    assert_allclose(variance_ratio([10.0, 9.0], [1.0, 3.0]), [10, 3])


def test_a_zero_reference_gives_nan_without_a_warning():
    assert np.isnan(variance_ratio(1.0, 0.0))
    assert np.isnan(singular_value_ratio([[1.0, 2.0]], [1.0, 1.0], [0.0])).all()


def test_ratios_are_to_the_mean_of_the_ordered_values_scaled_by_the_deviation():
    assert_allclose(singular_value_ratio([[6.0, 2.0]], [3.0, 1.0], [4.0]), [[1, 1]])
    assert mean_deviation([0.5, 1.0, 2.0]) == pytest.approx(0.5)


@pytest.mark.parametrize("blocks", [1, 5, 50])
def test_random_sisters_have_ratios_near_one(blocks):
    # Blocks b times smaller with b times the variance have the dense matrix's spectrum in the limit (paper A, 5.1).
    weight = np.random.default_rng(blocks).normal(scale=blocks**0.5, size=(blocks, 500 // blocks, 800 // blocks))
    values, _ = aggregate(singular_values(weight))
    ratio = singular_value_ratio(values, ordered_null(1, 500, 800).mean, 1.0)
    # The null expectation is not 0: about 0.003 for b = 1 and 0.04 for b = 50.
    assert mean_deviation(ratio) < 0.001 + 0.008 * blocks**0.5


def test_the_deviation_of_noise_grows_with_the_number_of_blocks():
    null = ordered_null(1, 500, 800).mean
    deviations = []
    for blocks in (1, 10, 100):
        weight = np.random.default_rng(0).normal(scale=blocks**0.5, size=(blocks, 500 // blocks, 800 // blocks))
        deviations.append(mean_deviation(singular_value_ratio(aggregate(singular_values(weight))[0], null, 1.0)))
    assert deviations[0] < deviations[1] < deviations[2]
    assert 0.001 < deviations[0] < 0.006
    assert 0.04 < deviations[2] < 0.08


def test_moments_are_those_of_scipy_and_leading_axes_stay():
    weight = np.random.default_rng(0).gamma(2, size=(3, 2, 1, 6, 7)).astype(np.float32)
    found = entry_moments(weight)
    flat = weight.astype(np.float64).reshape(3, 2, -1)
    assert_allclose(found.variance, flat.var(axis=-1), rtol=1e-13)
    assert_allclose(found.kurtosis, stats.kurtosis(flat, axis=-1, fisher=False), rtol=1e-12)
    assert found.count == 42


def test_blocks_of_unequal_scale_are_not_heavy_tails():
    scales = np.array([1.0, 1, 1, 5])[:, None, None]
    weight = scales * np.random.default_rng(1).normal(size=(200, 4, 10, 16))
    found = entry_moments(weight)
    # The variance of the mean of squares: 2 sum(s^4) / (B^2 n); all entries as one sample would have kurtosis 7.3.
    expected = 1 + 2 * np.mean(scales**4) / np.mean(scales**2) ** 2
    assert_allclose(found.kurtosis.mean(), expected, atol=4 * found.kurtosis.std() / 200**0.5)
    assert_allclose(expected, 1 + 2 * 157 / 49)
    ratio = variance_ratio_interval(found, EntryMoments(np.ones(1), np.array([3.0]), 10**9))
    assert_allclose(np.log(ratio.ratio).std(), ratio.standard_error.mean(), rtol=0.25)


def coverage(shape, other, kurtosis, draws, scales=1.0):
    rng = np.random.default_rng(shape[0] + other[0])
    scales = np.broadcast_to(scales, shape[0])
    sister = iid_blocks((draws, *shape), 1.0, rng, kurtosis=kurtosis) * np.sqrt(scales)[:, None, None]
    reference = 3 * iid_blocks((draws, *other), 1.0, rng, kurtosis=kurtosis)
    found = variance_ratio_interval(entry_moments(sister), entry_moments(reference))
    return np.mean((found.low < scales.mean() / 9) & (scales.mean() / 9 < found.high))


@pytest.mark.parametrize("kurtosis", [1.8, 3.0])
@pytest.mark.parametrize(
    "shape, other, scales",
    [
        ((1, 5, 8), (1, 5, 8), 1.0),
        ((1, 5, 8), (1, 20, 32), 1.0),
        ((20, 5, 8), (1, 5, 8), 1.0),
        ((10, 5, 8), (1, 50, 8), np.arange(1, 11.0)),
    ],
)
def test_intervals_of_sister_ratios_cover_95_percent(shape, other, scales, kurtosis):
    # The standard error of 4,000 draws is 0.35 %.
    assert 0.935 - 0.007 <= coverage(shape, other, kurtosis, 4000, scales) <= 0.965 + 0.007


@pytest.mark.slow
@pytest.mark.parametrize("kurtosis", [1.8, 3.0])
@pytest.mark.parametrize(
    "shape, other, scales",
    [((100, 5, 8), (1, 50, 80), 1.0), ((1, 8, 5), (10, 40, 64), 1.0), ((4, 5, 8), (1, 20, 32), [1, 4, 9, 16])],
)
def test_intervals_of_sister_ratios_cover_95_percent_in_more_shapes(shape, other, scales, kurtosis):
    assert 0.935 - 0.007 <= coverage(shape, other, kurtosis, 4000, scales) <= 0.965 + 0.007


def test_the_interval_of_large_normal_layers_is_the_one_of_the_f_law():
    moments = [EntryMoments(np.array(v), np.array(3.0), n) for v, n in ((9.7, 40_000), (1.0, 80_000))]
    found = variance_ratio_interval(*moments, level=0.9)
    low, high = stats.f(39_999, 79_999).ppf([0.95, 0.05])
    assert_allclose([found.low, found.high], [9.7 / low, 9.7 / high], rtol=5e-5)
    assert_allclose(found.standard_error, np.sqrt(2 / 40_000 + 2 / 80_000), rtol=1e-3)
    assert found.ratio == 9.7


def test_entries_with_less_kurtosis_tell_the_ratio_better():
    errors = [
        variance_ratio_interval(*[EntryMoments(np.array(1.0), np.array(k), 4000)] * 2).standard_error for k in (1.8, 3)
    ]
    assert_allclose(errors, np.sqrt([2 * 0.8 / 4000, 2 * 2 / 4000]), rtol=2e-3)


def test_layers_without_variance_have_no_interval_and_no_warning():
    noise = entry_moments(np.random.default_rng(2).normal(size=(1, 5, 8)))
    for empty in (np.zeros((1, 5, 8)), np.full((2, 5, 4), 0.1), np.ones((1, 1, 1))):
        flat = entry_moments(empty)
        assert flat.variance == 0
        assert np.isnan(flat.kurtosis)
        for found in (variance_ratio_interval(flat, noise), variance_ratio_interval(noise, flat)):
            assert np.isnan([found.low, found.high, found.standard_error]).all()
        assert np.isnan(variance_change_interval(empty, empty).low).all()


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150])
def test_scale_does_not_matter(scale):
    weight = np.random.default_rng(3).normal(size=(2, 5, 8))
    assert_allclose(entry_moments(scale * weight).kurtosis, entry_moments(weight).kurtosis, rtol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_handful_of_entries_has_a_wide_interval(size):
    small = entry_moments(np.random.default_rng(4).normal(size=(1, 1, size + 1)))
    found = variance_ratio_interval(small, EntryMoments(np.array(1.0), np.array(3.0), 4000))
    assert 0 < found.low < found.high < np.inf
    assert found.high / found.low > 5


@pytest.mark.parametrize(
    "weight, error",
    [(np.ones((5, 8)), ValueError), (np.full((1, 5, 8), np.nan), ValueError), (1j * np.ones((1, 5, 8)), TypeError)],
)
def test_weights_without_moments_are_refused(weight, error):
    with pytest.raises(error, match="weight"):
        entry_moments(weight)


def test_levels_outside_0_to_1_are_refused():
    moments = entry_moments(np.random.default_rng(5).normal(size=(1, 5, 8)))
    with pytest.raises(ValueError, match=r"level must lie in \(0, 1\), got 95"):
        variance_ratio_interval(moments, moments, level=95)


def test_a_layer_against_its_own_start_is_known_better_than_against_another():
    rng = np.random.default_rng(6)
    start = rng.normal(size=(4000, 2, 5, 8))
    end = 0.9 * start + 0.2 * rng.normal(size=start.shape)
    found = variance_change_interval(start, end)
    assert 0.93 <= np.mean((found.low < 0.85) & (found.high > 0.85)) <= 0.965
    assert_allclose(found.standard_error.mean(), np.log(found.ratio).std(), rtol=0.05)
    other = variance_ratio_interval(entry_moments(end), entry_moments(start))
    assert np.all(found.standard_error < 0.6 * other.standard_error)
    with pytest.raises(ValueError, match="one shape"):
        variance_change_interval(start, end[:, :1])


@pytest.mark.parametrize(
    "blocks, kurtosis, low, high",
    # A loop over 400 plain matrices of each, R the mean of 12 dense ones: 0.0526 +- 0.0006 and 0.0316 +- 0.0003.
    [(100, 3.0, 0.0505, 0.0555), (100, 1.8, 0.0302, 0.0330)],
)
def test_the_deviation_of_noise_is_a_known_number(blocks, kurtosis, low, high):
    found = null_mean_deviation(blocks, 500 // blocks, 800 // blocks, reference=DENSE, kurtosis=kurtosis)
    assert low < found.mean < high
    assert found.standard_error < 0.01 * found.mean


@pytest.mark.parametrize("blocks", [1, 4])
def test_the_null_is_what_independent_noise_shows_in_every_respect(blocks):
    # By hand: a sister, a dense network with a variance of its own, R's mean; all orders with a plain loop.
    reference, rng = (1, 20, 32), np.random.default_rng(7)
    null, curves = ordered_null(*reference).mean, []
    for _ in range(600):
        sister = rng.normal(scale=blocks**0.5, size=(blocks, 20 // blocks, 32 // blocks))
        dense = rng.normal(size=reference) if blocks > 1 else sister
        values = np.sort(np.linalg.svd(sister, compute_uv=False).ravel())[::-1]
        curves.append(values / (np.std(dense) * null))
    curves = np.array(curves)
    deviations = np.abs(1 - curves).mean(axis=1)
    found = sister_null(blocks, 20 // blocks, 32 // blocks, reference=reference if blocks > 1 else None, draws=1000)
    error = np.hypot(deviations.std() / 600**0.5, found.deviation.standard_error)
    assert_allclose(found.deviation.mean, deviations.mean(), atol=4 * error)
    assert_allclose(found.deviation.standard_deviation, deviations.std(), rtol=0.2)
    assert_allclose(found.mean, curves.mean(axis=0), atol=5 * curves.std(axis=0).max() * (1 / 600 + 1 / 1000) ** 0.5)
    within = (found.low < curves) & (curves < found.high)
    assert_allclose(within.mean(), 0.9, atol=0.03)
    whole = ((found.band_low < curves) & (curves < found.band_high)).all(axis=1)
    assert 0.85 <= whole.mean() <= 0.95  # standard errors 1.2 and 0.9 %
    p_values = found.deviation.p_value(deviations)
    assert_allclose([np.mean(p_values <= p) for p in (0.05, 0.5)], [0.05, 0.5], atol=0.08)
    assert np.mean(p_values <= 0.05) <= 0.09


def test_few_draws_of_bands_hold_as_many_curves_as_they_say():
    curves = sister_null(2, 6, 8, draws=1000, seed=3)
    bands = [sister_null(2, 6, 8, draws=24, seed=seed) for seed in range(100, 140)]
    fresh = np.random.default_rng(8).normal(size=(500, 2, 6, 8))
    values = aggregate(singular_values(fresh))[0] / np.sqrt(entry_variance(fresh))[:, None]
    held = []
    for seed, band in zip(range(100, 140), bands, strict=True):
        ratios = values / ordered_null(2, 6, 8, seed=seed).mean
        held.append(((band.band_low < ratios) & (ratios < band.band_high)).all(axis=1).mean())
    # 24 draws, level 0.9: rank 23 of 25, 92 %.
    assert_allclose(np.mean(held), 0.92, atol=4 * np.std(held) / 40**0.5)
    assert np.all(curves.band_low <= curves.low)


def test_equal_seeds_give_equal_nulls_transposed_or_not():
    one, other = null_mean_deviation(4, 5, 8, draws=50, seed=1), null_mean_deviation(4, 8, 5, draws=50, seed=1)
    assert_array_equal(one.values, other.values)
    assert not np.array_equal(one.values, null_mean_deviation(4, 5, 8, draws=50, seed=2).values)


def test_the_sister_of_a_dense_layer_has_its_blocks_times_the_variance_unless_told():
    plain = sister_null(4, 5, 8, reference=(1, 20, 32), draws=100)
    told = sister_null(4, 5, 8, reference=(1, 20, 32), ratio=4.0, draws=100)
    quarter = sister_null(4, 5, 8, reference=(1, 20, 32), ratio=1.0, draws=100)
    assert_array_equal(plain.mean, told.mean)
    assert_allclose(quarter.mean, plain.mean / 2, rtol=1e-12)


def test_a_p_value_counts_the_layer_itself():
    null = NullDeviation(np.array([0.1, 0.2, 0.3]))
    assert_allclose(null.p_value([0.05, 0.2, 0.4, np.nan]), [1, 0.75, 0.25, np.nan])
    assert null.quantile(0.5) == 0.2
    assert_allclose(null.standard_error, 0.1 / 3**0.5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"reference": (1, 20, 31), "blocks": 3}, "same number of singular values"),
        ({"blocks": 0}, "must be at least 1"),
        ({"ratio": 0.0}, "ratio must be positive and finite, got 0.0"),
        ({"ratio": np.nan}, "ratio must be positive"),
        ({"kurtosis": 0.5}, "kurtosis must be"),
        ({"draws": 8}, "level 0.9 needs more draws than 8: 9 at least"),
        ({"level": 1.0}, "level must lie"),
    ],
)
def test_nulls_that_do_not_exist_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sister_null(**{"blocks": 4, "out": 5, "width": 8, **arguments})


def test_standard_errors_of_small_and_of_many_small_blocks_are_unbiased():
    exact = EntryMoments(np.array(1.0), np.array(3.0), 10**9)
    small = entry_moments(np.random.default_rng(9).normal(size=(20_000, 1, 5, 8)))
    error = variance_ratio_interval(small, exact).standard_error
    assert_allclose(np.mean(error**2), (3 - 37 / 40) / 39, rtol=0.015)
    many = entry_moments(np.random.default_rng(10).normal(size=(2000, 20, 2, 3)))
    assert_allclose(many.kurtosis.mean(), 3, atol=0.08)


def test_the_interval_lies_about_the_ratio_of_unbiased_variances():
    rng = np.random.default_rng(11)
    one, other = rng.normal(size=(1, 3, 4)), rng.normal(size=(1, 2, 10))
    found = variance_ratio_interval(entry_moments(one), entry_moments(other))
    assert_allclose(np.sqrt(found.low * found.high), np.var(one, ddof=1) / np.var(other, ddof=1), rtol=1e-12)


def test_the_null_holds_the_spread_of_the_reference_s_own_variance():
    found = sister_null(1, 4, 400, reference=(1, 4, 4))
    # 16 entries of the reference: log(variance) has the standard error sqrt(2 / 15), sigma_R half of it.
    assert_allclose((found.high - found.low)[0] / found.mean[0], 2 * 1.645 * np.sqrt(2 / 15) / 2, rtol=0.15)


def test_the_draws_are_others_than_those_of_r():
    nulls = [sister_null(1, 20, 32, draws=64, seed=seed) for seed in range(40)]
    spread = np.mean([null.high[-1] - null.low[-1] for null in nulls]) / 3.29
    # Both means are of 64 draws.
    assert np.std([null.mean[-1] for null in nulls]) > 0.7 * spread / 8


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_tensors_have_the_intervals_of_their_entries(dtype):
    torch = pytest.importorskip("torch")
    drawn = torch.randn(2, 3, 4, 5, 8, generator=torch.Generator().manual_seed(0))
    start, end = (torch.nn.Parameter(part.to(getattr(torch, dtype))) for part in drawn)
    entries = [part.detach().double().numpy() for part in (start, end)]
    assert_array_equal(entry_moments(start).kurtosis, entry_moments(entries[0]).kurtosis)
    assert_array_equal(variance_change_interval(start, end).high, variance_change_interval(*entries).high)
    with pytest.raises(TypeError, match=r"weight must be real, got dtype torch\.complex64"):
        entry_moments(drawn[0] * 1j)


@pytest.mark.parametrize("unit", [1e-200, 1e-308, 1e150])
def test_a_change_of_variance_has_no_unit(unit):
    start = np.random.default_rng(40).normal(size=(1, 5, 8))
    end = start + 0.1
    end[0, 0] *= 2
    plain, scaled = variance_change_interval(start, end), variance_change_interval(unit * start, unit * end)
    assert_allclose(
        [scaled.ratio, scaled.low, scaled.high],
        [plain.ratio, plain.low, plain.high],
        rtol=1e-9 if unit > 1e-300 else 0.1,
    )


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: variance_ratio(np.array([1j]), 1.0), TypeError, "variance must be real"),
        (lambda: variance_ratio(1.0, -1.0), ValueError, "reference must not be negative, got -1"),
        (lambda: variance_ratio(1e300, 1e-300), ValueError, "a ratio exceeds"),
        (lambda: singular_value_ratio([1.0], [1.0], -1.0), ValueError, "reference_variance must not be negative"),
        (lambda: singular_value_ratio([np.inf], [1.0], 1.0), ValueError, "values exceeds"),
        (lambda: mean_deviation([]), ValueError, "one order at least"),
        (lambda: mean_deviation(1.0), ValueError, "one order at least"),
        (
            lambda: sister_null(2, 3, 4, kurtosis=1e300),
            ValueError,
            "kurtosis must be at most the number of entries, 24",
        ),
        (lambda: null_mean_deviation(2, 3, 4, draws=9).p_value([1j]), TypeError, "deviation must be real"),
    ],
)
def test_numbers_that_are_no_ratio_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_variance_that_vanishes_in_float64_has_no_interval():
    tiny = entry_moments(1e-200 * np.random.default_rng(41).normal(size=(1, 5, 8)))
    with pytest.raises(ValueError, match="below 2"):
        variance_ratio_interval(tiny, tiny)


def test_ratios_of_tensors_are_those_of_their_numbers():
    values = torch.tensor([0.5, 2.0], dtype=torch.bfloat16, requires_grad=True)
    assert_allclose(variance_ratio(values, values), 1)
    assert_allclose(singular_value_ratio(values, values, torch.tensor(1.0)), 1)
    assert_allclose(mean_deviation(values), 0.75)
