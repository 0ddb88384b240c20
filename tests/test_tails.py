import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import optimize, stats

from rmtnet import tails
from rmtnet.tails import assess_tail, bootstrap_power_law, fit_power_law, hill, likelihood_ratios

GOLDEN = json.loads((Path(__file__).parent / "golden" / "tails.json").read_text())


def pareto(alpha, size, rng):
    return 1 + rng.pareto(alpha - 1, size)


def eigenvalues(weight):
    """Pooled over blocks: (..., block, out, in) to (..., order)."""
    singular = np.linalg.svd(weight, compute_uv=False)
    return singular.reshape(*singular.shape[:-2], -1) ** 2


def permuted(weight, draws, rng):
    """Copies of (block, out, in) with the entries of each block in a new order."""
    rows = np.broadcast_to(weight.reshape(len(weight), -1), (draws, len(weight), weight[0].size))
    return rng.permuted(rows, axis=-1).reshape(draws, *weight.shape)


def naive_scan(values, min_tail):
    best = (np.inf,)
    for xmin in np.unique(values):
        tail = np.sort(values[values >= xmin])
        if len(tail) < min_tail or tail[-1] == xmin:
            continue
        alpha = 1 + len(tail) / np.sum(np.log(tail / xmin))
        distance = stats.kstest(tail, stats.pareto(alpha - 1, scale=xmin).cdf).statistic
        best = min(best, (distance, xmin, alpha, len(tail)))
    return best


@pytest.mark.parametrize("size, min_tail", [(12, 10), (40, 2), (120, 30)])
@pytest.mark.parametrize("kind", ["pareto", "noise", "ties", "zeros"])
def test_the_scan_is_that_of_a_plain_loop(kind, size, min_tail):
    rng = np.random.default_rng(size)
    values = eigenvalues(rng.normal(size=(1, size, size))) if kind == "noise" else pareto(2.7, size, rng)
    if kind == "ties":
        values = np.round(values, 1)
    given = np.append(values, np.zeros(5)) if kind == "zeros" else values
    fit = fit_power_law(given, min_tail=min_tail)
    distance, xmin, alpha, tail = naive_scan(values, min_tail)
    assert_allclose([fit.ks_distance, fit.alpha], [distance, alpha], rtol=1e-9)
    assert (fit.xmin, fit.tail) == (xmin, tail)


def test_pruning_changes_nothing(monkeypatch):
    rng = np.random.default_rng(5)
    samples = [pareto(3, 3000, rng), rng.beta(1.5, 1.5, 3000), np.round(pareto(2, 3000, rng), 2)]
    pruned = [fit_power_law(values) for values in samples]
    monkeypatch.setattr(tails.power_law, "_ROUNDS", ())
    monkeypatch.setattr(tails.power_law, "_CHUNK_ENTRIES", 2**14)
    assert pruned == [fit_power_law(values) for values in samples]


def test_a_given_xmin_is_kept():
    values = pareto(2.2, 500, np.random.default_rng(2))
    fit = fit_power_law(values, xmin=1.5)
    tail = values[values >= 1.5]
    shape = stats.pareto.fit(tail, floc=0, fscale=1.5)[0]
    assert_allclose(fit.alpha, shape + 1, rtol=1e-9)
    assert_allclose(fit.ks_distance, stats.kstest(tail, stats.pareto(shape, scale=1.5).cdf).statistic, rtol=1e-9)
    assert (fit.xmin, fit.tail) == (1.5, len(tail))
    assert_allclose(fit.standard_error, (fit.alpha - 1) / len(tail) ** 0.5)


def test_units_and_order_do_not_matter():
    rng = np.random.default_rng(3)
    values = pareto(3, 200, rng)
    fit = fit_power_law(values)
    for scale in (1e-300, 1e290):
        other = fit_power_law(rng.permutation(values * scale).astype(float)[::-1])
        assert other.tail == fit.tail
        assert_allclose([other.alpha, other.ks_distance], [fit.alpha, fit.ks_distance], rtol=1e-9)
    assert fit_power_law(np.round(values * 1000).astype(np.int32)).tail > 9


@pytest.mark.parametrize(
    "values, keywords, message",
    [
        ([], {}, r"1-D and not empty, got shape \(0,\)"),
        (np.ones((3, 20)), {}, r"1-D and not empty, got shape \(3, 20\)"),
        (np.append(np.ones(20), np.nan), {}, "NaN or infinity"),
        (np.arange(-1.0, 20), {}, "must not be negative, got -1.0"),
        (np.arange(9.0), {}, "at least min_tail=10 positive ones, got 8"),
        (np.zeros(30), {}, "at least min_tail=10 positive ones, got 0"),
        (np.full(30, 3.0), {}, "must differ, got 30 equal to 3.0"),
        (np.append(1, np.full(12, 2.0)), {"min_tail": 13, "xmin": 3.0}, "min_tail=13 from xmin=3.0 on, got 0"),
        (np.arange(30.0), {"xmin": 25.0}, "min_tail=10 from xmin=25.0 on, got 5"),
        (np.arange(30.0), {"xmin": 0.0}, "xmin must be positive and finite, got 0.0"),
        (np.arange(30.0), {"min_tail": 1}, "min_tail must be at least 2, got 1"),
    ],
)
def test_values_without_a_tail_are_refused(values, keywords, message):
    with pytest.raises(ValueError, match=message):
        fit_power_law(values, **keywords)


def test_complex_values_are_refused():
    with pytest.raises(TypeError, match="values must be real, got dtype complex128"):
        fit_power_law(np.ones(20) * 1j)


def test_tensors_are_taken():
    torch = pytest.importorskip("torch")
    values = torch.nn.Parameter(torch.from_numpy(pareto(3, 60, np.random.default_rng(18))).bfloat16())
    same = values.detach().double().numpy()
    assert fit_power_law(values) == fit_power_law(same)
    found, expected = (bootstrap_power_law(v, rng=np.random.default_rng(1), resamples=20) for v in (values, same))
    assert found == expected


def test_a_tail_may_be_all_there_is():
    values = pareto(3, 30, np.random.default_rng(17))
    assert fit_power_law(values, min_tail=30).tail == 30


def test_a_constant_top_is_part_of_a_longer_tail():
    fit = fit_power_law(np.append(np.arange(1.0, 9.0), np.full(20, 9.0)))
    assert fit.tail > 20


def test_the_bootstrap_error_is_the_scatter_of_alpha_and_more_than_with_xmin_known():
    rng = np.random.default_rng(1)
    fits = [fit_power_law(pareto(3, 384, rng)) for _ in range(500)]
    scatter = np.std([fit.alpha for fit in fits])
    errors = [bootstrap_power_law(pareto(3, 384, rng), rng=rng, resamples=40).standard_error for _ in range(30)]
    assert_allclose(np.mean(errors), scatter, rtol=0.15)
    assert np.mean([fit.standard_error for fit in fits]) < 0.87 * scatter


@pytest.mark.slow
@pytest.mark.parametrize("alpha, size, body", [(1.5, 300, 0), (3, 384, 0), (5, 500, 0), (3, 300, 200)])
def test_intervals_hold_alpha(alpha, size, body):
    rng = np.random.default_rng(size)
    held = 0
    for _ in range(200):
        values = np.append(pareto(alpha, size, rng), np.sqrt(rng.random(body)))
        low, high = bootstrap_power_law(values, rng=rng, resamples=99).interval
        held += low <= alpha <= high
    assert 182 <= held <= 198  # 90 to 99 of 100; 190 +- 3 expected


def test_a_known_xmin_gives_the_gamma_interval():
    values = pareto(2.5, 400, np.random.default_rng(4))
    boot = bootstrap_power_law(values, xmin=1.0, rng=np.random.default_rng(0), resamples=4000)
    # 1 / (alpha - 1) is a mean of exponential values: exact, and nearly what the bootstrap sees.
    expected = 1 + (boot.fit.alpha - 1) * stats.gamma(400).ppf([0.025, 0.975]) / 400
    assert_allclose(boot.interval, expected, atol=0.006)
    assert_allclose(boot.standard_error, boot.fit.standard_error, rtol=0.04)


def test_p_of_the_power_law_is_uniform_on_power_laws_and_small_on_others():
    rng = np.random.default_rng(6)
    p = [bootstrap_power_law(pareto(2.5, 150, rng), rng=rng, resamples=39).p for _ in range(50)]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert bootstrap_power_law(rng.uniform(1, 2, 500), xmin=1.0, rng=rng, resamples=60).p == 1 / 61


def test_equal_seeds_give_equal_bootstraps():
    values = np.append(pareto(2.5, 100, np.random.default_rng(7)), np.zeros(20))
    one, two, three = (bootstrap_power_law(values, rng=np.random.default_rng(seed), resamples=20) for seed in (0, 0, 1))
    assert one == two != three


@pytest.mark.parametrize("keywords, message", [({"resamples": 19}, "at least 20, got 19"), ({"level": 1.0}, "got 1.0")])
def test_bootstraps_out_of_range_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_power_law(np.arange(1.0, 30), rng=np.random.default_rng(0), **keywords)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
def test_likelihood_ratios_are_those_of_the_package_powerlaw(case):
    fit = fit_power_law(case["values"], xmin=case["xmin"])
    assert_allclose(fit.alpha, case["alpha"], rtol=1e-9)
    for name, ratio in likelihood_ratios(case["values"], fit).items():
        expected = case["ratios"][name]
        assert_allclose(ratio.log_ratio, expected["log_ratio"], atol=1e-5)
        assert_allclose(ratio.normalized, expected["normalized"], atol=1e-3)
        assert_allclose(ratio.p, expected["p"], rtol=3e-3, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e-250, 1e250])
def test_alternatives_are_at_their_maximum(scale):
    """Against scipy's densities: the exponential and lognormal of least likelihood among neighbours."""
    logs = np.abs(np.random.default_rng(8).normal(0.4, 1, 300))
    values = np.exp(logs - logs.min())
    fit = fit_power_law(values * scale, xmin=float((values * scale).min()))
    ratios = likelihood_ratios(values * scale, fit)
    own = np.sum(stats.pareto(fit.alpha - 1).logpdf(values))
    exponential = np.sum(stats.expon.logpdf(values - 1, scale=np.mean(values) - 1))
    assert_allclose(ratios["exponential"].log_ratio, own - exponential, rtol=1e-9)
    best = max(
        np.sum(stats.lognorm.logpdf(values, sigma, scale=np.exp(mu)) - stats.norm.logsf(-mu / sigma))
        for mu in np.linspace(-0.5, 0.8, 40)
        for sigma in np.linspace(0.7, 1.6, 40)
    )
    assert own - best - 0.05 < ratios["lognormal"].log_ratio <= own - best


def test_the_truncated_power_law_is_normalised():
    mpmath = pytest.importorskip("mpmath")
    from rmtnet.tails.alternatives import _truncated_moments

    for alpha, rate in [
        (2.5, 1e-7),
        (1.0, 0.3),
        (-3.0, 2.0),
        (-2000.0, 900.0),
        (0.5, 1e-12),
        (30.0, 1e-3),
        (4.0, 500.0),
    ]:
        with mpmath.workdps(40):
            expected = float(mpmath.log(mpmath.expint(alpha, rate)) + rate)
        for unit in (1.0, 1e-3, 1e6):
            log_norm = _truncated_moments(alpha, rate * unit, unit)[0]
            assert_allclose(log_norm, expected, rtol=1e-11, atol=1e-12)


def test_a_tail_wider_than_a_power_law_is_the_power_law_of_either_alternative():
    values = np.exp(np.random.default_rng(9).exponential(0.2, 400) ** 2)
    ratios = likelihood_ratios(values, fit_power_law(values, xmin=1.0))
    for name in ("lognormal", "truncated_power_law"):
        assert (ratios[name].log_ratio, ratios[name].normalized, ratios[name].p) == (0, 0, 1)
    assert ratios["exponential"].log_ratio > 0


@pytest.mark.parametrize("largest", [1e30, 1e160, 1e290])
def test_spectra_near_rank_1_have_likelihoods_without_overflow(largest):
    """Noise and one far larger value: no cut-off. Levels even in their logarithm up to a last one: a cut-off."""
    for count in (12, 60):
        spike = np.append(np.random.default_rng(count).uniform(1, 2, count), largest)
        ratio = likelihood_ratios(spike, fit_power_law(spike, xmin=0.99))["truncated_power_law"]
        assert -1e-3 < ratio.log_ratio <= 0
        assert ratio.p > 0.9
    even = np.geomspace(1, largest, 40)
    ratio = likelihood_ratios(even, fit_power_law(even, xmin=0.99))["truncated_power_law"]
    assert -13 < ratio.log_ratio < -11


def test_likelihoods_of_absurd_tails_are_refused():
    values = np.geomspace(1e-300, 1e300, 30)
    with pytest.raises(ValueError, match="span at most 300 decades"):
        likelihood_ratios(values, fit_power_law(values, xmin=1e-300))


def test_hill_is_its_definition_and_its_error_the_scatter():
    rng = np.random.default_rng(10)
    samples = pareto(3.5, (400, 200), rng)
    k, index = hill(samples)
    descending = np.sort(samples[0])[::-1]
    for order in (1, 7, 199):
        expected = 1 / np.mean(np.log(descending[:order] / descending[order]))
        assert_allclose(index[0, order - 1], expected, rtol=1e-12)
    assert list(k) == list(range(1, 200))
    assert index.shape == (400, 199)
    at = index[:, 99]
    assert_allclose(np.mean(at), 2.5 * 100 / 99, atol=4 * np.std(at) / 20)
    assert_allclose(np.std(at), 2.5 / 10, rtol=0.15)


def test_hill_of_ties_and_zeros():
    _, index = hill([4.0, 4.0, 2.0, 0.0, 0.0])
    assert_allclose(index, [np.inf, 1 / np.log(2), 0, np.nan])
    assert np.isnan(hill(np.zeros(4))[1]).all()
    with pytest.raises(ValueError, match="at least 2 along the last axis"):
        hill([1.0])


def judged(weight, null, rng, **keywords):
    return assess_tail(eigenvalues(weight), null, rng=rng, resamples=20, **keywords)


@pytest.mark.parametrize("level, draws", [(0.05, 39), pytest.param(0.01, 99, marks=pytest.mark.slow)])
@pytest.mark.parametrize("shape, entries", [((1, 24, 36), "normal"), ((1, 20, 20), "uniform"), ((4, 10, 16), "t3")])
def test_noise_of_any_entries_is_rejected_at_the_nominal_rate(shape, entries, level, draws):
    rng = np.random.default_rng(11)
    kinds = {"normal": rng.standard_normal, "t3": lambda size: rng.standard_t(3, size), "uniform": rng.random}
    rejected = 0
    for _ in range(200):
        weight = kinds[entries](size=shape) - (0.5 if entries == "uniform" else 0)
        spectra = eigenvalues(np.concatenate([weight[None], permuted(weight, draws, rng)]))
        heaviness = tails.assessment._heaviness(spectra)
        rejected += np.mean(heaviness >= heaviness[0]) <= level
    low, high = stats.binom(200, level).ppf([0.001, 0.999])
    assert low <= rejected <= high


def test_block_noise_of_unequal_scales_is_not_heavy_tailed():
    """A power law fits it: an alpha of about 4, by which it is often called heavy-tailed."""
    rng = np.random.default_rng(12)
    called = []
    for _ in range(20):
        weight = rng.normal(size=(4, 64, 16)) * np.array([1, 2, 3, 4])[:, None, None]
        called.append(judged(weight, eigenvalues(permuted(weight, 59, rng)), rng))
    assert np.median([result.fit.alpha for result in called]) < 4.5
    assert sum(result.heavy_tailed for result in called) <= 4  # 1 expected
    wrong = judged(weight, eigenvalues(rng.normal(size=(59, 4, 64, 16))), rng)
    assert wrong.p_null == 1 / 60  # nulls that forget the blocks are no match


def test_a_planted_power_law_is_heavy_tailed():
    rng = np.random.default_rng(13)
    left, right = (np.linalg.qr(rng.normal(size=(n, 120)))[0] for n in (120, 180))
    weight = ((left * np.sqrt(pareto(2.5, 120, rng))) @ right.T)[None]
    result = judged(weight, eigenvalues(permuted(weight, 99, rng)), rng, level=0.01)
    assert result.heavy_tailed
    assert result.p_null == 0.01
    assert result.interval[0] < 2.5 < result.interval[1]
    assert set(result.likelihood_ratios) == {"exponential", "lognormal", "truncated_power_law"}


def test_one_spike_is_no_noise_and_no_tail():
    rng = np.random.default_rng(14)
    weight = rng.normal(size=(1, 60, 90))
    null = eigenvalues(permuted(weight, 39, rng))
    weight[0, 0] += 4
    result = judged(weight, null, rng)
    assert result.p_null == 1 / 40
    assert result.likelihood_ratios["exponential"].log_ratio > 0
    assert not result.heavy_tailed


def test_a_tail_with_the_largest_share_of_noise_is_seen_by_its_shape():
    """Noise has a wide bulk: its largest share is that of Pareto values of alpha 4."""
    rng = np.random.default_rng(15)
    null = eigenvalues(rng.normal(size=(39, 1, 100, 150)))
    found = [assess_tail(pareto(4, 100, rng), null, rng=rng, resamples=20) for _ in range(20)]
    assert np.mean([result.p_null <= 0.05 for result in found]) >= 0.8


def test_heaviness_is_the_larger_of_two_scores():
    spectra = np.random.default_rng(16).exponential(size=(30, 25)) ** 2
    descending = np.sort(spectra)[:, ::-1]
    shares = np.log(descending[:, 0] / descending.sum(axis=1))
    excess = np.log(1 / hill(spectra)[1][:, 2])
    expected = np.maximum(stats.zscore(shares), stats.zscore(excess))
    assert_allclose(tails.assessment._heaviness(spectra), expected, rtol=1e-9)


@pytest.mark.parametrize("rest", [np.ones(29), np.append(np.zeros(20), np.arange(1.0, 10))])
def test_what_is_no_tail_without_its_largest_value_is_not_heavy(rest):
    result = assess_tail(np.append(rest, 1e4), np.ones((19, len(rest) + 1)), rng=np.random.default_rng(0), resamples=20)
    assert result.p_null == 0.05
    assert not result.heavy_tailed


def test_a_light_tail_is_not_heavy_whatever_the_null_says():
    values = np.append(np.linspace(0.01, 1, 200), np.linspace(1, 3, 60))
    result = assess_tail(values, np.ones((99, 260)), rng=np.random.default_rng(0), resamples=20)
    assert result.p_null == 0.01
    assert result.likelihood_ratios["exponential"].log_ratio < 0
    assert not result.heavy_tailed


@pytest.mark.parametrize(
    "null, level, message",
    [
        (np.ones((99, 29)), 0.05, r"null must be \(draws, 30\) as values are 30, got \(99, 29\)"),
        (np.ones(30), 0.05, "null must be 2-D"),
        (np.ones((18, 30)), 0.05, "with 18 draws: draw more"),
        (np.ones((99, 30)), 1.0, r"level must lie in .* got 1.0"),
        (-np.ones((99, 30)), 0.05, "null must not be negative"),
    ],
)
def test_nulls_that_cannot_decide_are_refused(null, level, message):
    with pytest.raises(ValueError, match=message):
        assess_tail(np.arange(1.0, 31), null, level=level, rng=np.random.default_rng(0))


PARETO = np.random.default_rng(9).pareto(2, size=60) + 1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fit_power_law(PARETO, min_tail=10.5), TypeError, r"^min_tail must be a whole number, got 10\.5"),
        (lambda: fit_power_law(PARETO, min_tail=np.nan), TypeError, "^min_tail must be a whole number, got nan"),
        (lambda: fit_power_law(PARETO, xmin=[1.0]), TypeError, r"^xmin must be one number, got shape \(1,\)"),
        (lambda: fit_power_law(PARETO, xmin="1"), TypeError, "^xmin must be real"),
        (lambda: bootstrap_power_law(PARETO, rng=None), TypeError, r"^rng must be a whole number or a numpy\.random"),
        (lambda: bootstrap_power_law(PARETO, rng=0, resamples=99.5), TypeError, "^resamples must be a whole number"),
        (lambda: assess_tail(PARETO, np.ones((20, 60)), rng="a"), TypeError, "^rng must be a whole number or"),
        (lambda: assess_tail(PARETO, np.ones((20, 60)), rng=0, level=[1]), TypeError, "^level must be one number"),
        *(
            (
                lambda values=values: likelihood_ratios(values, fit_power_law(PARETO)),
                ValueError,
                "^fit must be of values",
            )
            for values in (2 * PARETO, PARETO[:-1], PARETO**1.001, np.zeros(60), 1e155 * PARETO)
        ),
    ],
)
def test_arguments_that_decide_nothing_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_seed_serves_for_a_generator():
    assert bootstrap_power_law(PARETO, rng=3, resamples=20) == bootstrap_power_law(
        PARETO, rng=np.random.default_rng(3), resamples=20
    )


@pytest.mark.parametrize("span", [1e-5, 1e-7, 1e-9, 1e-11])
def test_a_short_tail_has_the_ratios_of_an_exponential_and_a_half_normal_law(span):
    """Over it x is a line in ln x: the power law is exponential, the other two are normal laws cut off at xmin."""
    excess = np.append(0, np.sort(np.abs(np.random.default_rng(0).normal(size=59))))

    def loss(parameters):
        mean, deviation = parameters[0], np.exp(parameters[1])
        return -stats.truncnorm.logpdf(excess, -mean / deviation, np.inf, mean, deviation).sum()

    expected = stats.expon.logpdf(excess, scale=excess.mean()).sum() + optimize.minimize(loss, [0.0, 0.0]).fun
    ratios = likelihood_ratios(1 + span * excess, fit_power_law(1 + span * excess, xmin=1.0))
    found = [ratios[name].log_ratio for name in ("exponential", "lognormal", "truncated_power_law")]
    assert_allclose(found, [0, expected, expected], atol=30 * span + 2e-15 / span)


@pytest.mark.parametrize("xmin", [None, 1.5])
@pytest.mark.parametrize("values", [PARETO, 1e-300 * PARETO, 1 + np.arange(30) * 1e-14, np.repeat(PARETO, 2)])
def test_a_fit_is_known_as_one_of_its_values(values, xmin):
    fit = fit_power_law(values, xmin=None if xmin is None else xmin * np.quantile(values, 0.1) / 1.5)
    assert set(likelihood_ratios(values[::-1], fit)) == {"exponential", "lognormal", "truncated_power_law"}
