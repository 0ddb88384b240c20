import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from numpy.testing import assert_allclose

from rmtnet.edges import (
    extreme,
    largest,
    largest_in_profile,
    pooled,
    profile,
    smallest,
    smallest_in_profile,
    spikes,
    spikes_of,
    strengths,
)
from rmtnet.edges.noise import Noise
from rmtnet.edges.simulated import Tail, extreme_tails, permuted_tails
from rmtnet.edges.testing import noise_like, split_spectra
from rmtnet.laws import TracyWidom
from rmtnet.nulls import iid_blocks


def planted(rows, columns, strengths, rng, blocks=1):
    """Noise with spikes on random directions; strengths are theta^2 over the long side."""
    weight = rng.normal(size=(blocks, rows, columns))
    for block in weight:
        left = np.linalg.qr(rng.normal(size=(rows, len(strengths))))[0]
        right = np.linalg.qr(rng.normal(size=(columns, len(strengths))))[0]
        block += (left * np.sqrt(np.array(strengths) * max(rows, columns))) @ right.T
    return weight


def rates(p, levels=(0.01, 0.05)):
    """Share of p-values below each level, in standard errors from it."""
    return [(np.mean(np.array(p) < level) - level) / math.sqrt(level * (1 - level) / len(p)) for level in levels]


@pytest.mark.parametrize("columns", [2, 7, 30])
@pytest.mark.parametrize("p", [0.9, 0.5, 0.05, 0.01, 1e-3])
def test_two_rows_have_the_exact_law_of_the_sphericity_test(columns, p):
    # det / (trace / 2)^2 of a 2 x 2 Wishart matrix is below w with probability w^((n - 1) / 2) [Mauchly 1940].
    share = 1 + math.sqrt(1 - p ** (2 / (columns - 1)))
    values = np.sqrt([share, 2 - share])
    assert_allclose(extreme(values, 2, columns, end="largest").p_value, p, rtol=0.005 + 5 * (p * 2.5e5) ** -0.5)


@pytest.mark.parametrize("end", ["largest", "smallest"])
def test_one_row_of_known_variance_is_chi_square(end):
    law = scipy.stats.chi2(9)
    for p in (0.3, 0.05, 0.003):
        square = law.isf(p) if end == "largest" else law.ppf(p)
        found = extreme([[2 * math.sqrt(square)]], 1, 9, end=end, variance=4.0).p_value
        assert_allclose(found, p, rtol=0.005 + 5 * (p * 2.5e5) ** -0.5)


def test_one_row_whose_variance_is_fitted_tells_nothing():
    assert extreme([[3.0]], 1, 9, end="largest").p_value == pytest.approx(1)
    assert largest(np.random.default_rng(0).normal(size=(1, 50))).p_value == pytest.approx(1)


def test_two_rows_of_known_variance_agree_with_the_joint_density():
    columns, square = 6, 22.0
    density = lambda x, y: (x * y) ** ((columns - 3) / 2) * math.exp(-(x + y) / 2) * (x - y)  # noqa: E731
    below = scipy.integrate.dblquad(lambda y, x: density(x, y), 0, square, 0, lambda x: x)[0]
    everything = scipy.integrate.dblquad(lambda y, x: density(x, y), 0, 200, 0, lambda x: x)[0]
    found = extreme(np.sqrt([square, 1.0]), 2, columns, end="largest", variance=1.0).p_value
    assert_allclose(found, 1 - below / everything, rtol=5 * (0.006 * 2.5e5) ** -0.5)


@pytest.mark.parametrize("kurtosis", [1.8, 3])
@pytest.mark.parametrize("rows, columns", [(64, 64), (64, 66), (64, 100), (100, 64)])
def test_limiting_laws_hold_at_the_smallest_size_they_serve(rows, columns, kurtosis):
    rng = np.random.default_rng(int(10 * kurtosis) + columns)
    p = []
    for _ in range(3):
        weights = iid_blocks((500, rows, columns), 1.0, rng, kurtosis=kurtosis)
        values = np.linalg.svd(weights, compute_uv=False)
        noise = Noise(min(rows, columns), max(rows, columns), kurtosis)
        squares = values**2 / np.mean(weights**2, axis=(1, 2))[:, None]
        p += list(np.stack([noise.largest_p(squares[:, 0]), noise.smallest_p(squares[:, -1])], axis=1))
    for of_end in np.transpose(p):
        assert np.max(np.abs(rates(of_end))) < 4
        assert abs(np.mean(of_end < 0.5) - 0.5) < 0.06


def test_the_limiting_law_is_tracy_widom_itself_for_large_matrices_of_known_variance():
    side = 10**9
    noise = Noise(side, side, 3.0, math.inf)
    root = math.sqrt(side - 0.5)
    scale = 2 * root * (2 / root) ** (1 / 3)
    x = np.array([-3, -1.2, 0, 2, 5])
    assert_allclose(noise.largest_p(4 * root**2 + scale * x), TracyWidom(1).sf(x), rtol=1e-4)


def test_the_term_of_nadler_is_met_where_it_is_small():
    noise, law, x = Noise(400, 900), TracyWidom(1), 1.0
    a, b = math.sqrt(399.5), math.sqrt(899.5)
    center, scale = (a + b) ** 2, (a + b) * (1 / a + 1 / b) ** (1 / 3)
    slope = (law.pdf(x + 1e-4) - law.pdf(x - 1e-4)) / 2e-4
    # F_1(x) - (1/2) (2 / (n p)) (mu / sigma)^2 F_1''(x): Nadler (2011), for the distribution function.
    change = 0.5 * 2 / (400 * 900) * (center / scale) ** 2 * slope
    assert_allclose(noise.largest_p(center + scale * x) - law.sf(x), change, rtol=0.1)


@pytest.mark.parametrize("shape", [(1, 5, 8), (1, 12, 20), (20, 5, 8)])
@pytest.mark.parametrize("test", [largest, smallest])
def test_noise_of_few_entries_is_rejected_as_often_as_it_says(shape, test):
    rng = np.random.default_rng(shape[0])
    p = [test(iid_blocks(shape, 1.0, rng, kurtosis=1.8)).p_value for _ in range(60)]
    assert np.max(np.abs(rates(p, (0.05, 0.2, 0.5)))) < 4


@pytest.mark.parametrize("variance", ["own", "shared"])
def test_blocks_of_noise_together(variance):
    rng = np.random.default_rng(6)
    scales = np.linspace(1, 4, 30)[:, None, None] if variance == "own" else 1.0
    p = [largest(scales * rng.normal(size=(30, 6, 9)), variance=variance).p_value for _ in range(200)]
    assert np.max(np.abs(rates(p, (0.05, 0.2, 0.5)))) < 4


def test_unequal_blocks_that_are_said_to_be_equal_are_no_longer_noise():
    weight = np.linspace(1, 4, 30)[:, None, None] * np.random.default_rng(6).normal(size=(30, 6, 9))
    assert largest(weight, variance="shared").p_value < 1e-3


def test_sharing_the_variance_finds_more_in_many_small_blocks():
    rng = np.random.default_rng(8)
    weights = [planted(5, 8, [6.0], rng, blocks=20) for _ in range(15)]
    found = {how: sum(spikes(weight, variance=how).count for weight in weights) for how in ("own", "shared")}
    assert found["shared"] > 1.3 * found["own"]


def test_blocks_are_pooled_by_the_smallest_of_their_p_values():
    weight = np.random.default_rng(3).normal(size=(4, 30, 40))
    result = largest(weight)
    assert_allclose(result.p_value, 1 - (1 - result.block_p.min()) ** 4)
    assert result.block == result.block_p.argmin()
    assert_allclose(result.singular_value, np.linalg.svd(weight)[1][result.block, 0])


def test_a_spike_is_found_with_its_strength_and_its_direction():
    rng = np.random.default_rng(1)
    covered, overlaps, expected = [], [], []
    for _ in range(150):
        left, right = rng.normal(size=80), rng.normal(size=200)
        left, right = left / np.linalg.norm(left), right / np.linalg.norm(right)
        theta = 0.1 * math.sqrt(3 * 200)
        weight = rng.normal(scale=0.1, size=(80, 200)) + theta * np.outer(left, right)
        found = spikes(weight)
        if found.count != 1:
            continue
        u, _, vt = np.linalg.svd(weight)
        overlaps.append([(u[:, 0] @ left) ** 2, (vt[0] @ right) ** 2])
        expected.append([found.overlap_out[0], found.overlap_in[0]])
        covered.append(found.interval[0, 0] <= theta <= found.interval[0, 1])
        assert_allclose(found.variance, 0.01, rtol=0.06)
    assert len(covered) > 140
    assert abs(np.mean(covered) - 0.95) < 4 * 0.018
    assert_allclose(np.mean(overlaps, axis=0), np.mean(expected, axis=0), atol=0.015)


def test_equal_spikes_do_not_hide_each_other():
    rng = np.random.default_rng(2)
    counts = [spikes(planted(100, 100, [4.0] * 12, rng)).count for _ in range(10)]
    assert np.mean(counts) == pytest.approx(12, abs=0.3)


def test_a_weak_spike_is_found_beside_a_strong_one():
    rng = np.random.default_rng(4)
    counts = [spikes(planted(100, 100, [1000.0, 3.0], rng)).count for _ in range(20)]
    assert np.mean(counts) > 1.9


def test_noise_shows_a_spike_in_one_layer_of_a_hundred():
    rng = np.random.default_rng(5)
    shown = sum(spikes(rng.normal(size=(3, 40, 64))).count > 0 for _ in range(300))
    assert shown <= 11  # 3 expected


def test_a_dense_matrix_with_structural_zeros_is_its_parts():
    rng = np.random.default_rng(7)
    blocks = [scale * rng.normal(size=(70, 40)) for scale in (1, 2, 3)]
    dense = scipy.linalg.block_diag(*blocks, np.zeros((5, 3)))
    apart = largest(np.stack(blocks))
    together = largest(rng.permutation(dense))
    assert_allclose(sorted(together.block_p), sorted(apart.block_p), rtol=1e-6)
    assert_allclose(together.p_value, apart.p_value, rtol=1e-6)
    blocks[1] += 3 * np.outer(rng.normal(size=70), rng.normal(size=40))
    found = spikes(scipy.linalg.block_diag(*blocks))
    assert found.block.tolist() == [1]
    assert_allclose(found.variance, [1, 4, 9], rtol=0.1)


def test_unequal_parts_are_tested_each_with_its_own_shape():
    rng = np.random.default_rng(9)
    parts = [rng.normal(size=(70, 100)), rng.normal(size=(80, 64))]
    result = largest(scipy.linalg.block_diag(*parts))
    assert_allclose(result.block_p, [largest(part).p_value for part in parts], rtol=1e-6)


def test_randomly_pruned_noise_is_noise():
    rng = np.random.default_rng(10)
    weights = [rng.normal(size=(80, 150)) * (rng.random((80, 150)) < 0.1) for _ in range(30)]
    results = [largest(weight) for weight in weights]
    assert sum(result.p_value < 0.05 for result in results) <= 6  # 1.5 expected; 20 by the limiting law
    assert all("permuted" in result.null for result in results)


def test_a_profile_of_variances_is_no_spike():
    rng = np.random.default_rng(11)
    grid = np.array([[4.0, 1, 0], [1, 1, 1], [0, 1, 2]])
    spread = np.sqrt(np.kron(grid, np.ones((20, 30))))
    weights = [0.1 * spread * rng.normal(size=(60, 90)) for _ in range(30)]
    p = [largest_in_profile(weight, grid, draws=200).p_value for weight in weights]
    assert np.max(np.abs(rates(p, (0.05, 0.5)))) < 4
    assert sum(largest(weight).p_value < 0.01 for weight in weights) > 22
    weights[0][:20, :30] += 0.1
    assert largest_in_profile(weights[0], grid, draws=200).p_value < 0.01


def test_large_profiles_are_tested_by_a_smaller_one():
    grid = np.array([[4.0, 1, 0], [1, 1, 1]])
    rng = np.random.default_rng(12)
    weight = np.sqrt(np.kron(grid, np.ones((300, 200)))) * rng.normal(size=(600, 600))
    result = largest_in_profile(weight, grid)
    assert 1e-3 < result.p_value < 1
    assert "smaller size" in result.null
    uneven = largest_in_profile(weight, 1e300 * grid, heights=[300, 300], widths=[200, 200, 200])
    assert_allclose(uneven.p_value, result.p_value)
    weight[:300, :200] += 0.3
    assert largest_in_profile(weight, grid).p_value < 1e-6


@pytest.mark.slow
def test_the_law_of_a_large_profile_is_extrapolated_from_a_smaller_one(monkeypatch):
    monkeypatch.setattr(profile, "_SIMULATED", 64)
    monkeypatch.setattr(profile, "_REDUCED", 48)
    grid, rng, p = np.array([[4.0, 1], [1, 1]]), np.random.default_rng(27), []
    spread = np.sqrt(np.kron(grid, np.ones((60, 75))))
    for _ in range(80):
        weight = spread * iid_blocks((120, 150), 1.0, rng, kurtosis=1.8)
        p.append(largest_in_profile(weight, grid).p_value)
    # By Tracy-Widom at the edge of the law, which knows no kurtosis, 30 % are below 0.5.
    assert np.max(np.abs(rates(p, (0.05, 0.5)))) < 4
    assert scipy.stats.kstest(p, "uniform").pvalue > 1e-3


def test_the_smallest_value_in_a_profile_is_that_of_noise_with_it():
    grid, rng = np.array([[4.0, 1], [1, 1]]), np.random.default_rng(28)
    weights = [np.sqrt(np.kron(grid, np.ones((15, 30)))) * rng.normal(size=(30, 60)) for _ in range(60)]
    p = [smallest_in_profile(weight, grid, draws=100).p_value for weight in weights]
    assert np.max(np.abs(rates(p, (0.05, 0.5)))) < 4
    weights[0][0] = weights[0][1]
    result = smallest_in_profile(weights[0], grid, draws=100)
    assert result.p_value < 1e-3
    assert result.singular_value < 1e-6


@pytest.mark.parametrize(
    "grid, how, message",
    [
        (np.ones((2, 4)), {}, "add up to the weight's"),
        (np.ones((2, 2)), {"heights": [1, 2]}, "add up to the weight's"),
        (-np.ones((2, 2)), {}, "variances must not be negative"),
        (np.ones((2, 2)) * 1j, {}, "variances must be real"),
        (np.ones((2, 2)), {"heights": [1.5, 2.5]}, "must be whole and add up"),
        (np.ones((2, 2)), {"heights": [-1, 5]}, "heights must not be negative"),
        (np.ones((2, 2)), {"heights": [1e300, 4]}, "must be whole and add up"),
        (np.ones((2, 2)), {"draws": 20.5}, "draws must be a whole number"),
        (np.zeros((2, 2)), {}, "not all 0"),
        (np.array([[1, 0], [1, 1]]), {}, "not 0 where the variance is"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused(grid, how, message):
    for test in (largest_in_profile, smallest_in_profile):
        with pytest.raises((ValueError, TypeError), match=message):
            test(np.ones((4, 6)), grid, **how)


def test_a_profile_in_parts_is_sent_to_the_other_test():
    with pytest.raises(ValueError, match="share no row or column"):
        largest_in_profile(np.kron(np.eye(2), np.ones((3, 4))), np.eye(2))


def test_units_signs_and_orientation_do_not_matter():
    weight = planted(70, 90, [2.0], np.random.default_rng(13))[0]
    result, found = largest(weight), spikes(weight)
    for other, factor in ((weight.T, 1), (-weight, 1), (1e200 * weight, 1e200), (1e-200 * weight, 1e-200)):
        assert_allclose(largest(other).p_value, result.p_value, rtol=1e-6)
        assert_allclose(spikes(other).strength, factor * found.strength, rtol=1e-6)
    turned = spikes(weight.T)
    assert_allclose(turned.overlap_in, found.overlap_out)
    assert_allclose(turned.overlap_out, found.overlap_in)


def test_tensors_and_other_types_are_taken():
    weight = np.random.default_rng(14).normal(size=(64, 70)).astype(np.float32)
    assert_allclose(largest(torch.tensor(weight)).p_value, largest(weight).p_value)
    assert largest(np.random.default_rng(1).integers(-3, 4, size=(30, 40))).p_value > 1e-3


def test_a_constant_matrix_is_one_spike_and_nothing_else():
    found = spikes(np.full((30, 40), 0.5))
    assert_allclose(found.strength, [0.5 * math.sqrt(1200)])
    assert_allclose(found.variance, 0, atol=1e-20)
    assert largest(np.full((30, 40), 0.5)).p_value < 1e-6


def test_a_block_of_zeros_is_left_out():
    weight = np.random.default_rng(15).normal(size=(3, 20, 30))
    weight[1] = 0
    result = largest(weight)
    assert result.block_p[1] == 1
    assert result.block != 1
    assert spikes(weight).count == 0


@pytest.mark.parametrize("test", [largest, smallest, spikes])
def test_what_is_no_matrix_is_refused(test):
    with pytest.raises(ValueError, match="all weights are 0"):
        test(np.zeros((4, 5)))
    with pytest.raises(ValueError, match="NaN or infinity"):
        test(np.full((4, 5), np.nan))
    with pytest.raises(TypeError, match="real"):
        test(np.ones((4, 5)) * 1j)
    with pytest.raises(ValueError, match="variance must be 'own', 'shared' or a positive number, got -1"):
        test(np.ones((4, 5)), variance=-1)


def test_bad_spectra_and_levels_are_refused():
    with pytest.raises(ValueError, match=r"values must be \(block, 4\) for blocks 4 x 5"):
        extreme([1.0, 2.0], 4, 5, end="largest")
    with pytest.raises(ValueError, match="must not be negative, got -2"):
        extreme([1.0, -2.0], 2, 5, end="largest")
    with pytest.raises(ValueError, match="level must lie in"):
        spikes_of([1.0, 2.0], 2, 5, level=2)


def test_equal_seeds_give_equal_results_and_global_state_is_left_alone():
    weight = np.random.default_rng(16).normal(size=(12, 20))
    np.random.seed(0)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert largest(weight, seed=1).p_value == largest(weight, seed=1).p_value != largest(weight, seed=2).p_value
    extreme_tails.cache_clear()
    first = extreme_tails(30, 40, 3.0, 1.0)[0].points
    extreme_tails.cache_clear()
    assert np.array_equal(first, extreme_tails(30, 40, 3.0, 1.0)[0].points)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_a_tail_holds_the_ranks_of_its_draws_and_goes_on_straight():
    draws = np.random.default_rng(17).exponential(size=200_000)
    tail = Tail.of(draws)
    x = np.array([0.01, 1, 3, 6])
    assert_allclose(tail.p(x), np.exp(-x), rtol=0.15)
    assert_allclose(np.log(tail.p(30)), -30, rtol=0.15)
    assert tail.p(-1) == 1


def test_a_tail_of_few_draws_is_matched_by_its_moments():
    law = TracyWidom(1)
    found = [Tail.of(law.sample(400, np.random.default_rng(seed))).p([0.98, 2.02]) for seed in range(60)]
    assert_allclose(np.mean(found, axis=0), [0.05, 0.01], rtol=0.15)


def test_long_rows_are_simulated_by_norms_and_correlations():
    rng = np.random.default_rng(18)
    largest_values = []
    for _ in range(4):
        weights = iid_blocks((250, 6, 1200), 1.0, rng, kurtosis=1.8)
        squares = np.linalg.svd(weights, compute_uv=False)[:, 0] ** 2
        largest_values += list(squares / np.mean(weights**2, axis=(1, 2)))
    p = extreme_tails(6, 1200, 1.8, 1.0)[0].p(largest_values)
    assert scipy.stats.kstest(p, "uniform").pvalue > 1e-3


def test_permuted_entries_have_random_signs():
    pool = np.abs(np.random.default_rng(19).normal(size=200))
    tails = permuted_tails(pool, (10, 20), shared=False, seed=0)
    spike = 200 * np.mean(pool) ** 2 / np.mean(pool**2)
    # All of one sign, the entries would hold that spike in every draw.
    assert tails[0].p(spike) < 1e-3


def test_dead_blocks_are_no_part_of_the_shared_variance():
    weight = np.random.default_rng(20).normal(size=(20, 25, 40))
    alive = largest(weight[::2], variance="shared")
    weight[1::2] = 0
    found = largest(weight, variance="shared")
    assert_allclose(found.block_p[::2], alive.block_p, rtol=1e-6)
    assert spikes(weight, variance="shared").count == spikes(weight[::2], variance="shared").count
    assert_allclose(spikes(weight, variance="shared").variance[::2], 1, rtol=0.05)


def test_a_strong_spike_in_a_profile_is_not_its_own_null():
    grid = np.array([[4.0, 1], [1, 1]])
    weight = np.sqrt(np.kron(grid, np.ones((30, 45)))) * np.random.default_rng(21).normal(size=(60, 90))
    weight[50, 80] += 60
    assert largest_in_profile(weight, grid, draws=150).p_value < 1e-6


def test_heavy_tailed_noise_in_a_large_profile_is_noise(monkeypatch):
    monkeypatch.setattr(profile, "_SIMULATED", 128)
    rng = np.random.default_rng(22)
    weight = rng.standard_t(3, size=(260, 260))
    result = largest_in_profile(weight, np.ones((2, 2)), draws=30)
    assert "permuted" in result.null
    assert result.p_value > 1e-3


def test_kurtosis_over_each_block_s_own_mean_square_is_not_biased():
    rng = np.random.default_rng(24)
    for kurtosis in (1.8, 3.0):
        stacks = iid_blocks((60, 100, 5, 8), 1.0, rng, kurtosis=kurtosis)
        found = []
        for stack in stacks:
            scaled = stack * np.linspace(1, 4, 100)[:, None, None]
            split = split_spectra(np.linalg.svd(scaled, compute_uv=False), 5, 8, "own")[1]
            found.append(noise_like(scaled, split).kurtosis)
        assert np.mean(found) == pytest.approx(kurtosis, abs=0.02 + 4 * np.std(found) / math.sqrt(60))


def test_any_real_number_may_be_the_known_variance():
    weight = np.random.default_rng(25).normal(size=(64, 70)).astype(np.float32)
    assert largest(weight, variance=weight.var()).p_value > 1e-3
    with pytest.raises(ValueError, match="variance must be"):
        largest(weight, variance=True)
    with pytest.raises(TypeError, match="real"):
        extreme(np.ones(4) * 1j, 4, 5, end="largest")


def test_kurtoses_ends_and_stacks_that_do_not_exist_are_refused():
    values = np.linspace(1, 2, 70)
    for kurtosis in (np.nan, np.inf, -3):
        with pytest.raises(ValueError, match="kurtosis must be finite and at least 1"):
            extreme(values, 70, 90, end="largest", kurtosis=kurtosis)
    with pytest.raises(ValueError, match="end must be 'largest' or 'smallest', got 'middle'"):
        extreme(values, 70, 90, end="middle")
    with pytest.raises(ValueError, match="weight must be one matrix and draws at least 20"):
        largest_in_profile(np.ones((2, 4, 6)), [[1]])
    for test in (largest, spikes):
        with pytest.raises(ValueError, match="empty"):
            test(np.zeros((0, 3, 4)))


def test_parts_of_one_shape_share_their_variance_wherever_they_stand():
    rng = np.random.default_rng(26)
    wide, narrow = rng.normal(size=(10, 6, 10)), 2 * rng.normal(size=(10, 6, 11))
    apart = scipy.linalg.block_diag(*wide, *narrow)
    mixed = scipy.linalg.block_diag(*(block for pair in zip(wide, narrow, strict=True) for block in pair))
    assert_allclose(largest(mixed, variance="shared").p_value, largest(apart, variance="shared").p_value, rtol=1e-6)


@pytest.mark.parametrize("rows, columns, over", [(30, 50, 0.5), (30, 50, 2.0), (1, 6, 3.0), (64, 64, 1.2)])
def test_the_law_beside_a_signal_is_that_of_simulated_matrices(rows, columns, over):
    rng = np.random.default_rng(29)
    theta = math.sqrt(over * math.sqrt(rows * columns))
    weights = rng.normal(size=(2000, rows, columns))
    weights[:, 0, 0] += theta
    squares = np.linalg.norm(weights, ord=2, axis=(1, 2)) ** 2
    for share in (0.05, 0.5, 0.95):
        square = np.quantile(squares, [share])
        below = scipy.special.ndtr(strengths._signals(square, rows, columns, 0.0) - theta).mean()
        assert_allclose(below, share, atol=4 * math.sqrt(share * (1 - share) / 2000) + 0.01)


@pytest.mark.slow
def test_intervals_of_the_weakest_spikes_that_are_found_hold_them_too():
    rng, held = np.random.default_rng(30), []
    theta = math.sqrt(1.5 * math.sqrt(40 * 60))
    weights = rng.normal(size=(2000, 40, 60))
    weights[:, 0, 0] += theta
    for values in np.linalg.svd(weights, compute_uv=False):
        found = spikes_of(values, 40, 60)
        if found.count:
            held.append(found.interval[0, 0] <= theta <= found.interval[0, 1])
    assert len(held) > 200
    # Intervals that forget that these were found hold 80 %; those of the error at the threshold, 99 %.
    assert abs(np.mean(held) - 0.95) < 4 * math.sqrt(0.95 * 0.05 / len(held))


def test_units_that_cannot_be_meant_and_p_values_that_are_none_are_refused():
    weight = np.random.default_rng(31).normal(size=(6, 9))
    with pytest.raises(ValueError, match="are the units the same"):
        largest(1e-300 * weight, variance=1.0)
    with pytest.raises(ValueError, match=r"p must lie in \[0, 1\]"):
        pooled([0.1, 2], 3)
    with pytest.raises(ValueError, match="blocks must be at least 1"):
        pooled(0.1, 0)
    assert extreme([1.0, 2, 3], 3, 15, end="largest", kurtosis=1e300).p_value <= 1


def test_intervals_of_weak_spikes_end_where_the_conditional_law_has_its_quantiles():
    squares, least = np.array([32.1, 32.5, 33.5, 35.5]) ** 2, 32.0**2
    sides = np.full(4, 200), np.full(4, 300)
    low, high = strengths.intervals(squares, np.full(4, least), *sides, 2 / 60_000).T
    here, found = (strengths._signals(at, 200, 300, 2 / 60_000) for at in (squares, np.array([least])))

    def tail(theta, k):
        return scipy.special.ndtr(theta - here[k]).mean() / scipy.special.ndtr(theta - found[0]).mean()

    threshold = (200 * 300) ** 0.25
    for k in range(4):
        for end, share in ((low[k], 0.025), (high[k], 0.975)):
            if threshold < end:
                assert_allclose(tail(end, k), share, rtol=1e-6)
            else:
                assert tail(threshold, k) >= share
    assert (low == 0).any() and (low > threshold).any()
