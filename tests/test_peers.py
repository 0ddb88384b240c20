"""Where other packages go wrong, and that ours does not: each test names the error in one line.

Speed is in tests/benchmarks; stores, command line and figures in test_store.py, test_cli.py and test_figures.py.
"""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn
from torch.nn.utils import parametrize

from rmtnet import MarchenkoPastur, eigenvalues, singular_values, store
from rmtnet.bulk import fit_bulk, fit_noise, goodness
from rmtnet.edges import extreme, largest, smallest, spikes
from rmtnet.laws import Brody
from rmtnet.layers import BlockDiagonalLinear
from rmtnet.local import fit_brody, vector_entropy
from rmtnet.matrices import matrices
from rmtnet.measures import hard_rank, weightwatcher
from rmtnet.nulls import matched_spectra
from rmtnet.record import Recorder
from rmtnet.record.sources import Source
from rmtnet.schedules import every
from rmtnet.sisters import entry_moments, variance_ratio_interval
from rmtnet.tails import assess_tail, bootstrap_power_law, fit_power_law
from rmtnet.trends import first_departure


def now(matrix):
    """(block, out, in) as it is recorded."""
    return torch.as_tensor(Source(matrix, own_steps=False).weights()).numpy()


def spiked(shape, rng, *, share, count=10):
    """Gaussian noise of variance 1 and spikes that hold a share of the variance of all."""
    rows, columns = shape
    left = np.linalg.qr(rng.normal(size=(rows, count)))[0]
    right = np.linalg.qr(rng.normal(size=(columns, count)))[0]
    strengths = np.linspace(1, 2, count)
    strengths *= np.sqrt(share / (1 - share) * rows * columns / np.sum(strengths**2))
    return rng.normal(size=shape) + (left * strengths) @ right.T


def within(rate, nominal, draws, errors=4):
    return abs(rate - nominal) <= errors * (nominal * (1 - nominal) / draws) ** 0.5


# 1


@pytest.mark.parametrize("shape", [(384, 384), (384, 1536), (512, 256)])
@pytest.mark.parametrize("share", [0.19, 0.69, 0.90, 0.94])
def test_weightwatcher_finds_a_square_bulk_up_to_149_percent_too_wide_beside_spikes(shape, share):
    rng = np.random.default_rng(int(1000 * share) + shape[1])
    for _ in range(3):
        fit = fit_noise(spiked(shape, rng, share=share))
        assert_allclose(fit.law.variance**0.5, 1, atol=0.01)
        assert fit.outliers == 10
        assert fit.interval[0] < fit.law.variance < fit.interval[1]


# 2


@pytest.mark.parametrize("theta, power", [(1.0, 0.79), (1.05, 0.94)])
def test_weightwatcher_sets_the_edge_many_units_too_high_and_misses_spikes(theta, power):
    rng, out, width = np.random.default_rng(round(100 * theta)), 1024, 512
    own = known = theirs = 0
    for _ in range(20):
        weight = rng.normal(size=(out, width))
        weight[0, 0] += theta * np.sqrt(out)  # the threshold is at theta = 0.841
        values = singular_values(weight, method="gram")
        own += extreme(values, out, width, end="largest").p_value < 0.01
        known += extreme(values, out, width, end="largest", variance=1.0).p_value < 0.01
        edge = (1 + np.sqrt(0.5)) ** 2
        theirs += values[0] ** 2 / out > edge + np.sqrt(2**-0.5 * edge ** (2 / 3) * width ** (-2 / 3))
    assert theirs < own / 2  # even with the variance known; with its own fit it saw 1 of 20
    assert abs(known / 20 - power) <= 4 * (power * (1 - power) / 20) ** 0.5
    assert abs(own - known) <= 3  # of 250 they differed in 9 and in 4


def test_with_a_fitted_variance_noise_is_rejected_as_often_as_it_should():
    rng, draws = np.random.default_rng(3), 400
    spectra = np.concatenate(
        [singular_values(rng.normal(size=(100, 128, 96)), method="gram") for _ in range(draws // 100)]
    )
    p = np.array([extreme(values, 128, 96, end="largest").p_value for values in spectra])
    for level in (0.01, 0.05):
        assert within(np.mean(p < level), level, draws)


# 3


@pytest.fixture(scope="module")
def noise_of_four_scales():
    blocks = np.random.default_rng(4).normal(size=(4, 256, 64)) * np.arange(1, 5)[:, None, None]
    dense = np.zeros((1024, 256))
    for k, block in enumerate(blocks):
        dense[256 * k : 256 * (k + 1), 64 * k : 64 * (k + 1)] = block
    return blocks, dense


def test_weightwatcher_finds_84_spikes_and_a_heavy_tail_in_blocks_of_pure_noise(noise_of_four_scales):
    blocks, dense = noise_of_four_scales
    values = singular_values(blocks)
    assert weightwatcher(np.sort(values.ravel())[::-1], dense.shape)["ww_alpha"] < 6  # "heavy-tailed"
    assert largest(blocks).p_value > 0.05
    assert smallest(blocks).p_value > 0.05
    assert spikes(blocks).count == 0
    null = matched_spectra(blocks, draws=99).reshape(99, -1) ** 2
    assert not assess_tail(values.ravel() ** 2, null, rng=np.random.default_rng(0), resamples=50).heavy_tailed


def test_blocks_of_noise_that_were_stored_as_one_dense_matrix_show_no_spikes_either(noise_of_four_scales):
    blocks, dense = noise_of_four_scales
    assert spikes(dense).count == 0
    for test in (largest, smallest):
        assert_allclose(test(dense).block_p, test(blocks).block_p, rtol=1e-6)
        assert_allclose(test(dense).p_value, test(blocks).p_value, rtol=1e-6)


def test_false_spikes_of_unequal_blocks_come_at_the_nominal_rate():
    rng, layers = np.random.default_rng(5), 60
    scales = np.arange(1, 5)[:, None, None]
    found = [spikes(rng.normal(size=(4, 96, 48)) * scales, level=0.05).count > 0 for _ in range(layers)]
    assert within(np.mean(found), 0.05, layers)


def test_weightwatcher_skips_parameters_of_blocks():
    [matrix] = matrices(BlockDiagonalLinear(24, 40, 8))
    assert now(matrix).shape == (8, 5, 3)
    assert eigenvalues(matrix.tensor).shape == (8, 3)
    assert fit_noise(matrix.tensor).law.ratio == 0.6


# 4


def test_alpha_calls_noise_heavy_tailed():
    rng, layers = np.random.default_rng(6), 30
    null = singular_values(rng.normal(size=(99, 384, 384)), method="gram") ** 2
    alphas, heavy = [], []
    for _ in range(layers):
        tail = assess_tail(
            singular_values(rng.normal(size=(384, 384)), method="gram") ** 2, null, rng=rng, resamples=20
        )
        alphas.append(tail.fit.alpha)
        heavy.append(tail.heavy_tailed)
    assert 0.1 < np.mean(np.array(alphas) < 6) < 0.5  # 29 % were measured: alpha alone decides nothing
    # Seldomer than 5 %, for a power law must fit, too.
    assert np.mean(heavy) <= 0.05 + 2 * (0.05 * 0.95 / layers) ** 0.5


# 5


def test_weightwatcher_and_powerlaw_take_xmin_for_known_and_their_error_is_too_small():
    rng = np.random.default_rng(7)
    fits = [fit_power_law(1 + rng.pareto(2, 384)) for _ in range(1000)]
    scatter = np.std([fit.alpha for fit in fits])
    assert np.mean([fit.standard_error for fit in fits]) < 0.9 * scatter
    boots = [bootstrap_power_law(1 + rng.pareto(2, 384), rng=rng, resamples=100) for _ in range(40)]
    assert_allclose(np.mean([boot.standard_error for boot in boots]), scatter, rtol=0.1)


# 6


def jensen_shannon(values, others):
    """WeightWatcher's rand_distance: between two sorted lists of eigenvalues, each over its sum."""
    p, q = np.sort(values) / np.sum(values), np.sort(others) / np.sum(others)
    middle = (p + q) / 2
    return np.sqrt(sum(np.sum(part * np.log(part / middle)) for part in (p, q)) / 2)


def test_one_eigenvalue_moves_weightwatchers_distance_from_random_and_not_the_bulk():
    rng = np.random.default_rng(8)
    values, other = (eigenvalues(rng.normal(size=(384, 384))) for _ in range(2))
    spiked = values.copy()
    spiked[0] *= 50
    assert jensen_shannon(spiked, other) > 30 * jensen_shannon(values, other)
    fit, with_spike = (fit_bulk(given, 1.0) for given in (values, spiked))
    assert with_spike.outliers == 1
    assert with_spike.ks_distance < 1.5 * fit.ks_distance
    assert goodness(spiked, with_spike, draws=39) > 0.05
    # That one eigenvalue is another question, with another answer.
    assert extreme(np.sqrt(384 * spiked), 384, 384, end="largest").p_value < 1e-100


@pytest.mark.parametrize("side", [32, 64])
def test_weightwatchers_distance_has_a_floor_that_depends_on_the_size(side):
    rng, draws = np.random.default_rng(side), 200
    spectra = eigenvalues(rng.normal(size=(draws, side, side)))
    p = np.array([goodness(values, fit_bulk(values, 1.0), draws=399) for values in spectra])
    assert within(np.mean(p < 0.05), 0.05, draws)
    assert within(np.mean(p < 0.5), 0.5, draws)


def test_ten_times_the_weights_are_as_near_to_random_but_not_to_their_sister():
    weight = np.random.default_rng(9).normal(size=(40, 60))
    assert_allclose(fit_noise(10 * weight).ks_distance, fit_noise(weight).ks_distance, rtol=1e-9)
    other = np.random.default_rng(10).normal(size=(40, 60))
    ratio = variance_ratio_interval(entry_moments(10 * weight[None]), entry_moments(other[None]))
    # The convention is that of the sister ratios: dense over blocks.
    assert min(abs(np.log(float(ratio.ratio) / factor)) for factor in (100, 0.01)) < 0.2


# 7


def test_weightwatcher_draws_from_the_global_generator_and_never_repeats_itself():
    weight = np.random.default_rng(11).normal(size=(20, 30))

    def everything():
        null = matched_spectra(weight, draws=39, seed=1) ** 2
        values = singular_values(weight) ** 2
        tail = assess_tail(values, null, rng=np.random.default_rng(1), resamples=50)
        return largest(weight, seed=1).p_value, goodness(values / 30, fit_noise(weight), seed=1), tail.interval, tail

    first = everything()
    np.random.seed(99)  # noqa: NPY002
    before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    assert everything() == first
    assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert_array_equal(torch.get_rng_state(), torch_before)


# 9


class LowRank(nn.Module):
    """LoRA: the weight and alpha / rank times B A."""

    def __init__(self, rows, columns, *, rank=2, alpha=16):
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(rows, rank)), nn.Parameter(torch.randn(rank, columns))
        self.scale = alpha / rank

    def forward(self, weight):
        return weight + self.scale * self.up @ self.down


@pytest.mark.parametrize(
    "module, shapes",
    [
        (nn.MultiheadAttention(16, 2), {"in_proj_weight.q": (1, 16, 16), "out_proj": (1, 16, 16)}),
        (nn.GRU(6, 5), {"weight_ih_l0.z": (1, 5, 6), "weight_hh_l0.n": (1, 5, 5)}),
        (nn.Conv1d(8, 12, 3), {"weight": (1, 12, 24)}),
        (nn.Conv3d(2, 6, 3), {"weight": (1, 6, 54)}),
        (nn.ConvTranspose2d(4, 6, 3), {"weight": (1, 6, 36)}),
        (nn.Conv2d(8, 12, 3, groups=4), {"weight": (4, 3, 18)}),
        (BlockDiagonalLinear(24, 40, 8), {"weight": (8, 5, 3)}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_weightwatcher_skips_layers_or_takes_a_kernel_for_the_short_side(module, shapes):
    found = {matrix.name: matrix for matrix in matrices(module)}
    assert {name: found[name].shape for name in shapes} == shapes
    for name in shapes:
        assert fit_noise(now(found[name])).law.variance > 0


def test_weightwatcher_takes_the_least_of_all_slices_for_that_of_the_convolution():
    layer = nn.Conv2d(16, 32, 3)
    [matrix] = matrices(layer)
    exact = np.linalg.svd(layer.weight.detach().double().numpy().reshape(32, -1), compute_uv=False)
    assert_allclose(singular_values(now(matrix))[0], exact, rtol=1e-6)


def test_weightwatcher_forgets_the_scale_of_low_rank_adapters():
    torch.manual_seed(12)
    layer = nn.Linear(20, 12, bias=False)
    plain = layer.weight.detach().double().numpy()
    adapter = LowRank(12, 20)
    parametrize.register_parametrization(layer, "weight", adapter)
    expected = plain + 8 * (adapter.up @ adapter.down).detach().double().numpy()
    effective = next(matrix for matrix in matrices(layer) if matrix.name == "weight")
    exact = np.linalg.svd(expected, compute_uv=False)
    assert_allclose(singular_values(now(effective))[0], exact, atol=1e-6 * exact[0])


def test_weightwatcher_finds_rank_256_in_a_matrix_of_rank_8():
    rng = np.random.default_rng(13)
    weight = (rng.normal(size=(256, 8)) @ rng.normal(size=(8, 300))).astype(np.float32)
    values = singular_values(weight)
    assert weightwatcher(values, weight.shape)["ww_matrix_rank"] > 8
    assert hard_rank(values, weight.shape, dtype="float32") == 8


def test_weightwatchers_vector_entropy_is_the_same_for_every_vector():
    assert_allclose(vector_entropy(np.ones(50)), np.log(50))
    assert_allclose(vector_entropy(np.eye(50)[0]), 0, atol=1e-12)


# 10


def test_weightwatcher_casts_to_half_precision_on_a_gpu():
    weight = torch.from_numpy(np.random.default_rng(14).normal(size=(64, 64))).float()
    exact = np.linalg.svd(weight.double().numpy(), compute_uv=False)
    assert_allclose(singular_values(weight)[-1], exact[-1], rtol=1e-6)
    half = np.linalg.svd(weight.half().double().numpy(), compute_uv=False)
    assert abs(half[-1] / exact[-1] - 1) > 1e-4
    layer = nn.Linear(4, 3).double()
    assert now(matrices(layer)[0]).dtype == np.float64


# 11


@pytest.mark.parametrize("ratio", [1.5, 2.0, 8.0])
def test_scikit_rmt_misplaces_the_mass_at_0_of_tall_matrices(ratio):
    from scipy.integrate import quad

    law = MarchenkoPastur(ratio)
    lower, upper = law.edges
    assert_allclose(quad(law.pdf, lower, upper, epsabs=1e-12)[0], 1 / ratio, rtol=1e-8)
    assert_allclose(law.cdf([-1e-9, 0, lower / 2, lower, upper]), [0, *3 * [1 - 1 / ratio], 1], atol=1e-12)
    rng = np.random.default_rng(15)
    matrix = rng.normal(size=(round(200 * ratio), 200))
    assert np.mean(np.linalg.eigvalsh(matrix @ matrix.T / 200) < lower / 2) == law.atom


@pytest.mark.parametrize("shape", [(200, 800), (100, 1600), (300, 300), (400, 100)])
def test_optht_and_lasermrt_take_noise_for_signal(shape):
    rng, draws = np.random.default_rng(shape[1]), 20
    stack = rng.normal(size=(draws, *shape))
    values = singular_values(stack)
    short, long = sorted(shape)
    beyond_optht = values > 4 / np.sqrt(3) * np.sqrt(short)
    quartiles = np.quantile(values, [0.25, 0.75], axis=1)
    edge_of_lasermrt = (quartiles[1] - quartiles[0]) / 1.349 * (1 + np.sqrt(short / long))
    # What they would call signal, of what is none: all by one rule, a quarter and more by the other.
    assert shape != (100, 1600) or beyond_optht.all()
    assert np.mean(values > edge_of_lasermrt[:, None]) > 0.2
    assert sum(spikes(weight).count > 0 for weight in stack) <= 2  # 0.2 expected


@pytest.mark.parametrize("parameter", [0.3, 0.5, 0.8])
def test_empyricalrmt_sums_densities_and_finds_1_for_every_brody_parameter(parameter):
    spacings = Brody(parameter).sample(20_000, np.random.default_rng(round(10 * parameter)))
    fit = fit_brody(spacings / spacings.mean())
    assert_allclose(fit.parameter, parameter, atol=4 * float(fit.standard_error))
    assert fit.standard_error < 0.011


# 12


def test_no_peer_has_time_blocks_and_sisters_in_one_store(tmp_path):
    torch.manual_seed(16)
    model = nn.Sequential(BlockDiagonalLinear(48, 80, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    recorder = Recorder(model, tmp_path / "run.zarr", layers=["0"], when=every(1))
    with recorder.attach(optimizer, step=0):
        for step in range(4):
            if step == 2:  # something happens to one block
                model[0].weight.data[1, :, 0] += 1
            optimizer.zero_grad()
            model(torch.randn(2, 48)).sum().backward()
            optimizer.step()
    weights = store.open_run(tmp_path / "run.zarr")["0"]
    assert weights.dims == ("step", "block", "out", "in")
    p = [largest(weights.sel(step=step).values).p_value for step in weights.step.values]
    assert first_departure(p, weights.step.values) == 3
