import json
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from rmtnet import measures
from rmtnet.measures import alpha_hat, hard_rank, log_alpha_norm, mp_softrank, weightwatcher

GOLDEN = json.loads((Path(__file__).parent / "golden" / "measures.json").read_text())
SHAPES = ["stable_rank", "effective_rank", "spectral_entropy", "participation_ratio"]
NORMS = ["spectral_norm", "frobenius_norm", "log_spectral_norm", "log_frobenius_norm"]


@pytest.fixture
def weight():
    return np.random.default_rng(1).normal(size=(3, 2, 20, 30))


@pytest.fixture
def singular(weight):
    return np.linalg.svd(weight, compute_uv=False)


def test_norms_are_those_of_numpy(weight, singular):
    two, frobenius = np.linalg.norm(weight, 2, axis=(-2, -1)), np.linalg.norm(weight, "fro", axis=(-2, -1))
    assert_allclose(measures.spectral_norm(singular), two, rtol=1e-12)
    assert_allclose(measures.frobenius_norm(singular), frobenius, rtol=1e-12)
    assert_allclose(measures.log_spectral_norm(singular), np.log10(two**2), rtol=1e-12)
    assert_allclose(measures.log_frobenius_norm(singular), np.log10(frobenius**2), rtol=1e-12)
    assert_allclose(measures.stable_rank(singular), frobenius**2 / two**2, rtol=1e-12)


def test_entropies_are_those_of_scipy(singular):
    assert_allclose(measures.effective_rank(singular), np.exp(stats.entropy(singular, axis=-1)), rtol=1e-12)
    assert_allclose(measures.spectral_entropy(singular), stats.entropy(singular**2, axis=-1), rtol=1e-12)


def test_participation_ratio_is_that_of_the_kurtosis(singular):
    squares = singular**2
    expected = 20 / (1 + np.var(squares, axis=-1) / np.mean(squares, axis=-1) ** 2)
    assert_allclose(measures.participation_ratio(singular), expected, rtol=1e-12)


def test_two_singular_values_by_hand():
    pair = [1.0, 3.0]
    assert_allclose(measures.stable_rank(pair), 10 / 9)
    assert_allclose(measures.participation_ratio(pair), 100 / 82)
    assert_allclose(measures.effective_rank(pair), 4 / 3**0.75, rtol=1e-12)
    assert_allclose(measures.spectral_entropy(pair), math.log(10) - 0.9 * math.log(9), rtol=1e-12)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1.0, 1e300])
def test_equal_singular_values_and_rank_1_at_any_scale(name, scale):
    measure = getattr(measures, name)
    equal, single = (math.log(7), 0) if name == "spectral_entropy" else (7, 1)
    assert_allclose(measure(np.full(7, scale)), equal, rtol=1e-12)
    assert_allclose(measure([0.0, scale, 0.0]), single, atol=1e-15)
    assert not np.signbit(measure([scale]))


def test_a_matrix_of_zeros():
    stack = np.array([np.zeros(4), np.ones(4)])
    for name in SHAPES:
        assert list(np.isnan(getattr(measures, name)(stack))) == [True, False]
    assert measures.spectral_norm(stack)[0] == measures.frobenius_norm(stack)[0] == 0
    assert measures.log_spectral_norm(stack)[0] == measures.log_frobenius_norm(stack)[0] == -np.inf
    assert alpha_hat(stack, 2.0)[0] == log_alpha_norm(stack, 2.0)[0] == -np.inf
    assert hard_rank(stack, (4, 4))[0] == hard_rank(stack, (4, 400), dtype="bfloat16")[0] == 0
    assert np.isnan(mp_softrank(stack, 1.0)[0])


def test_norms_of_gigantic_and_denormal_values():
    assert_allclose(measures.frobenius_norm([3e300, 4e300]), 5e300, rtol=1e-12)
    assert_allclose(measures.frobenius_norm([3e-320, 4e-320]), 5e-320, rtol=1e-3)
    assert_allclose(measures.log_frobenius_norm([3e300, 4e300]), 2 * math.log10(5e300), rtol=1e-12)
    assert_allclose(log_alpha_norm([1e300, 1e300], 4.0), 1200 + math.log10(2), rtol=1e-12)


def test_order_strides_and_writability_do_not_matter(singular):
    other = singular[..., ::-1]
    other.flags.writeable = False
    for name in SHAPES + NORMS:
        assert_allclose(getattr(measures, name)(other), getattr(measures, name)(singular), rtol=1e-12)
    assert measures.stable_rank([2, 1]) == 1.25


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_hard_rank_is_that_of_numpy(dtype):
    rng = np.random.default_rng(2)
    for tiny in (1e-1, 1e-3, 1e-5, 1e-8, 1e-12, 1e-15):
        values = np.array([1.0, 0.7, 0.5, *(tiny * rng.uniform(0.3, 3, 5))])
        known = np.diag(values).astype(np.float64)
        expected = np.linalg.matrix_rank(known, tol=8 * np.finfo(dtype).eps)
        assert hard_rank(values, (8, 8), dtype=dtype) == hard_rank(values, (8, 8), dtype=np.dtype(dtype)) == expected
    if dtype is not np.float16:
        weight = (rng.normal(size=(40, 5)) @ rng.normal(size=(5, 60))).astype(dtype)
        singular = np.linalg.svd(weight.astype(float), compute_uv=False)
        assert hard_rank(singular, (40, 60), dtype=dtype) == np.linalg.matrix_rank(weight) == 5


def test_hard_rank_of_bfloat16_and_torch_dtypes():
    torch = pytest.importorskip("torch")
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        above, below = 8.1 * torch.finfo(dtype).eps, 7.9 * torch.finfo(dtype).eps
        assert hard_rank([1.0, above, below], (3, 8), dtype=dtype) == 2
    assert np.isnan(hard_rank([1.0, 0.5], (2, 128), dtype="bfloat16"))
    assert hard_rank([1.0, 0.5], (2, 127), dtype="bfloat16") == 1
    assert hard_rank([1.0, 0.5, 1e-3], (3, 128), dtype="bfloat16", tolerance=0.05) == 2


def test_alpha_hat_and_log_alpha_norm_are_their_definitions(singular):
    values, alpha = singular**2 / 30, np.random.default_rng(3).uniform(2, 6, (3, 2))
    assert_allclose(alpha_hat(values, alpha), alpha * np.log10(values.max(axis=-1)), rtol=1e-12)
    assert_allclose(log_alpha_norm(values, alpha), np.log10(np.sum(values ** alpha[..., None], axis=-1)), rtol=1e-12)
    assert log_alpha_norm(values, 3.0).shape == (3, 2)


def test_mp_softrank_is_edge_over_largest():
    assert_allclose(mp_softrank([[1.0, 4.0], [0.5, 2.0]], [2.0, 3.0]), [0.5, 1.5])
    assert mp_softrank([1.0, 4.0], 2.0) == 0.5


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
def test_weightwatcher_is_what_it_reports(case):
    found = weightwatcher(case["singular_values"], case["shape"])
    assert found.keys() == case["expected"].keys()
    for name, expected in case["expected"].items():
        assert_allclose(found[name], expected, rtol=1e-9, err_msg=name)


def test_weightwatcher_sees_rank_where_float32_has_none():
    (case,) = [case for case in GOLDEN if case["name"] == "rank 20 of 40 x 60"]
    assert case["expected"]["ww_matrix_rank"] == 40
    assert hard_rank(case["singular_values"], case["shape"], dtype="float32") == 20


def test_weightwatcher_without_a_value():
    nothing = weightwatcher(np.zeros(30), (30, 40))
    assert nothing["ww_matrix_rank"] == nothing["ww_norm"] == 0
    assert math.isnan(nothing["ww_entropy"])
    assert math.isnan(nothing["ww_stable_rank"])
    few = weightwatcher(np.arange(1.0, 8), (7, 9))
    assert all(math.isnan(few[f"ww_{name}"]) for name in ("alpha", "xmin", "D", "sigma", "num_pl_spikes"))
    assert few["ww_norm"] == 140
    eight = np.arange(1.0, 9)
    assert_allclose(weightwatcher(eight, (8, 9))["ww_alpha"], 1 + 7 / np.sum(np.log(eight**2)), rtol=1e-12)
    with pytest.raises(ValueError, match="squares below 1e300, got 1e\\+300"):
        weightwatcher([1e300, 1.0], (2, 2))
    with pytest.raises(ValueError, match=r"must be 1-D, got shape \(2, 3\)"):
        weightwatcher(np.ones((2, 3)), (3, 3))


@pytest.mark.parametrize(
    "values, error, message",
    [
        ([], ValueError, r"not empty; got shape \(0,\)"),
        (3.0, ValueError, r"got shape \(\)"),
        ([1.0, np.nan], ValueError, "NaN or infinity"),
        ([1.0, np.inf], ValueError, "NaN or infinity"),
        ([1.0, -2.0], ValueError, "must not be negative, got -2.0"),
        ([1j], TypeError, "must be real, got dtype complex128"),
    ],
)
def test_what_is_no_spectrum_is_refused(values, error, message):
    for name in SHAPES + NORMS:
        with pytest.raises(error, match=message):
            getattr(measures, name)(values)


def test_dtypes_and_tolerances_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"dtype must be one of bfloat16, .* got int8"):
        hard_rank([1.0], (1, 1), dtype="int8")
    with pytest.raises(ValueError, match=r"tolerance must lie in \[0, inf\], got -1"):
        hard_rank([1.0], (1, 1), tolerance=-1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: hard_rank([1.0], 3), ValueError, r"^shape must be \(out, in\), got 3"),
        (lambda: hard_rank([1.0], (3, 3, 3)), ValueError, r"^shape must be \(out, in\), got \(3, 3, 3\)"),
        (lambda: hard_rank([1.0], (3.0, 3)), TypeError, r"^a side of shape must be a whole number, got 3\.0"),
        (lambda: weightwatcher([1.0], (0, 3)), ValueError, "^a side of shape must be at least 1, got 0"),
        (lambda: hard_rank([1.0], (1, 1), tolerance=[0.1]), TypeError, "^tolerance must be one number"),
        (lambda: alpha_hat([1.0], 2j), TypeError, "^alpha must be real, got dtype complex128"),
        (lambda: alpha_hat([1.0], np.inf), ValueError, r"^alpha must lie in \(0, 1e300\], got inf"),
        (lambda: log_alpha_norm([1.0], 0), ValueError, r"^alpha must lie in \(0, 1e300\], got 0\.0"),
        (lambda: mp_softrank([1.0], 1j), TypeError, "^upper_edge must be real, got dtype complex128"),
        (lambda: mp_softrank([1.0], -1.0), ValueError, "^upper_edge must be finite and not negative"),
        (lambda: mp_softrank([1e-320], 1.0), ValueError, r"^a soft rank exceeds 1\.8e308"),
        (lambda: measures.frobenius_norm([1.7e308] * 4), ValueError, r"^a Frobenius norm exceeds 1\.8e308"),
    ],
)
def test_arguments_without_a_measure_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_exponents_and_edges_may_be_tensors_or_not_known():
    torch = pytest.importorskip("torch")
    values = np.array([[1.0, 2.0], [3.0, 0.5]])
    for measure in (alpha_hat, log_alpha_norm, mp_softrank):
        given = np.array([2.5, np.nan])
        found = measure(torch.tensor(values).bfloat16(), torch.nn.Parameter(torch.tensor(given).bfloat16()))
        np.testing.assert_array_equal(found, measure(values, given))
        assert np.isnan(found).tolist() == [False, True]
