"""The kernels on a CPU: run by test_kernels.py in a process with TRITON_INTERPRET=1."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rmtnet.layers import kernels
from rmtnet.layers.kernels.index import BlockIndex
from rmtnet.layers.kernels.products import gradient_operator, product_operator

TOLERANCE = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).to(dtype).requires_grad_()


def diagonal(x: Tensor, weight: Tensor, bias: Tensor | None, order: Tensor | None, relu: bool) -> Tensor:
    if order is not None:
        x = x.unflatten(-1, (len(order), -1))[..., order, :].flatten(-2)
    y = functional.linear(x, torch.block_diag(*weight), bias)
    return y.relu() if relu else y


def masked(weight: Tensor, row: Tensor, col: Tensor, kept: Tensor | None, grid: tuple[int, int]) -> Tensor:
    if kept is not None:
        weight = torch.where(kept[:, None, None], weight, 0)
    blocks = weight.new_zeros(*grid, *weight.shape[1:]).index_put((row, col), weight)
    return blocks.transpose(1, 2).flatten(2).flatten(0, 1)


def assert_same(found: Tensor, wanted: Tensor, inputs: list[Tensor], exact: list[Tensor], tolerance: float) -> None:
    """Outputs and all gradients, by norm."""
    # A ReLU's gradient is another where rounding takes an output over 0.
    grad = torch.randn_like(found) * ((found > 0) == (wanted > 0))
    gradients = torch.autograd.grad(found, inputs, grad)
    pairs = [(found, wanted), *zip(gradients, torch.autograd.grad(wanted, exact, grad.double()), strict=True)]
    for one, other in pairs:
        assert one.shape == other.shape
        assert (one.double() - other).norm() <= tolerance * other.norm()


# The interpreter's own product of tiles of bfloat16 is wrong (Triton 3.9): blocks below 16 only.
@pytest.mark.parametrize(
    "batch, blocks, out, width, dtype",
    [
        (3, 150, 1, 1, torch.float32),
        (20, 5, 4, 4, torch.float32),
        (3, 4, 2, 5, torch.bfloat16),
        (150, 2, 3, 4, torch.bfloat16),
        (1, 3, 15, 3, torch.float16),
        (5, 3, 20, 16, torch.float32),
        (3, 2, 3, 40, torch.float16),
    ],
)
@pytest.mark.parametrize("order, relu", [(False, False), (True, True)])
def test_block_diagonal_is_the_dense_product(batch, blocks, out, width, dtype, order, relu):
    inputs = [drawn(batch, blocks * width, dtype=dtype), drawn(blocks, out, width, dtype=dtype)]
    inputs.append(drawn(blocks * out, dtype=dtype))
    places = torch.randperm(blocks) if order else None
    found = kernels.block_diagonal(*inputs, order=places, relu=relu)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    assert found.dtype == dtype and found.is_contiguous()
    assert_same(found, diagonal(*exact, places, relu), inputs, exact, TOLERANCE[dtype])


@pytest.mark.parametrize(
    "batch, out, width, dtype", [(3, 16, 16, torch.float32), (20, 7, 20, torch.float16), (70, 40, 33, torch.float32)]
)
@pytest.mark.parametrize("remove", [False, True])
def test_block_sparse_is_the_dense_product(batch, out, width, dtype, remove):
    mask = torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]]) == 1  # an empty row and an empty column
    row, col = mask.nonzero().T[:, torch.tensor([2, 0, 3, 1])]  # in any order
    kept = torch.tensor([True, False, True, True]) if remove else None
    inputs = [drawn(batch, 4 * width, dtype=dtype), drawn(4, out, width, dtype=dtype), drawn(3 * out, dtype=dtype)]
    found = kernels.block_sparse(*inputs, kernels.block_index(row, col, 3, 4), kept=kept)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    wanted = functional.linear(exact[0], masked(exact[1], row, col, kept, (3, 4)), exact[2])
    assert_same(found, wanted, inputs, exact, TOLERANCE[dtype])


@pytest.mark.parametrize("seed", range(5))
def test_random_shapes_and_masks(seed):
    rng = np.random.default_rng(seed)
    rows, cols, out, width, batch = (int(rng.integers(1, most)) for most in (5, 5, 40, 40, 40))
    mask = torch.from_numpy(rng.random((rows, cols)) < 0.5)
    mask[0, 0] = True
    row, col = mask.nonzero().T
    inputs = [drawn(batch, cols * width), drawn(len(row), out, width), drawn(rows * out)]
    found = kernels.block_sparse(*inputs, kernels.block_index(row, col, rows, cols), relu=True)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    wanted = functional.linear(exact[0], masked(exact[1], row, col, None, (rows, cols)), exact[2]).relu()
    assert_same(found, wanted, inputs, exact, 2e-6)


def test_what_a_removed_block_holds_reaches_nothing():
    row, col = torch.tensor([0, 1]), torch.tensor([0, 1])
    x, weight = drawn(3, 32), drawn(2, 16, 16)
    with torch.no_grad():
        weight[1] = torch.nan
    y = kernels.block_sparse(x, weight, None, kernels.block_index(row, col, 2, 2), kept=torch.tensor([True, False]))
    x_grad, weight_grad = torch.autograd.grad(y.sum(), (x, weight))
    assert not y[:, 16:].any() and not x_grad[:, 16:].any() and not weight_grad[1].any()
    assert y.isfinite().all() and x_grad.isfinite().all()


def test_infinite_and_missing_values_stay_in_their_block():
    x, weight = drawn(2, 8).detach(), drawn(2, 4, 4).detach()
    x[0, 0], x[1, 1] = torch.inf, torch.nan
    y = kernels.block_diagonal(x, weight, relu=True)
    assert y[:, 4:].isfinite().all()
    assert y[1, :4].isnan().all()


@pytest.mark.parametrize("blocks, width", [(6, 3), (2, 20)])
def test_inputs_of_any_strides_and_shape(blocks, width):
    weight, bias = drawn(blocks, 5, width), drawn(blocks * 5)
    dense = torch.block_diag(*weight.double())
    whole = torch.randn(2, 3, 2 * blocks * width)
    for x in (whole[..., ::2], whole.mT.contiguous().mT[..., : blocks * width], torch.randn(blocks * width)):
        y = kernels.block_diagonal(x, weight, bias)
        torch.testing.assert_close(
            y.double(), functional.linear(x.double(), dense, bias.double()), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("width", [4, 20])
def test_an_empty_batch_has_gradients_of_zero(width):
    inputs = [drawn(0, 2 * width), drawn(2, 3, width), drawn(6)]
    y = kernels.block_diagonal(*inputs)
    assert y.shape == (0, 6)
    for gradient, tensor in zip(torch.autograd.grad(y.sum(), inputs), inputs, strict=True):
        assert gradient.shape == tensor.shape and not gradient.any()


def test_only_wanted_gradients_are_taken():
    x, weight, bias = drawn(3, 8), drawn(2, 4, 4).detach(), drawn(8)
    x_grad, bias_grad = torch.autograd.grad(kernels.block_diagonal(x, weight, bias).sum(), (x, bias))
    torch.testing.assert_close(x_grad, weight.sum(1).flatten().expand(3, 8))
    torch.testing.assert_close(bias_grad, torch.full((8,), 3.0))
    assert not kernels.block_diagonal(x.detach(), weight).requires_grad


@pytest.mark.parametrize("width", [4, 20])
def test_second_derivatives_are_those_of_the_dense_product(width):
    def penalised(product, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        gradients = torch.autograd.grad(product(*inputs).tanh().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(each.square().sum() for each in gradients), inputs)

    inputs = [drawn(3, 2 * width), drawn(2, 3, width), drawn(6)]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    found = penalised(kernels.block_diagonal, inputs)
    wanted = penalised(lambda x, weight, bias: diagonal(x, weight, bias, None, False), exact)
    for one, other in zip(found, wanted, strict=True):
        assert (one.double() - other).norm() <= 1e-5 * other.norm()


@pytest.mark.parametrize("width", [4, 20])
def test_operators_keep_torch_s_rules(width):
    x, weight, bias, nowhere = drawn(3, 2 * width), drawn(2, 3, width), drawn(6), [None] * 6
    index = kernels.block_index(torch.tensor([0, 1]), torch.tensor([1, 0]), 2, 2)
    kept = torch.tensor([True, False])
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    for places in (nowhere, list(index)):
        given = (x, weight, bias, None if places is nowhere else kept, False, *places)
        torch.library.opcheck(product_operator, given, test_utils=tests)
        grads = (drawn(3, 6), x, None, *weight.shape, *places)
        torch.library.opcheck(gradient_operator, grads, test_utils=tests)


@pytest.mark.parametrize("kind", ["diagonal", "sparse"])
def test_a_compiled_graph_is_whole_and_gives_the_same(kind):
    weight, bias, x = drawn(2, 5, 20), drawn(10), drawn(3, 40)
    index = kernels.block_index(torch.tensor([0, 1]), torch.tensor([1, 0]), 2, 2)
    kept = torch.tensor([True, False])

    def function(x: Tensor) -> Tensor:
        if kind == "diagonal":
            return kernels.block_diagonal(x, weight, bias, order=index.block_col, relu=True).sin()
        return kernels.block_sparse(x, weight, bias, index, kept=kept).sin()

    inputs = (x, weight, bias)
    plain = torch.autograd.grad(function(x).sum(), inputs)
    traced = torch.autograd.grad(torch.compile(function, fullgraph=True, backend="aot_eager")(x).sum(), inputs)
    torch.testing.assert_close(traced, plain)


def test_the_index_lists_each_row_s_and_each_column_s_blocks():
    row, col = torch.tensor([2, 0, 2, 0]), torch.tensor([0, 3, 1, 0])
    index = kernels.block_index(row, col, 3, 4)
    for start, order, place, groups in ((index[2], index[3], row, 3), (index[4], index[5], col, 4)):
        lists = [order[start[i] : start[i + 1]].tolist() for i in range(groups)]
        assert lists == [[k for k in range(4) if place[k] == i] for i in range(groups)]
    assert index.transposed().transposed() == index
    assert BlockIndex().groups(7) == 7 and index.groups(4) == 3
