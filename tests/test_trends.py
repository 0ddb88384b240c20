import gc
import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.signal import lfilter
from scipy.special import ndtr
from statsmodels.regression.linear_model import OLS

from rmtnet import trends
from rmtnet.trends import corrected, deterioration, drift, first_departure


def autoregressive(autocorrelation, shape, rng):
    """Stationary Gaussian noise of unit variance along the last axis."""
    noise = rng.normal(size=shape)
    noise[..., 0] /= math.sqrt(1 - autocorrelation**2)
    return lfilter([1.0], [1.0, -autocorrelation], noise) * math.sqrt(1 - autocorrelation**2)


def rejected(series, steps, **options):
    return np.mean([drift(steps, values, **options).p_value <= 0.05 for values in series])


def test_slope_and_standard_error_are_those_of_newey_and_west():
    rng = np.random.default_rng(0)
    steps = np.arange(0, 4000, 100)
    values = 3e-4 * steps + autoregressive(0.5, 40, rng)
    found = drift(steps, values)
    fit = OLS(values, np.column_stack([np.ones(40), steps])).fit(cov_type="HAC", cov_kwds={"maxlags": 10})
    assert_allclose([found.slope, found.standard_error], [fit.params[1], fit.bse[1]], rtol=1e-10)


@pytest.mark.parametrize("count", [10, 11, 60, 203])
def test_the_simulated_statistic_is_the_one_of_statsmodels(count):
    rng = np.random.default_rng(count)
    x = np.sort(rng.normal(size=count))
    x -= x.mean()
    series = np.cumsum(rng.normal(size=(3, count)), axis=-1)
    design = np.column_stack([np.ones(count), x])
    expected = [OLS(y, design).fit(cov_type="HAC", cov_kwds={"maxlags": count // 4}).tvalues[1] for y in series]
    assert_allclose(trends._slope_statistic(x, series), expected, rtol=1e-10)


@pytest.mark.parametrize("count, autocorrelation", [(50, 0.0), (50, 0.9), (200, 0.8)])
def test_noise_drifts_5_percent_of_the_time(count, autocorrelation):
    series = autoregressive(autocorrelation, (600, count), np.random.default_rng(1))
    # Measured over 4,000: 4.1, 6.3 and 4.1 %; the standard error of 600 is 0.9 %.
    assert 0.02 <= rejected(series, np.arange(count)) <= 0.09


@pytest.mark.slow
@pytest.mark.parametrize("count", [50, 100, 500])
@pytest.mark.parametrize("autocorrelation", [-0.5, 0.0, 0.3, 0.6, 0.8, 0.9])
def test_noise_drifts_5_percent_of_the_time_at_every_length(count, autocorrelation):
    series = autoregressive(autocorrelation, (3000, count), np.random.default_rng(2))
    assert 0.03 - 0.008 <= rejected(series, np.arange(count)) <= 0.07 + 0.008


def test_the_interval_holds_the_true_slope_as_often_as_the_test_says():
    series = 0.1 * np.arange(60) + autoregressive(0.6, (400, 60), np.random.default_rng(3))
    found = [drift(np.arange(60), values, level=0.9) for values in series]
    assert 0.85 <= np.mean([line.low < 0.1 < line.high for line in found]) <= 0.96
    assert all((line.p_value <= 0.1) == (line.low > 0 or line.high < 0) for line in found)
    assert_allclose(np.mean([line.slope for line in found]), 0.1, atol=4 * np.std([line.slope for line in found]) / 20)


def test_a_drift_four_errors_strong_is_found():
    steps = np.arange(200.0)
    noise = autoregressive(0.6, (200, 200), np.random.default_rng(4))
    error = np.std([np.polyfit(steps, values, 1)[0] for values in noise])
    assert rejected(noise + 4 * error * steps, steps) > 0.8


def test_units_of_steps_and_values_do_not_matter():
    values = autoregressive(0.5, 40, np.random.default_rng(5)) + np.linspace(0, 2, 40)
    one, other = drift(np.arange(40), values), drift(1e6 * np.arange(40) + 3e7, 1e-200 * values)
    assert one.p_value == other.p_value
    assert_allclose([other.slope, other.low, other.high], 1e-206 * np.array([one.slope, one.low, one.high]), rtol=1e-8)
    assert drift(np.arange(40), values) == one


def test_log_steps_regress_on_the_logarithm():
    steps = 2.0 ** np.arange(12)
    found = drift(steps, 3 * np.log(steps) + 0.01 * np.cos(np.arange(12) ** 2), log_steps=True)
    assert_allclose(found.slope, 3, rtol=0.01)
    with pytest.raises(ValueError, match=r"steps must be positive with log_steps, got 0\.0"):
        drift(np.arange(12), np.arange(12.0), log_steps=True)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e300, -3])
def test_a_constant_series_has_no_drift(value):
    assert drift(np.arange(20), np.full(20, value)) == trends.Drift(0.0, 0.0, 1.0, 0.0, 0.0, 0.0)


def test_a_perfect_line_has_the_smallest_p_value():
    found = drift(np.arange(20), 5 - 2.0 * np.arange(20))
    assert_allclose([found.slope, found.low, found.high], -2, rtol=1e-9)
    assert found.p_value == 1 / 4001


@pytest.mark.parametrize(
    "steps, values, message",
    [
        (np.arange(9), np.ones(9), "one length >= 10"),
        (np.arange(12), np.ones(11), "one length"),
        (np.ones((2, 12)), np.ones((2, 12)), "1-D"),
        (np.arange(12), np.full(12, np.nan), "must be finite"),
        (np.zeros(12), np.ones(12), "ascend"),
    ],
)
def test_series_without_a_trend_are_refused(steps, values, message):
    with pytest.raises(ValueError, match=message):
        drift(steps, values)
    with pytest.raises(ValueError, match=r"level must lie in \(0, 1\), got 1"):
        drift(np.arange(12), np.ones(12), level=1)


def test_a_fall_is_a_fraction_of_the_start():
    steps = np.linspace(0, 10000, 51)
    noise = 1e-4 * autoregressive(0.5, 51, np.random.default_rng(6))
    found = deterioration(steps, 97 * np.exp(math.log(0.96) * steps / 10000 + noise))
    assert_allclose(found.fall, 0.04, atol=3e-4)
    assert found.low < 0.04 < found.high
    assert found.high - found.low < 1e-3
    assert_allclose(found.observed, 0.04, atol=1e-3)
    assert found.drift.p_value < 0.001


def test_a_ratio_that_falls_and_rises_again_has_its_depth_and_a_wide_interval():
    steps = np.linspace(0, 10000, 51)
    found = deterioration(steps, 50 - 5 * np.sin(np.pi * steps / 10000))
    assert_allclose([found.observed, found.deepest, found.deepest_step], [0, 0.1, 5000], atol=1e-12)
    assert found.low < 0 < found.high
    with pytest.raises(ValueError, match=r"ratio must be positive, got 0\.0"):
        deterioration(steps, np.zeros(51))


def test_a_fall_along_the_logarithm_of_the_step_spans_that_logarithm():
    steps = 2.0 ** np.arange(12)
    found = deterioration(steps, 10 * steps**-0.1 * np.exp(1e-6 * np.cos(np.arange(12) ** 2)), log_steps=True)
    assert_allclose([found.fall, found.observed], 1 - 2.0**-1.1, rtol=1e-5)


def test_corrections_are_the_published_ones_over_all_axes_with_nan_kept():
    p = np.array([[0.01, np.nan, 0.04], [0.03, 0.005, np.nan]])
    # Holm 1979 by hand: 4 x 0.005, 3 x 0.01, 2 x 0.03, then 0.04 raised to the one before it.
    assert_allclose(corrected(p), [[0.03, np.nan, 0.06], [0.06, 0.02, np.nan]])
    assert_allclose(corrected(p, method="fdr_bh"), [[0.02, np.nan, 0.04], [0.04, 0.02, np.nan]])
    assert_allclose(p[0, 0], 0.01)
    assert np.isnan(corrected(np.full((2, 2), np.nan))).all()
    assert corrected([]).shape == (0,)
    assert corrected(0.3) == 0.3


def test_p_values_outside_0_to_1_and_unknown_methods_are_refused():
    with pytest.raises(ValueError, match=r"p must lie in \[0, 1\] or be NaN, got -0.1 to 1.2"):
        corrected([-0.1, 1.2])
    with pytest.raises(ValueError, match="method"):
        corrected([0.1, 0.2], method="none such")


def test_the_first_departure_is_a_step_for_each_layer():
    p = np.full((3, 5), 0.5)
    p[0, 2:] = 1e-6
    p[1, [1, 3, 4]] = 1e-6
    steps = [0, 10, 20, 50, 100]
    assert_array_equal(first_departure(p, steps), [20, 10, np.nan])
    assert_array_equal(first_departure(p, steps, consecutive=2), [20, 50, np.nan])
    assert_array_equal(first_departure(p, steps, consecutive=4), [np.nan] * 3)
    assert_array_equal(first_departure(p, steps, consecutive=6), [np.nan] * 3)
    p[0, 3] = np.nan
    assert_array_equal(first_departure(p, steps, consecutive=2), [np.nan, 50, np.nan])


def test_the_correction_counts_all_layers_and_steps():
    p = np.full((10, 10), 0.5)
    p[4, 7] = 0.0006
    assert np.isnan(first_departure(p, np.arange(10))).all()
    assert first_departure(p[4], np.arange(10)) == 7


@pytest.mark.parametrize("method", ["holm", "fdr_bh"])
@pytest.mark.parametrize("autocorrelation, low, high", [(0.0, 0.035, 0.065), (0.95, 0.003, 0.05)])
def test_noise_leaves_the_null_in_at_most_5_percent_of_networks(method, autocorrelation, low, high):
    gc.freeze()  # multipletests collects garbage at every call: all that was ever imported, otherwise
    rng = np.random.default_rng(7)
    networks = ndtr(autoregressive(autocorrelation, (1500, 10, 30), rng))
    alarms = [np.isfinite(first_departure(p, np.arange(30), method=method)).any() for p in networks]
    gc.unfreeze()
    assert low <= np.mean(alarms) <= high + 0.005


def test_steps_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="steps must ascend, one for each"):
        first_departure(np.ones((2, 3)), [0, 1])
    with pytest.raises(ValueError, match="steps must ascend"):
        first_departure(np.ones(2), [1, 0])
    with pytest.raises(ValueError, match="consecutive must be at least 1, got 0"):
        first_departure(np.ones(2), [0, 1], consecutive=0)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda y: drift(np.arange(12), y * 1j), TypeError, "values must be real"),
        (lambda y: drift(np.arange(12), y, draws=0), ValueError, "draws must be at least 1"),
        (lambda y: drift(np.arange(12) * 1e-311, y), ValueError, "the slope exceeds"),
        (
            lambda y: deterioration(np.arange(12), 10.0 ** np.linspace(-300, 300, 12)),
            ValueError,
            "over its start exceeds",
        ),
        (lambda y: corrected([0.1], method="nothing"), ValueError, "method must be one that statsmodels"),
        (lambda y: corrected([0.1], method=None), ValueError, "method must be one that statsmodels"),
        (lambda y: corrected([0.1j]), TypeError, "p must be real"),
        (
            lambda y: first_departure(y / 9, np.arange(12), consecutive=1.5),
            TypeError,
            "consecutive must be a whole number",
        ),
    ],
)
def test_what_has_no_trend_is_told_in_one_line(call, error, message):
    with pytest.raises(error, match=message):
        call(np.random.default_rng(40).random(12))


@pytest.mark.parametrize("unit", [1e-300, 1e300])
def test_gigantic_and_tiny_series_drift_as_others_do(unit):
    values = 1 + np.random.default_rng(41).random(20)
    plain, scaled = drift(np.arange(20), values, draws=99), drift(np.arange(20), unit * values, draws=99)
    assert_allclose(scaled.slope / unit, plain.slope, rtol=1e-9)
    assert scaled.p_value == plain.p_value
    assert drift(np.arange(20), np.full(20, 1e308)).slope == 0
    fall = deterioration(np.arange(20), unit * values, draws=99)
    assert_allclose(fall.fall, deterioration(np.arange(20), values, draws=99).fall, rtol=1e-9)


def test_a_fall_of_all_orders_of_magnitude_is_whole():
    assert deterioration(np.arange(12), 10.0 ** np.linspace(300, -300, 12), draws=99).fall == 1


def test_series_may_be_tensors():
    values = torch.tensor(np.random.default_rng(42).random(12)).bfloat16()
    assert drift(torch.arange(12), values, draws=99) == drift(np.arange(12), values.double().numpy(), draws=99)
