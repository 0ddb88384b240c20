import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.linalg import block_diag
from scipy.optimize import brentq
from scipy.stats import kstest

from rmtnet.bulk import fit_bulk, fit_noise, goodness, without_largest
from rmtnet.laws import MarchenkoPastur
from rmtnet.nulls import iid_blocks


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


@pytest.mark.parametrize("method, bias", [("moment", -0.001), ("quantiles", -0.028)])
def test_many_tiny_blocks(method, bias):
    rng = np.random.default_rng(7)
    fits = [fit_bulk(spectrum(100, 5, 8, rng), 5 / 8, blocks=100, method=method) for _ in range(100)]
    found = np.array([fit.law.variance for fit in fits]) - 1
    assert_allclose(np.mean(found), bias, atol=0.002 + 4 * np.std(found) / 10)
    assert np.mean([fit.outliers for fit in fits]) < 0.1


@pytest.mark.parametrize("rows, columns", [(128, 200), (256, 256)])
@pytest.mark.parametrize("share", [0.2, 0.9])
def test_spikes_in_5_of_100_dimensions_leave_the_variance_nearly_as_sure(rows, columns, share):
    rng, count, draws = np.random.default_rng(rows), rows // 20, 80
    variances = []
    for _ in range(draws):
        weight = rng.normal(size=(rows, columns))
        # On the axes, which Gaussian noise does not know from any others.
        weight[range(count), range(count)] += np.sqrt(share / (1 - share) * rows * columns / count)
        variances.append(fit_bulk(np.linalg.svd(weight)[1] ** 2 / columns, rows / columns).law.variance)
    oracle = np.sqrt(2 / (rows * columns))
    errors = np.array(variances) - 1
    assert abs(errors.mean()) < 0.003
    assert np.sqrt(np.mean(errors**2)) < 1.3 * oracle


@pytest.mark.parametrize("method", ["moment", "median", "quantiles", "likelihood"])
@pytest.mark.parametrize("kurtosis", [1.8, 3, 6])
def test_standard_error_and_interval_are_those_of_repeated_draws(method, kurtosis):
    rng, draws = np.random.default_rng(17), 300
    weights = iid_blocks((draws, 30, 48), 0.5, rng, kurtosis=kurtosis)
    fits = [fit_bulk(np.linalg.svd(w)[1] ** 2 / 48, 30 / 48, method=method, kurtosis=kurtosis) for w in weights]
    spread = np.std([fit.law.variance for fit in fits])
    # 4 % error of a deviation from 300 draws, and as much of the simulated ones.
    assert_allclose(np.mean([fit.standard_error for fit in fits]), spread, rtol=0.16)
    if method in ("median", "quantiles"):
        return  # their bias is a part of the error at this size
    covered = np.mean([fit.interval[0] <= 0.5 <= fit.interval[1] for fit in fits])
    assert_allclose(covered, 0.95, atol=4 * (0.05 * 0.95 / draws) ** 0.5)


@pytest.mark.slow
def test_a_free_ratio_is_found():
    rng = np.random.default_rng(5)
    found = []
    for _ in range(150):
        values = np.linalg.svd(rng.normal(size=(60, 150)))[1] ** 2
        found.append(fit_bulk(values / 10, None, method="likelihood"))
    ratios, variances = np.array([(fit.law.ratio, fit.law.variance) for fit in found]).T
    # The units of the eigenvalues are the variance's: over 10, not over 150.
    assert_allclose(ratios.mean(), 0.4, atol=4 * ratios.std() / 12)
    assert_allclose(variances.mean(), 15, atol=4 * variances.std() / 12)
    assert_allclose(np.mean([fit.ratio_error for fit in found]), ratios.std(), rtol=0.25)
    assert_allclose(np.mean([fit.standard_error for fit in found]), variances.std(), rtol=0.25)


def test_a_free_ratio_is_found_beside_spikes():
    weight = np.random.default_rng(6).normal(size=(100, 180))
    weight[range(3), range(3)] += [60, 80, 200]
    fit = fit_bulk(np.linalg.svd(weight)[1] ** 2 / 180, None, method="likelihood")
    assert fit.outliers == 3
    assert abs(fit.law.ratio - 100 / 180) < 4 * fit.ratio_error


def test_the_matrix_tells_the_kurtosis_and_with_it_the_error():
    rng = np.random.default_rng(4)
    uniform = rng.uniform(-1, 1, size=(60, 90))
    fit = fit_noise(uniform)
    assert_allclose(fit.kurtosis, 1.8, atol=0.05)
    assert_allclose(fit.standard_error, fit.law.variance * np.sqrt((fit.kurtosis - 1) / 5400), rtol=1e-12)
    spiked = uniform.copy()
    spiked[0, 0] += 100
    # A lone entry of 100 would have a kurtosis of thousands: spikes are taken out before it is measured.
    assert_allclose(fit_noise(spiked).kurtosis, 1.8, atol=0.06)
    assert fit_noise(np.stack([spiked, uniform])).outliers == 1
    assert_allclose(fit_noise(uniform.T).law.variance, fit.law.variance, rtol=1e-9)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (3, 40, 60)])
@pytest.mark.parametrize("spikes", [2, 10])
def test_the_kurtosis_is_that_of_what_the_spikes_leave(shape, spikes):
    stack = np.random.default_rng(spikes + 40).normal(size=shape)
    stack[..., range(spikes), range(spikes)] += np.linspace(60, 90, spikes)
    blocks = stack if stack.ndim == 3 else stack[None]
    left, values, right = np.linalg.svd(blocks, full_matrices=False)
    fit = fit_noise(stack)
    assert fit.outliers == spikes * len(blocks)
    values[:, :spikes] = 0
    rest = (left * values[:, None]) @ right
    assert_allclose(fit.kurtosis, np.mean(rest**4) / np.mean(rest**2) ** 2, rtol=1e-9)
    assert_allclose(fit_noise(1e-90 * stack).kurtosis, fit.kurtosis, rtol=1e-9)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (5, 5), (1, 4)])
def test_a_matrix_less_any_number_of_its_largest_triplets(shape):
    # Few are projected off; of many, what is left is projected onto.
    matrix = np.random.default_rng(3).normal(size=shape) + 5
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    for count in range(len(values) + 1):
        kept = np.where(np.arange(len(values)) < count, 0, values)
        assert_allclose(without_largest(matrix, count), (left * kept) @ right, atol=1e-12)


@pytest.mark.parametrize("strengths", [[2.0, 2.1], [2.5, 3.0, 40.0], [1e6]])
def test_the_mean_square_less_the_spikes_share_solves_its_equation(strengths):
    # 60 x 100, variance 1: each outlier stands where a signal of its strength would put it.
    ratio, (m, n) = 0.6, (60, 100)
    outliers = [(1 + t) * (ratio + t) / t for t in strengths]
    noise = MarchenkoPastur(ratio).ppf((np.arange(m - len(outliers)) + 0.5) / (m - len(outliers)))
    fit = fit_bulk([*noise, *outliers], ratio)
    assert fit.outliers == len(outliers)
    short, long = m - len(outliers), n - len(outliers)

    def excess(variance):
        above = np.array(outliers) / variance * n / (long + 1)
        q = (short + 1) / (long + 1)
        t = (above - 1 - q + np.sqrt((above - 1 - q) ** 2 - 4 * q)) / 2
        return variance * (short * long - (short + 1) * np.sum(1 / t)) - n * noise.sum()

    assert_allclose(fit.law.variance, brentq(excess, 0.9, 1.15, xtol=1e-14), rtol=1e-11)


def test_known_singular_values_are_not_computed_again():
    stack = np.random.default_rng(4).normal(size=(3, 20, 30))
    values = np.linalg.svd(stack, compute_uv=False)
    fit, known = fit_noise(stack), fit_noise(stack, values=values)
    assert_allclose(known.interval, fit.interval, rtol=1e-9)
    assert_allclose(fit_noise(stack, values=2 * values).law.variance, 4 * fit.law.variance, rtol=1e-9)
    with pytest.raises(ValueError, match=r"\(3, 20\) of this weight, got \(1, 60\)"):
        fit_noise(stack, values=values.ravel())


def test_weights_may_be_tensors():
    weight = np.random.default_rng(4).normal(size=(20, 30)).astype(np.float32)
    assert fit_noise(torch.tensor(weight)) == fit_noise(weight)


@pytest.mark.parametrize("kurtosis", [1.8, 3])
def test_the_goodness_of_fit_of_noise_is_uniform(kurtosis):
    rng = np.random.default_rng(15)
    weights = iid_blocks((400, 24, 40), 1.0, rng, kurtosis=kurtosis)
    p = []
    for weight in weights:
        values = np.linalg.svd(weight)[1] ** 2 / 40
        p.append(goodness(values, fit_bulk(values, 0.6, kurtosis=kurtosis), draws=399))
    assert kstest(p, "uniform").pvalue > 1e-3
    assert abs(np.mean(np.array(p) < 0.05) - 0.05) < 4 * (0.05 * 0.95 / 400) ** 0.5


def test_rows_of_unequal_variance_do_not_fit_the_law():
    rng = np.random.default_rng(16)
    weight = rng.normal(size=(80, 120)) * np.repeat([1, 2], 40)[:, None]
    values = np.linalg.svd(weight)[1] ** 2 / 120
    assert goodness(values, fit_bulk(values, 2 / 3), draws=199) == 1 / 200


def test_pure_noise_shows_an_outlier_in_about_one_matrix_of_a_hundred():
    rng = np.random.default_rng(12)
    found = sum(fit_bulk(spectrum(1, 40, 64, rng), 0.625).outliers > 0 for _ in range(600))
    assert 1 <= found <= 15  # 6 expected


def test_the_height_of_a_spike_does_not_matter():
    low = np.sort(spectrum(1, 50, 80, np.random.default_rng(8), spikes=2))
    high = np.append(low[:-2], [1e5, 1e8])
    higher = np.append(low[:-2], [1e9, 1e300])
    # A strong spike takes the noise of its row and column along, whatever its strength.
    assert_allclose(fit_bulk(high, 0.625).law.variance, fit_bulk(higher, 0.625).law.variance, rtol=1e-6)
    assert fit_bulk(high, 0.625).outliers == fit_bulk(higher, 0.625).outliers == fit_bulk(low, 0.625).outliers == 2


@pytest.mark.parametrize("method", ["median", "quantiles"])
def test_the_quantiles_of_a_law_give_the_law_back(method):
    law = MarchenkoPastur(0.4, 2.5)
    fit = fit_bulk(law.ppf((np.arange(51) + 0.5) / 51), 0.4, method=method)
    assert_allclose(fit.law.variance, 2.5, rtol=1e-12)
    assert fit.outliers == 0
    assert_allclose(fit.ks_distance, 0.5 / 51, rtol=1e-9)


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


def test_one_eigenvalue_is_enough():
    # One entry of variance 6: s^2 over the long side, 2, is 3.
    fit = fit_bulk([3.0], 0.5)
    assert_allclose(fit.law.variance, 3, rtol=1e-12)
    assert fit.outliers == 0
    assert_allclose(fit_bulk([3.0], 0.5, method="median").ks_distance, 0.5)


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


def test_blocks_that_were_stored_as_one_dense_matrix_are_fitted_as_blocks():
    blocks = np.random.default_rng(30).normal(size=(12, 25, 40))
    apart, dense = fit_noise(blocks), fit_noise(block_diag(*blocks))
    assert dense.outliers == apart.outliers
    assert_allclose(dense.law.variance, apart.law.variance, rtol=1e-9)
    assert_allclose(dense.interval, apart.interval, rtol=1e-9)
    with pytest.raises(ValueError, match="connected parts of unequal shapes"):
        fit_noise(block_diag(blocks[0], blocks[1, :20]))


@pytest.mark.parametrize("unit", [1e150, 1e-150])
def test_gigantic_and_tiny_weights_are_fitted_in_their_own_units(unit):
    weight = np.random.default_rng(31).normal(size=(20, 30))
    fit, scaled = fit_noise(weight), fit_noise(unit * weight)
    assert_allclose(scaled.law.variance / unit**2, fit.law.variance, rtol=1e-9)
    assert_allclose(np.array(scaled.interval) / unit**2, fit.interval, rtol=1e-9)
    values = np.linalg.svd(weight)[1] ** 2 / 30
    assert_allclose(
        fit_bulk(values * 1e300, 2 / 3).law.variance / 1e300, fit_bulk(values, 2 / 3).law.variance, rtol=1e-9
    )


def test_equal_eigenvalues_have_no_free_ratio():
    with pytest.raises(ValueError, match="too equal for any ratio"):
        fit_bulk(np.ones(12), None, method="likelihood")


@pytest.mark.parametrize(
    "how, message",
    [
        ({"draws": 0}, "draws must be at least 1"),
        ({"blocks": 0}, "blocks must be at least 1"),
        ({"blocks": 5}, "blocks must divide the 12 eigenvalues"),
    ],
)
def test_goodness_of_what_was_not_fitted_is_refused(how, message):
    with pytest.raises(ValueError, match=message):
        goodness(np.ones(12), fit_bulk(np.linspace(0.5, 1.5, 12), 0.5), **how)


def test_rows_of_zeros_are_no_part_of_the_noise():
    weight = np.random.default_rng(32).normal(size=(30, 40))
    for rows in ([0], [0, 7, 29]):
        padded = weight.copy()
        padded[rows] = 0
        expected = fit_noise(np.delete(weight, rows, axis=0))
        assert_allclose(fit_noise(padded).law.variance, expected.law.variance, rtol=1e-9)
        assert_allclose(fit_noise(padded.T).interval, expected.interval, rtol=1e-9)


@pytest.mark.parametrize("method", ["median", "quantiles"])
def test_the_goodness_of_every_fit_is_uniform_on_noise(method):
    rng = np.random.default_rng(33)
    spectra = [np.linalg.svd(rng.normal(size=(24, 40)))[1] ** 2 / 40 for _ in range(200)]
    p = [goodness(values, fit_bulk(values, 0.6, method=method), draws=399) for values in spectra]
    assert kstest(p, "uniform").pvalue > 1e-3


@pytest.mark.slow
def test_the_goodness_of_a_fit_with_a_free_ratio_is_that_of_refits_with_a_free_ratio():
    rng = np.random.default_rng(34)
    spectra = [np.linalg.svd(rng.normal(size=(24, 40)))[1] ** 2 / 40 for _ in range(12)]
    fits = [fit_bulk(values, None, method="likelihood") for values in spectra]
    p = [goodness(values, fit, draws=99) for values, fit in zip(spectra, fits, strict=True)]
    # Against refits with a given ratio, which are further from their law, all would be near 1.
    assert kstest(p, "uniform").pvalue > 1e-3


def test_a_given_ratio_has_no_error():
    assert fit_bulk(np.arange(1.0, 31), 0.5, method="median").ratio_error == 0


def test_triplets_are_taken_off_in_any_units():
    weight = np.random.default_rng(35).normal(size=(6, 9))
    expected = np.linalg.svd(weight)[1][1:]
    for unit in (1e300, 1e-300):
        rest = np.linalg.svd(without_largest(unit * weight, 1) / unit)[1]
        np.testing.assert_allclose(rest[:-1], expected, rtol=1e-9)
