import threading
import tracemalloc

import mpmath
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import threadpoolctl
import torch
from numpy.testing import assert_allclose, assert_array_equal

from rmtnet.spectra import aggregate, eigenvalues, kurtosis, singular_values, variance
from rmtnet.spectra.threads import one_blas_thread

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


def graded(rows: int, columns: int, values, rng=RNG) -> np.ndarray:
    """Float32 matrix with about these singular values: rounding its entries moves them by 1e-8 of the largest."""
    left, _ = np.linalg.qr(rng.normal(size=(rows, rows)))
    right, _ = np.linalg.qr(rng.normal(size=(columns, rows)))
    return ((left * values) @ right.T).astype(np.float32)


def in_30_digits(matrix: np.ndarray) -> np.ndarray:
    with mpmath.workdps(30):
        values = mpmath.svd_r(mpmath.matrix(matrix.tolist()), compute_uv=False)
    return np.sort([float(value) for value in values])[::-1]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    "values",
    [np.geomspace(1, 1e-8, 9), np.geomspace(1, 1e-4, 9), np.geomspace(1, 3e-5, 9), [1] * 8 + [1e-6], [1] + [1e-7] * 8],
)
def test_every_value_of_a_graded_float32_matrix_matches_30_digits(values, transposed):
    matrix = graded(9, 12, values)
    found = singular_values(matrix.T if transposed else matrix)
    exact = in_30_digits(matrix)
    assert exact[-1] > 2e-9
    assert_allclose(found, exact, rtol=1e-7)


def test_a_scaled_diagonal_keeps_eight_digits_down_to_2e_9():
    matrix = np.diag(np.geomspace(1, 2e-9, 12)).astype(np.float32)
    assert_allclose(singular_values(matrix), np.diag(matrix), rtol=1e-7)


def test_the_gram_route_alone_loses_what_auto_keeps():
    matrix = graded(9, 12, np.geomspace(1, 1e-8, 9))
    exact = in_30_digits(matrix)
    assert np.abs(singular_values(matrix, method="gram") / exact - 1).max() > 1e-3
    assert_allclose(singular_values(matrix, method="gram"), exact, rtol=0, atol=2e-8)


def nearly_singular(side: int, weak: list[float], rng: np.random.Generator) -> np.ndarray:
    """Gaussian, but for a few rows that others nearly repeat."""
    matrix = rng.normal(size=(side, side + 5))
    for k, share in enumerate(weak):
        matrix[2 * k] = matrix[2 * k + 1] + share * matrix[2 * k]
    return matrix.astype(np.float32)


@pytest.mark.parametrize("weak", [[1e-3], [1e-6], [1e-4, 2e-5, 1e-5], [0.0], [1e-4] * 40])
def test_the_weak_values_of_large_matrices_are_an_svds(weak):
    matrix = nearly_singular(520, weak, np.random.default_rng(5))
    exact = np.linalg.svdvals(matrix.astype(np.float64))
    found = singular_values(matrix)
    assert (np.diff(found) <= 0).all()
    assert_allclose(found, exact, rtol=1e-7, atol=1e-14 * exact[0])
    if weak != [1e-3]:
        assert np.abs(singular_values(matrix, method="gram") / exact - 1).max() > 1e-6


def test_a_few_weak_values_cost_no_svd_of_a_large_matrix(monkeypatch):
    shapes, svdvals = [], np.linalg.svdvals
    monkeypatch.setattr(np.linalg, "svdvals", lambda matrix: shapes.append(matrix.shape) or svdvals(matrix))
    singular_values(nearly_singular(520, [1e-4, 2e-5, 0.0], np.random.default_rng(5)))
    assert set(shapes) == {(525, 14)}


def test_weak_values_without_a_gap_are_an_svds():
    values = np.concatenate([np.ones(420), np.full(80, 6.5e-5), np.linspace(6e-5, 5.5e-5, 20)])
    matrix = graded(520, 520, values, np.random.default_rng(7))
    exact = np.linalg.svdvals(matrix.astype(np.float64))
    assert_allclose(singular_values(matrix), exact, rtol=1e-7)


@pytest.mark.slow
def test_inverse_iteration_agrees_with_the_svd_for_many_matrices():
    rng = np.random.default_rng(6)
    for _ in range(40):
        matrix = nearly_singular(512, list(10.0 ** rng.uniform(-7, -3, size=rng.integers(1, 20))), rng)
        exact = np.linalg.svdvals(matrix.astype(np.float64))
        assert_allclose(singular_values(matrix), exact, rtol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_torch_tensors_of_every_precision_are_taken(dtype):
    tensor = torch.randn(2, 6, 4).to(dtype).requires_grad_()
    expected = np.linalg.svd(tensor.detach().double().numpy(), compute_uv=False)
    assert_allclose(singular_values(tensor), expected, rtol=1e-7)


def test_float64_input_keeps_its_small_singular_values():
    matrix = np.diag([1.0, 1e-10])
    assert_allclose(singular_values(matrix), [1, 1e-10], rtol=1e-12)
    left, _ = np.linalg.qr(RNG.normal(size=(12, 12)))
    matrix = (left * np.geomspace(1, 3e-4, 12)) @ left[::-1]
    assert_allclose(singular_values(matrix), in_30_digits(matrix), rtol=5e-12)


@pytest.mark.parametrize("method", ["auto", "gram"])
@pytest.mark.parametrize("exponent", [-1000, -600, -300, 300, 600, 1010])
def test_gigantic_and_tiny_float64_values_stay_exact(exponent, method):
    stack = RNG.normal(size=(3, 5, 4))
    scaled = stack * np.array([1.0, 2.0**exponent, 1.0])[:, None, None]
    expected = singular_values(stack, method=method)
    found = singular_values(scaled, method=method)
    assert_allclose(found[[0, 2]], expected[[0, 2]], rtol=1e-12)
    assert_allclose(found[1] / 2.0**exponent, expected[1], rtol=1e-12)


def test_denormals_are_matrices_too():
    assert_allclose(singular_values(np.diag([5e-324, 1e-322])), [1e-322, 5e-324], rtol=1e-12)


@pytest.mark.parametrize("scale", [1e30, 1e-30, 1e-37])
def test_gigantic_and_tiny_float32_values_stay_exact(scale):
    matrix = (RNG.normal(size=(5, 4)) * scale).astype(np.float32)
    assert_allclose(singular_values(matrix), np.linalg.svdvals(matrix.astype(np.float64)), rtol=1e-10)


def test_what_no_float64_can_hold_is_an_error():
    with pytest.raises(ValueError, match=r"a singular value of weight exceeds 1\.8e308"):
        singular_values(np.full((4, 4), 1e308))
    with pytest.raises(ValueError, match=r"an eigenvalue of weight exceeds 1\.8e308"):
        eigenvalues(np.full((4, 4), 1e200))
    with pytest.raises(ValueError, match=r"a variance of weight exceeds 1\.8e308"):
        variance(np.array([[[1e200, -1e200]]]))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.uint64, bool, np.float16, np.longdouble])
def test_every_real_dtype_is_taken(dtype):
    matrix = RNG.integers(0, 100, size=(2, 5, 7)).astype(dtype)
    assert_allclose(singular_values(matrix), np.linalg.svdvals(matrix.astype(np.float64)), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("lead", [(), (7,), (2, 3), (0,), (2, 0, 3), (1, 1, 1)])
@pytest.mark.parametrize("max_bytes", [1, 5000, 2**28])
def test_chunks_do_not_change_values(lead, max_bytes):
    stack = RNG.normal(size=(*lead, 4, 6)).astype(np.float32)
    found = singular_values(stack, max_bytes=max_bytes)
    assert found.shape == (*lead, 4)
    assert_array_equal(found, singular_values(stack))
    assert_allclose(found, np.linalg.svdvals(stack.astype(np.float64)), rtol=1e-10)


def test_views_with_strides_are_read_in_their_own_order():
    stack = RNG.normal(size=(6, 4, 3, 5)).astype(np.float32)
    view = stack.transpose(1, 3, 0, 2)[::-1, ::2, 1:]
    assert_allclose(singular_values(view), np.linalg.svdvals(view.astype(np.float64)), rtol=1e-10)
    tensor = torch.from_numpy(stack).permute(1, 3, 0, 2)
    assert_allclose(singular_values(tensor), singular_values(stack.transpose(1, 3, 0, 2)), rtol=1e-12)


def test_the_input_is_left_alone():
    for stack in (np.full((2, 3, 4), 1e300), torch.full((2, 3, 4), 1e300, dtype=torch.float64), np.eye(3)[None]):
        before = np.array(stack.tolist())
        for function in (singular_values, variance, kurtosis):
            function(stack)
            assert_array_equal(stack.tolist(), before)


def test_a_file_larger_than_its_memory_is_read_in_chunks(tmp_path):
    shape, max_bytes = (256, 64, 1024), 2**22
    stack = np.memmap(tmp_path / "weights", np.float32, "w+", shape=shape)
    stack[100] = 2 * np.eye(*shape[1:])
    tracemalloc.start()
    values = singular_values(stack, max_bytes=max_bytes)
    spread, tails = variance(stack[:, None]), kurtosis(stack[:, None])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**23 < stack.nbytes / 7
    assert (values[100] == 2).all()
    assert values.sum() == 128
    assert np.count_nonzero(spread) == np.count_nonzero(np.isfinite(tails)) == 1


@pytest.mark.parametrize(("count", "side"), [(400, 64), (4, 600)])
def test_the_working_memory_is_bounded(count, side):
    stack = RNG.normal(size=(count, side, side)).astype(np.float32)
    one = 3 * 8 * side * side
    singular_values(stack[:1])
    tracemalloc.start()
    singular_values(stack, max_bytes=2**20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < max(2**20, one) + 8 * count * side + 2**19


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int16])
def test_torch_does_the_same_work_on_its_device(device, dtype):
    tensor = (torch.randn(9, 6, 4, generator=torch.Generator().manual_seed(1)) * 100).to(dtype)
    tensor[3, 0] = tensor[3, 1] = tensor[3, 2] = tensor[3, 3] = 0
    expected = singular_values(tensor)
    for given in (tensor, tensor.double().numpy(), tensor.to(device)):
        found = singular_values(given, device=device, max_bytes=3000)
        assert_allclose(found, expected, rtol=1e-10, atol=1e-11)
        assert_allclose(eigenvalues(given, device=device), found**2 / 6, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_gives_graded_and_gigantic_matrices_as_well(device):
    matrix = graded(9, 12, np.geomspace(1, 1e-7, 9))
    assert_allclose(singular_values(matrix, device=device), in_30_digits(matrix), rtol=1e-7)
    huge = np.ldexp(matrix.astype(np.float64), 1000)
    assert_allclose(np.ldexp(singular_values(huge, device=device), -1000), in_30_digits(matrix), rtol=1e-7)
    with pytest.raises(ValueError, match=r"weight\[1\] holds NaN"):
        singular_values(torch.tensor([[[1.0]], [[torch.nan]]]), device=device)


@pytest.mark.parametrize(("at", "name"), [((0,), r"\[0\]"), ((4, 1), r"\[4, 1\]"), ((), "")])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_an_entry_that_is_not_finite_is_named_by_its_matrix(at, name, value, dtype):
    stack = np.ones((*(index + 2 for index in at), 3, 4), dtype)
    stack[(*at, 2)] = value
    for max_bytes in (1, 2**28):
        with pytest.raises(ValueError, match=rf"^weight{name} holds NaN or infinity"):
            singular_values(stack, max_bytes=max_bytes)


def test_an_array_of_infinity_only_is_the_same_error():
    for function in (singular_values, variance, kurtosis):
        with pytest.raises(ValueError, match="holds NaN or infinity"):
            function(np.full((2, 3, 4), np.inf, np.float32))


def openblas_threads() -> int:
    found = threadpoolctl.ThreadpoolController().select(internal_api="openblas")
    return max(library.num_threads for library in found.lib_controllers if "numpy" in library.filepath)


def test_openblas_has_one_thread_within_and_its_own_again_afterwards():
    with threadpoolctl.threadpool_limits(3):
        with pytest.raises(KeyError), one_blas_thread() as threads:
            assert (threads, openblas_threads()) == (3, 1)
            raise KeyError
        assert openblas_threads() == 3


def test_a_python_thread_leaves_the_threads_of_openblas_alone():
    seen = []

    def enter() -> None:
        with one_blas_thread() as threads:
            seen.append((threads, openblas_threads()))

    with threadpoolctl.threadpool_limits(3):
        worker = threading.Thread(target=enter)
        worker.start()
        worker.join()
        assert seen == [(1, 3)]
        assert openblas_threads() == 3


def test_values_do_not_depend_on_the_threads():
    stack = RNG.normal(size=(60, 64, 100)).astype(np.float32)
    with threadpoolctl.threadpool_limits(1):
        alone = singular_values(stack, max_bytes=2**20)
    with threadpoolctl.threadpool_limits(2):
        assert_array_equal(singular_values(stack, max_bytes=2**20), alone)
        with pytest.raises(ValueError, match=r"weight\[59\] holds NaN"):
            singular_values(np.concatenate([stack[:59], stack[:1] * np.nan]), max_bytes=2**20)
        assert openblas_threads() == 2


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
    ("values", "expected"),
    [([-1.0, 1.0], 1), ([3.0, 0.0, 0.0, 0.0], 4), ([1.0, 2.0], 17 / 2 / 2.5**2), ([1e300, 2e300], 17 / 2 / 2.5**2)],
)
def test_kurtosis_is_the_fourth_over_the_squared_second_moment_about_0(values, expected):
    assert_allclose(kurtosis(np.array(values)[None, None]), expected, rtol=1e-14)


def test_kurtosis_is_scipys_for_centred_entries_per_step():
    weight = RNG.laplace(size=(4, 3, 30, 40))
    weight -= weight.mean(axis=(1, 2, 3), keepdims=True)
    assert_allclose(kurtosis(weight), scipy.stats.kurtosis(weight.reshape(4, -1), axis=1, fisher=False), rtol=1e-12)
    assert_allclose(kurtosis(weight * 1e-200), kurtosis(weight), rtol=1e-12)
    assert np.isscalar(kurtosis(weight[0]))


def test_the_kurtosis_of_zeros_is_nan():
    assert_array_equal(kurtosis(np.stack([np.zeros((1, 2, 2)), np.ones((1, 2, 2))])), [np.nan, 1])


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
    assert_allclose(singular_values(np.ones((3, 4), np.float32)), [12**0.5, 0, 0], atol=1e-15)
    assert_allclose(singular_values(np.full((6, 1), -2)), [24**0.5])
    assert_allclose(singular_values(np.arange(4).reshape(1, 4)), [14**0.5])
    read_only = np.asfortranarray(RNG.normal(size=(4, 4)))[::2]
    read_only.flags.writeable = False
    assert_allclose(singular_values(read_only), scipy.linalg.svdvals(read_only), rtol=1e-12)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method must be 'auto', 'gram' or 'svd', got 'qr'"):
        singular_values(np.eye(2), method="qr")


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (1.0, ValueError, r"^values must be \(\.\.\., block, order\), not empty; got shape \(\)"),
        (np.ones(3), ValueError, r"got shape \(3,\)"),
        (np.ones((2, 0)), ValueError, r"got shape \(2, 0\)"),
        (np.ones((2, 2)) * 1j, TypeError, "^values must be real, got dtype complex128"),
        ([["a"]], TypeError, "^values must be real"),
    ],
)
def test_what_has_no_blocks_is_not_aggregated(values, error, message):
    with pytest.raises(error, match=message):
        aggregate(values)


def test_tensors_and_unknown_values_are_aggregated():
    torch = pytest.importorskip("torch")
    values = np.array([[2.0, np.nan], [3.0, 1.0]])
    for given in (values, torch.nn.Parameter(torch.tensor(values).bfloat16())):
        pooled, block = aggregate(given)
        np.testing.assert_array_equal(pooled, [3, 2, 1, np.nan])
        assert block.tolist() == [1, 0, 1, 0]


def test_working_memory_is_a_whole_number_of_bytes():
    for bad, error in ((0, ValueError), (1e9, TypeError), (None, TypeError)):
        with pytest.raises(error, match=r"^max_bytes must be"):
            singular_values(np.eye(2), max_bytes=bad)
