import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose

from rmtnet.nulls import _ordered, iid_blocks, matched_spectra, ordered_null, permuted


def test_the_mean_square_of_all_singular_values_is_the_longer_side():
    # E sum s_i^2 = number of entries, per block and in all.
    null = ordered_null(4, 30, 50, draws=64)
    per_draw = 4 * 30 * 50
    error = (2 / (per_draw * 64)) ** 0.5
    spread = ((null.high - null.low) / 3.29) ** 2
    assert (null.mean**2 + spread).sum() / per_draw == pytest.approx(1, abs=5 * error + 0.003)


def test_the_largest_singular_value_follows_tracy_widom():
    rows, columns = 100, 160
    null = ordered_null(1, rows, columns, draws=64, seed=3)
    root_sum = np.sqrt(rows - 0.5) + np.sqrt(columns - 0.5)
    scale = root_sum * (1 / np.sqrt(rows - 0.5) + 1 / np.sqrt(columns - 0.5)) ** (1 / 3)
    # Mean and variance of Tracy-Widom, beta 1; centring and scaling as Ma (2012).
    mean, deviation = root_sum**2 - 1.2065335745820 * scale, np.sqrt(1.6077810345810) * scale
    error = deviation / np.sqrt(64) / (2 * np.sqrt(mean))
    assert null.mean[0] == pytest.approx(np.sqrt(mean), abs=5 * error)


def test_one_by_one_blocks_are_order_statistics_of_the_half_normal():
    null = ordered_null(9, 1, 1, draws=4000)
    median_rank = scipy.stats.halfnorm.ppf(scipy.stats.beta.median(5, 5))
    assert null.mean[4] == pytest.approx(median_rank, abs=0.03)
    assert null.low[4] == pytest.approx(scipy.stats.halfnorm.ppf(scipy.stats.beta.ppf(0.05, 5, 5)), abs=0.03)
    assert null.high[4] == pytest.approx(scipy.stats.halfnorm.ppf(scipy.stats.beta.ppf(0.95, 5, 5)), abs=0.05)


def test_a_fresh_draw_lies_in_the_band_nine_times_in_ten():
    null = ordered_null(1, 40, 60, draws=400)
    fresh = np.linalg.svd(np.random.default_rng(9).normal(size=(400, 40, 60)), compute_uv=False)
    inside = ((fresh >= null.low) & (fresh <= null.high)).mean(axis=0)
    assert_allclose(inside, 0.9, atol=5 * (2 * 0.9 * 0.1 / 400) ** 0.5)


def test_equal_seeds_give_equal_results_and_global_state_is_left_alone():
    np.random.seed(0)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = _ordered.__wrapped__(2, 5, 8, 20, 1, 3.0)
    again = _ordered.__wrapped__(2, 5, 8, 20, 1, 3.0)
    other = _ordered.__wrapped__(2, 5, 8, 20, 2, 3.0)
    assert np.array_equal(first.mean, again.mean)
    assert not np.array_equal(first.mean, other.mean)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_r_and_its_transpose_are_the_same():
    assert np.array_equal(ordered_null(2, 5, 8).mean, ordered_null(2, 8, 5).mean)


def test_large_matrices_take_fewer_draws():
    assert ordered_null(1, 5, 8).draws == 64
    assert ordered_null(1, 1, 5000).draws == 64
    assert ordered_null(1, 1100, 1101).draws == 16


def test_iid_blocks_have_the_variance_asked_for():
    entries = iid_blocks((10, 100, 100), 4.0, np.random.default_rng(0))
    assert entries.var() == pytest.approx(4, rel=5 * (2 / entries.size) ** 0.5)


@pytest.mark.parametrize("kurtosis", [1, 1.3, 1.8, 2.5, 3, 3.7, 6, 9])
def test_entries_have_the_kurtosis_asked_for(kurtosis):
    entries = iid_blocks((1000, 1000), 4.0, np.random.default_rng(7), kurtosis=kurtosis)
    # Measured from 100 groups, whose spread gives the error.
    groups = entries.reshape(100, -1) / 2
    found = (groups**4).mean(axis=1)
    assert abs(groups.mean()) < 5e-3
    assert (groups**2).mean() == pytest.approx(1, abs=5 * ((kurtosis - 1) / 1e6) ** 0.5 + 1e-12)
    assert found.mean() == pytest.approx(kurtosis, abs=5 * found.std() / 10 + 1e-12)


def test_the_entry_laws_are_the_ones_named():
    rng = np.random.default_rng(1)
    uniform = iid_blocks((10_000,), 1.0, rng, kurtosis=1.8) / np.sqrt(12) + 0.5
    laplace = iid_blocks((10_000,), 1.0, rng, kurtosis=6) * np.sqrt(2)
    assert scipy.stats.kstest(uniform, "uniform").pvalue > 1e-3
    assert scipy.stats.kstest(laplace, "laplace").pvalue > 1e-3
    assert set(np.unique(iid_blocks((100,), 4.0, rng, kurtosis=1))) == {-2, 2}


@pytest.mark.parametrize("kurtosis", [0.5, np.inf, np.nan])
def test_a_kurtosis_that_no_law_has_is_refused(kurtosis):
    with pytest.raises(ValueError, match="kurtosis must be finite and at least 1"):
        iid_blocks((2, 2), 1.0, np.random.default_rng(0), kurtosis=kurtosis)


def test_matched_spectra_keep_the_entries_of_each_block():
    weight = np.random.default_rng(3).normal(size=(2, 6, 9)) * np.array([1, 10])[:, None, None]
    moved = permuted(weight, np.random.default_rng(0))
    assert_allclose(np.sort(moved.reshape(2, -1)), np.sort(weight.reshape(2, -1)))
    assert not np.array_equal(moved, weight)
    spectra = matched_spectra(weight, draws=5, seed=2)
    assert spectra.shape == (5, 2, 6)
    assert_allclose((spectra**2).sum(axis=-1), np.broadcast_to((weight**2).sum(axis=(1, 2)), (5, 2)))
    assert np.array_equal(spectra, matched_spectra(weight, draws=5, seed=2))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_tensors_are_permuted_as_their_entries(dtype):
    torch = pytest.importorskip("torch")
    drawn = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0))
    weight = torch.nn.Parameter(drawn.to(getattr(torch, dtype)))
    entries = weight.detach().double().numpy()
    assert np.array_equal(permuted(weight, np.random.default_rng(1)), permuted(entries, np.random.default_rng(1)))
    assert np.array_equal(matched_spectra(weight, draws=3), matched_spectra(entries, draws=3))


@pytest.mark.parametrize(
    "weight, error", [(np.ones((2, 3)) * 1j, TypeError), (np.array([[1.0, np.nan], [0, 1]]), ValueError)]
)
def test_weights_that_are_no_numbers_are_not_permuted(weight, error):
    for function in (lambda w: permuted(w, np.random.default_rng(0)), lambda w: matched_spectra(w, draws=1)):
        with pytest.raises(error, match=r"^weight must be"):
            function(weight)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ordered_null(0, 3, 4), ValueError, "^blocks must be at least 1, got 0"),
        (lambda: ordered_null(1, 0, 4), ValueError, "^out must be at least 1, got 0"),
        (lambda: ordered_null(1, 3, 4.0), TypeError, r"^width must be a whole number, got 4\.0"),
        (lambda: ordered_null(1, 3, 4, draws=0), ValueError, "^draws must be at least 1, got 0"),
        (lambda: ordered_null(1, 3, 4, seed=np.random.default_rng(0)), TypeError, "^seed must be a whole number"),
        (lambda: ordered_null(1, 3, 4, kurtosis=[3.0]), TypeError, r"^kurtosis must be one number, got shape \(1,\)"),
        (lambda: matched_spectra(np.eye(3), draws=0), ValueError, "^draws must be at least 1, got 0"),
        (lambda: matched_spectra(np.eye(3), draws=2, seed="a"), TypeError, "^seed must be a whole number or"),
        (lambda: permuted(np.ones(3), 0), ValueError, r"stack of matrices .* got shape \(3,\)"),
        (lambda: permuted(np.eye(3), None), TypeError, "^rng must be a whole number or"),
        (lambda: iid_blocks((2, 3), -1.0, 0), ValueError, r"^variance must lie in \[0, 1e\+300\], got -1"),
        (lambda: iid_blocks((2, 3), np.nan, 0), ValueError, "^variance must lie in .* got nan"),
        (lambda: iid_blocks((2, 3), 1.0, 1.5), TypeError, r"^rng must be a whole number or .* got 1\.5"),
    ],
)
def test_nulls_of_nothing_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_seed_serves_for_a_generator():
    weight = np.arange(12.0).reshape(3, 4)
    assert np.array_equal(permuted(weight, 5), permuted(weight, np.random.default_rng(5)))
    assert np.array_equal(iid_blocks((2, 3), 1.0, 5), iid_blocks((2, 3), 1.0, np.random.default_rng(5)))
    one, other = (matched_spectra(weight, draws=2, seed=seed) for seed in (5, np.random.default_rng(5)))
    assert np.array_equal(one, other)
