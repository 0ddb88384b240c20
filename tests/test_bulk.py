import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import kstest

from rmtnet.bulk import fit_bulk
from rmtnet.laws import MarchenkoPastur


def spectrum(blocks, rows, columns, rng, *, spikes=0, variance=1.0):
    """Pooled eigenvalues of Gaussian blocks; the spikes of each hold half of all its variance."""
    weight = rng.normal(size=(blocks, rows, columns))
    if spikes:
        left = np.linalg.qr(rng.normal(size=(rows, spikes)))[0]
        right = np.linalg.qr(rng.normal(size=(columns, spikes)))[0]
        weight += np.sqrt(rows * columns / spikes) * left @ right.T
    return variance * np.linalg.svd(weight, compute_uv=False).ravel() ** 2 / max(rows, columns)


@pytest.mark.parametrize("spikes", [0, 3])
@pytest.mark.parametrize(
    "blocks, rows, columns, bias",
    [(1, 40, 400, 0.003), (1, 50, 80, 0.006), (1, 100, 100, 0.006), (10, 50, 80, 0.010)],
)
def test_a_planted_variance_is_recovered(blocks, rows, columns, bias, spikes):
    rng = np.random.default_rng(rows + spikes)
    spectra = [spectrum(blocks, rows, columns, rng, spikes=spikes, variance=0.3) for _ in range(60)]
    fits = [fit_bulk(values, rows / columns, blocks=blocks) for values in spectra]
    found = np.array([fit.law.variance for fit in fits]) / 0.3
    assert_allclose(np.mean(found), 1, atol=bias + 4 * np.std(found) / np.sqrt(60))
    false = np.array([fit.outliers - blocks * spikes for fit in fits]) / blocks
    assert np.all(false >= 0)
    assert np.mean(false) < 0.05
    assert all(fit.law.ratio == rows / columns for fit in fits)


@pytest.mark.parametrize("spikes", [0, 1])
def test_many_tiny_blocks_give_a_variance_3_percent_low(spikes):
    rng = np.random.default_rng(7)
    fits = [fit_bulk(spectrum(100, 5, 8, rng, spikes=spikes), 5 / 8, blocks=100) for _ in range(60)]
    found = np.array([fit.law.variance for fit in fits])
    assert_allclose(np.mean(found), 0.972, atol=0.005 + 4 * np.std(found) / np.sqrt(60))
    # Noise: less than the 1 in 100 blocks of the limit of large blocks. Spikes: a few drown in blocks this small.
    low, high = (90, 100) if spikes else (0.2, 1.2)
    assert low < np.mean([fit.outliers for fit in fits]) < high


def test_pure_noise_shows_an_outlier_in_about_one_matrix_of_a_hundred():
    rng = np.random.default_rng(12)
    found = sum(fit_bulk(spectrum(1, 40, 64, rng), 0.625).outliers > 0 for _ in range(600))
    assert 1 <= found <= 15  # 6 expected


def test_the_height_of_a_spike_does_not_matter():
    low = np.sort(spectrum(1, 50, 80, np.random.default_rng(8), spikes=2))
    high = np.append(low[:-2], [1e3, 1e6])
    assert fit_bulk(low, 0.625) == fit_bulk(high, 0.625)
    assert fit_bulk(high, 0.625).outliers == 2


def test_the_quantiles_of_a_law_give_the_law_back():
    law = MarchenkoPastur(0.4, 2.5)
    fit = fit_bulk(law.ppf((np.arange(50) + 0.5) / 50), 0.4)
    assert_allclose(fit.law.variance, 2.5, rtol=1e-12)
    assert fit.outliers == 0
    assert_allclose(fit.ks_distance, 0.5 / 50, rtol=1e-9)


def test_ks_distance_is_that_of_scipy():
    values = np.random.default_rng(9).uniform(0, 2, 40)
    fit = fit_bulk(values, 0.5)
    assert fit.outliers == 0
    assert_allclose(fit.ks_distance, kstest(values, fit.law.cdf).statistic, rtol=1e-12)


def test_order_and_units_do_not_matter():
    values = spectrum(1, 30, 50, np.random.default_rng(10), spikes=2)
    fit, scaled = fit_bulk(np.sort(values), 0.6), fit_bulk(1e-8 * np.sort(values)[::-1], 0.6)
    assert fit.outliers == scaled.outliers == 2
    assert_allclose(scaled.law.variance, 1e-8 * fit.law.variance, rtol=1e-12)
    assert_allclose(scaled.ks_distance, fit.ks_distance, rtol=1e-9)


def test_one_eigenvalue_lies_on_the_median_of_its_law():
    fit = fit_bulk([3.0], 0.5)
    assert_allclose(fit.law.ppf(0.5), 3, rtol=1e-12)
    assert fit.outliers == 0
    assert_allclose(fit.ks_distance, 0.5)


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_a_few_eigenvalues_are_enough(count):
    fit = fit_bulk(np.full(count, 2.0), 1.0)
    assert fit.outliers == 0
    assert 1 < fit.law.variance < 4


def test_zeros_below_the_middle_are_fitted():
    assert fit_bulk([0.0, 0.9, 1.0, 1.1, 1.2], 0.5).law.variance > 0


@pytest.mark.parametrize("values", [np.zeros(5), np.array([0.0, 0.0, 0.0, 0.0, 0.0, 7.0])])
def test_a_bulk_of_zeros_is_refused(values):
    with pytest.raises(ValueError, match=r"middle 60 % of the eigenvalues are 0"):
        fit_bulk(values, 0.5)


@pytest.mark.parametrize(
    "values, message",
    [
        ([], "1-D and not empty, got shape \\(0,\\)"),
        (1.0, "1-D and not empty, got shape \\(\\)"),
        (np.ones((2, 2)), "1-D and not empty, got shape \\(2, 2\\)"),
        ([1.0, np.nan], "NaN or infinity"),
        ([1.0, np.inf], "NaN or infinity"),
        ([1.0, -0.5], "must not be negative, got -0.5"),
    ],
)
def test_values_that_are_no_spectrum_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        fit_bulk(values, 0.5)


@pytest.mark.parametrize("ratio", [0, -0.5, 1.5, np.nan, np.inf])
def test_a_ratio_outside_0_to_1_is_refused(ratio):
    with pytest.raises(ValueError, match=rf"ratio must lie in \(0, 1\].* got {ratio}"):
        fit_bulk([1.0, 2.0], ratio)


def test_a_fit_that_did_not_settle_says_so():
    values = spectrum(1, 50, 80, np.random.default_rng(11), spikes=3)
    with pytest.raises(RuntimeError, match="max_rounds=1 "):
        fit_bulk(values, 0.625, max_rounds=1)
    assert fit_bulk(values, 0.625, max_rounds=2).outliers == 3


@pytest.mark.parametrize("blocks", [0, 3])
def test_blocks_must_divide_the_eigenvalues(blocks):
    with pytest.raises(ValueError, match=f"blocks must divide the number of eigenvalues: {blocks} does not divide 10"):
        fit_bulk(np.ones(10), 0.5, blocks=blocks)
