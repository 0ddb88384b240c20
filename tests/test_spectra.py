import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.testing import assert_allclose

from rmtnet.spectra import aggregate, eigenvalues, singular_values, variance

RNG = np.random.default_rng(0)
FLOAT32 = float(np.finfo(np.float32).eps)


@pytest.mark.parametrize("shape", [(1, 1), (5, 8), (8, 5), (40, 40), (3, 2, 6, 4)])
def test_values_are_scipys_for_every_stack(shape):
    stack = RNG.normal(size=shape)
    expected = [scipy.linalg.svdvals(matrix) for matrix in stack.reshape(-1, *shape[-2:])]
    assert_allclose(singular_values(stack).reshape(len(expected), -1), expected, rtol=1e-12)


def test_values_match_30_digits():
    matrix = RNG.normal(size=(4, 6))
    with mpmath.workdps(30):
        expected = [float(value) for value in mpmath.svd_r(mpmath.matrix(matrix.tolist()), compute_uv=False)]
    assert_allclose(singular_values(matrix), sorted(expected, reverse=True), rtol=1e-14)


@pytest.mark.parametrize("smallest", [1e-3, 1e-6, 1e-9, 0.0])
def test_the_gram_route_is_as_accurate_as_float32_entries_allow(smallest):
    left, _ = np.linalg.qr(RNG.normal(size=(30, 30)))
    right, _ = np.linalg.qr(RNG.normal(size=(50, 30)))
    matrix = (left * np.geomspace(1, max(smallest, 1e-12), 30) @ right.T).astype(np.float32)
    exact = scipy.linalg.svdvals(matrix.astype(np.float64))
    assert_allclose(singular_values(matrix), exact, rtol=0, atol=FLOAT32 / 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_torch_tensors_of_every_precision_are_taken(dtype):
    tensor = torch.randn(2, 6, 4).to(dtype).requires_grad_()
    expected = np.linalg.svd(tensor.detach().double().numpy(), compute_uv=False)
    assert_allclose(singular_values(tensor), expected, atol=1e-7)


def test_float64_input_keeps_its_small_singular_values():
    matrix = np.diag([1.0, 1e-10])
    assert_allclose(singular_values(matrix), [1, 1e-10], rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_gigantic_and_tiny_float64_values_stay_exact(scale):
    matrix = RNG.normal(size=(5, 4))
    assert_allclose(singular_values(matrix * scale) / scale, singular_values(matrix), rtol=1e-12)


def test_eigenvalues_of_a_matrix_and_its_transpose_agree():
    matrix = RNG.normal(size=(7, 3))
    assert eigenvalues(matrix).shape == (3,)
    assert_allclose(eigenvalues(matrix), eigenvalues(matrix.T), rtol=1e-12)
    assert_allclose(eigenvalues(matrix).sum(), (matrix**2).sum() / 7)


def test_aggregated_values_are_those_of_the_block_diagonal_matrix():
    blocks = RNG.normal(size=(2, 4, 3, 5))
    pooled, block = aggregate(singular_values(blocks))
    for k in range(2):
        whole = scipy.linalg.svdvals(scipy.linalg.block_diag(*blocks[k]))
        assert_allclose(pooled[k], whole[whole > 1e-12], rtol=1e-12)
    by_block = singular_values(blocks)
    assert all(value in by_block[1, source] for value, source in zip(pooled[1], block[1], strict=True))


def test_variance_is_centred_and_in_float64():
    weight = (1e4 + RNG.normal(size=(3, 2, 20, 30))).astype(np.float32)
    expected = [np.var(step.astype(np.float64)) for step in weight]
    assert_allclose(variance(weight), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (np.ones((2, 2), complex), TypeError, "weight must be real, got dtype complex128"),
        (np.array([["a"]]), TypeError, "weight must be real"),
        (np.ones(3), ValueError, r"stack of matrices .* got shape \(3,\)"),
        (np.ones((2, 0)), ValueError, "none empty"),
        (np.array([[1.0, np.nan]]), ValueError, "NaN or infinity: did training diverge"),
        (np.array([[1.0, np.inf]]), ValueError, "NaN or infinity"),
    ],
)
def test_bad_input_is_one_clear_error(weight, error, message):
    with pytest.raises(error, match=message):
        singular_values(weight)


def test_degenerate_matrices_have_their_right_values():
    assert_allclose(singular_values(np.zeros((3, 4))), 0)
    assert_allclose(singular_values(np.ones((3, 4), np.float32)), [12**0.5, 0, 0], atol=1e-7)
    assert_allclose(singular_values(np.arange(4).reshape(1, 4)), [14**0.5])
    read_only = np.asfortranarray(RNG.normal(size=(4, 4)))[::2]
    read_only.flags.writeable = False
    assert_allclose(singular_values(read_only), scipy.linalg.svdvals(read_only), rtol=1e-12)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method must be 'auto', 'gram' or 'svd', got 'qr'"):
        singular_values(np.eye(2), method="qr")
