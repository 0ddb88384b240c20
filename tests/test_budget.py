from fractions import Fraction

import numpy as np
import pytest
from numpy.testing import assert_allclose

from rmtnet import budget as budgets
from rmtnet.budget import VarianceBudget, budget_from_moments, sgd_budget, sgd_budget_from_moments, variance_budget

SHAPE = (4, 5, 8)


def walk(steps, *, scale=1e-2, dtype=np.float64, lead=(), seed=0):
    rng = np.random.default_rng(seed)
    steps = scale * rng.normal(size=(*lead, steps + 1, *SHAPE))
    return (0.03 / scale * steps[..., :1, :, :, :] + np.cumsum(steps, axis=-4)).astype(dtype)


def exact(before, after):
    """Change, Var(dW) and 2 Cov(W, dW) in rational numbers."""
    old = [Fraction(float(x)) for x in before.ravel()]
    update = [Fraction(float(x)) - y for x, y in zip(after.ravel(), old, strict=True)]
    n = len(old)
    mean_old, mean_update = sum(old) / n, sum(update) / n
    var_update = sum((u - mean_update) ** 2 for u in update) / n
    covariance = sum((w - mean_old) * (u - mean_update) for w, u in zip(old, update, strict=True)) / n
    return float(var_update + 2 * covariance), float(var_update), float(2 * covariance)


@pytest.mark.parametrize("dtype, scale", [(np.float64, 1e-2), (np.float32, 1e-7), (np.float64, 1e-13), (np.float16, 1)])
def test_terms_are_those_of_exact_arithmetic_however_small_the_update(dtype, scale):
    weight = walk(3, scale=scale, dtype=dtype) + dtype(0.5)
    found = variance_budget(weight)
    for step in range(3):
        change, update_variance, covariance_term = exact(weight[step], weight[step + 1])
        assert_allclose(found.update_variance[step], update_variance, rtol=1e-13)
        assert_allclose(found.covariance_term[step], covariance_term, rtol=1e-11)
        assert_allclose(found.change[step], change, atol=1e-15 * found.variance[step])
    assert np.all(np.abs(found.residual) <= 1e-14 * found.variance)


def test_variance_is_the_population_variance_of_all_entries_before_the_step():
    weight = walk(4)
    assert_allclose(variance_budget(weight).variance, np.var(weight, axis=(1, 2, 3))[:-1], rtol=1e-13)


def test_the_identity_closes_at_the_size_of_a_real_layer():
    rng = np.random.default_rng(1)
    weight = rng.normal(scale=0.026, size=(1, 1, 500, 800)).astype(np.float32)
    weight = np.concatenate([weight, weight - np.float32(1e-6) * rng.normal(size=weight.shape).astype(np.float32)])
    found = variance_budget(weight)
    assert abs(found.residual[0]) <= 1e-15 * found.variance[0]
    assert_allclose(found.update_variance, 1e-12, rtol=0.02)


def test_batch_axes_lead_and_windows_do_not_matter(monkeypatch):
    weight = walk(7, lead=(2, 3))
    whole = variance_budget(weight)
    assert whole.change.shape == (2, 3, 7)
    assert_allclose(whole.update_variance[1, 2], variance_budget(weight[1, 2]).update_variance, rtol=1e-14)
    monkeypatch.setattr(budgets, "_CHUNK_ENTRIES", 2 * weight[:, :, 0].size)
    pieces = variance_budget(weight)
    for name in ("variance", "change", "update_variance", "covariance_term"):
        assert_allclose(getattr(pieces, name), getattr(whole, name), rtol=1e-12, atol=1e-17)


def test_a_store_is_read_a_few_steps_at_a_time(monkeypatch):
    class Store:
        shape = walk(6).shape
        longest = 0

        def __getitem__(self, place):
            part = walk(6)[place]
            self.longest = max(self.longest, len(part))
            return part

    monkeypatch.setattr(budgets, "_CHUNK_ENTRIES", 2 * walk(0).size)
    stored = Store()
    assert_allclose(variance_budget(stored).change, variance_budget(walk(6)).change)
    assert stored.longest == 3


def test_plain_sgd_has_no_residual_with_weight_decay_in_the_gradient():
    rng, decay = np.random.default_rng(3), 5e-4
    rates, weight, gradient = 0.01 / (1 + np.arange(6)), [rng.normal(size=SHAPE)], []
    for rate in rates:
        gradient.append(rng.normal(size=SHAPE) + 0.2 * weight[-1])
        weight.append(weight[-1] - rate * (gradient[-1] + decay * weight[-1]))
    found = sgd_budget(np.stack(weight), np.stack(gradient), rate=rates, weight_decay=decay)
    identity = variance_budget(np.stack(weight))
    assert np.all(np.abs(found.residual) <= 1e-14 * found.variance)
    assert_allclose(found.update_variance, identity.update_variance, rtol=1e-10)
    assert_allclose(found.covariance_term, identity.covariance_term, rtol=1e-10)
    without = sgd_budget(np.stack(weight), np.stack(gradient), rate=rates)
    assert np.all(np.abs(without.residual) > 1e-7 * without.variance)


def test_momentum_is_a_residual_of_eq_4_but_not_of_the_identity():
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.from_numpy(walk(0)[0]).float())
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    weight, gradient = [parameter.detach().numpy().copy()], []
    for _ in range(5):
        optimizer.zero_grad()
        ((parameter - 1) ** 2).sum().backward()
        gradient.append(parameter.grad.numpy().copy())
        optimizer.step()
        weight.append(parameter.detach().numpy().copy())
    identity = variance_budget(np.stack(weight))
    eq4 = sgd_budget(np.stack(weight), np.stack(gradient), rate=0.1)
    assert np.all(np.abs(identity.residual) <= 1e-14 * identity.variance)
    assert abs(eq4.residual[0]) <= 1e-6 * eq4.variance[0]  # the first step has no momentum yet; float32 rounding
    assert np.all(np.abs(eq4.residual[1:]) > 0.01 * eq4.variance[1:])


def test_terms_of_intervals_add_up_to_the_change_over_them():
    weight = walk(10, lead=(2,))
    found = variance_budget(weight).over([0, 3, 4])
    variance = np.var(weight, axis=(-3, -2, -1))
    assert_allclose(found.variance, variance[:, [0, 3, 4]])
    assert_allclose(found.change, variance[:, [3, 4, 10]] - variance[:, [0, 3, 4]], atol=1e-15)
    assert_allclose(found.update_variance + found.covariance_term, found.change, atol=1e-14)
    # The sum of the updates' variances is not the variance of their sum.
    assert not np.allclose(found.update_variance, variance_budget(weight[:, [0, 3, 4, 10]]).update_variance, rtol=0.01)


@pytest.mark.parametrize("starts", [[], [1, 1], [2, 1], [-1], [10], [0.5], [[0]]])
def test_starts_that_are_no_intervals_are_refused(starts):
    with pytest.raises(ValueError, match="starts must be ascending places in a step axis of length 10"):
        variance_budget(walk(10)).over(starts)


def test_stored_moments_give_the_same_budget_and_nan_stays():
    weight = walk(5)
    whole = variance_budget(weight)
    variance = np.var(weight, axis=(1, 2, 3))
    found = budget_from_moments(variance, whole.update_variance, whole.covariance_term / 2)
    assert_allclose(found.residual, 0, atol=1e-15)
    short = budget_from_moments(variance[:-1], whole.update_variance, whole.covariance_term / 2)
    assert_allclose(short.covariance_term, whole.covariance_term[:-1])
    variance[2] = np.nan
    missing = budget_from_moments(variance, whole.update_variance, whole.covariance_term / 2)
    assert np.isnan(missing.residual).tolist() == [False, True, True, False, False]


def test_stored_moments_of_the_gradient_carry_the_rate_as_in_eq_4():
    found = sgd_budget_from_moments([1.0, 0.99], [3.0], [0.2], rate=0.1)
    assert_allclose([found.update_variance[0], found.covariance_term[0]], [0.03, -0.04])
    assert_allclose(found.residual, 0, atol=1e-15)


@pytest.mark.parametrize("constant", [0.0, 0.1, 3, True])
def test_a_constant_layer_has_a_budget_of_zeros(constant):
    found = variance_budget(np.full((3, *SHAPE), constant))
    for name in ("variance", "change", "update_variance", "covariance_term", "residual"):
        assert_allclose(getattr(found, name), 0, atol=1e-30)


def test_denormal_read_only_and_strided_weights_are_no_special_case():
    weight = walk(3)
    weight.flags.writeable = False
    assert_allclose(variance_budget(weight[:, ::-1]).change, variance_budget(weight).change, atol=1e-15)
    assert_allclose(variance_budget(1e-310 * weight).change, 0)


@pytest.mark.parametrize(
    "weight, error, message",
    [
        (np.ones((1, *SHAPE)), ValueError, "two steps or more"),
        (np.ones(SHAPE), ValueError, r"must be \(..., step, block, out, in\)"),
        (np.ones((3, 0, 5, 8)), ValueError, "none empty"),
        (np.ones((3, *SHAPE)) * 1j, TypeError, "weight must be real"),
        (np.full((3, *SHAPE), np.nan), ValueError, "did training diverge"),
        (np.full((3, *SHAPE), np.inf), ValueError, "did training diverge"),
        (np.full((3, *SHAPE), 1e300), ValueError, "beyond 1e150"),
    ],
)
def test_weights_without_a_budget_are_refused(weight, error, message):
    with pytest.raises(error, match=message):
        variance_budget(weight)


def test_gradients_rates_and_moments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="one step shorter than weight"):
        sgd_budget(walk(3), walk(3), rate=0.1)
    with pytest.raises(ValueError, match=r"rate must be finite and not negative, at most 1e150, got -0\.1"):
        sgd_budget(walk(3), walk(2), rate=-0.1)
    with pytest.raises(ValueError, match="gradient must be finite, got NaN"):
        sgd_budget(walk(3), np.nan * walk(2), rate=0.1)
    with pytest.raises(ValueError, match="as long as var_w or one shorter"):
        budget_from_moments(np.ones(5), np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match="var_dw and cov_w_dw must have one shape"):
        budget_from_moments(np.ones(5), np.ones(4), np.ones(3))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_tensors_have_the_budget_of_their_entries(dtype):
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.from_numpy(walk(3)).to(getattr(torch, dtype)))
    gradient = torch.nn.Parameter(torch.from_numpy(walk(2)).to(getattr(torch, dtype)))
    entries, slopes = (tensor.detach().double().numpy() for tensor in (weight, gradient))
    pairs = [
        (variance_budget(weight), variance_budget(entries)),
        (sgd_budget(weight, gradient, rate=0.1), sgd_budget(entries, slopes, rate=0.1)),
    ]
    for found, expected in pairs:
        assert np.array_equal(found.covariance_term, expected.covariance_term)
        assert np.array_equal(found.change, expected.change)
    with pytest.raises(ValueError, match=r"none empty; got \(5, 8\)"):
        variance_budget(torch.ones(5, 8))
    with pytest.raises(TypeError, match="gradient must be real, got dtype complex"):
        sgd_budget(weight, gradient.float() * 1j, rate=0.1)


def test_a_budget_is_frozen():
    with pytest.raises(AttributeError):
        VarianceBudget(*np.zeros((4, 1))).change = 1


@pytest.mark.parametrize(
    "how, error, message",
    [
        ({"weight_decay": np.nan}, ValueError, "weight_decay must lie in"),
        ({"weight_decay": 1j}, TypeError, "weight_decay must be real"),
        ({"weight_decay": 1e150}, ValueError, "gradient . weight_decay . weight holds values beyond 1e150"),
        ({"rate": 1e200}, ValueError, "rate must be finite and not negative, at most 1e150"),
        ({"rate": 1j}, TypeError, "rate must be real"),
    ],
)
def test_rates_and_decays_beyond_float64_are_refused(how, error, message):
    steps = 10 * np.random.default_rng(40).normal(size=(3, 2, 3, 4))
    with pytest.raises(error, match=message):
        sgd_budget(steps, steps[1:], **({"rate": 0.1} | how))


def test_stored_moments_that_are_no_real_numbers_are_refused():
    for values, error in ((np.ones(3) * 1j, TypeError), ([1, np.inf, 1], ValueError)):
        with pytest.raises(error, match="var_dw"):
            budget_from_moments(np.ones(4), values, np.ones(3))
