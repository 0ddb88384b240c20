"""The kernels of gated blocks on a CPU: run by test_dynamic_kernels.py in a process with TRITON_INTERPRET=1."""

import pytest
import torch
from torch import Tensor

from rmtnet.layers.gating import rank_gates
from rmtnet.layers.kernels import dynamic, launch_dynamic

TOLERANCE = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
SHAPES = [
    # batch, rows, cols, out, width, dtype
    (1, 3, 4, 16, 16, torch.float32),
    (2, 2, 5, 7, 20, torch.float16),
    (5, 1, 3, 5, 150, torch.float32),  # a block wider than a tile
    (3, 5, 1, 3, 1, torch.float32),
]


@pytest.fixture(autouse=True)
def _seeded(monkeypatch):
    torch.manual_seed(0)
    # The interpreter runs one program after the other: few large ones.
    monkeypatch.setattr(launch_dynamic, "BUSY", 1)


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).to(dtype).requires_grad_()


def some_open(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Gates of which about half are 0, and of the first input all of the first row of blocks."""
    gates = torch.rand(*shape, dtype=torch.float64) * (torch.rand(*shape) < 0.5)
    gates[0, : shape[-1] // 2] = 0
    return gates.to(dtype).requires_grad_()


def dense(x: Tensor, weight: Tensor, gates: Tensor, bias: Tensor | None) -> Tensor:
    """By the definition: a whole matrix for each input."""
    blocks, out, width = weight.shape
    cols = x.shape[-1] // width
    matrices = (gates[:, :, None, None] * weight).view(-1, blocks // cols, cols, out, width)
    y = torch.einsum("brcow,bcw->bro", matrices, x.unflatten(-1, (cols, width))).flatten(1)
    return y if bias is None else y + bias


def assert_near(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert found.shape == wanted.shape
    assert (found.double() - wanted).norm() <= tolerance * wanted.norm()


def exact(*tensors: Tensor) -> list[Tensor]:
    return [tensor.detach().double().requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("opened", [1, 20, 35])
def test_selected_gates_are_those_of_the_gate(opened):
    scores = torch.randn(4, 35).round(decimals=1)  # with ties and values below 0
    scores[1] = -1
    scores[2, 3:] = 0
    gates = dynamic.select(scores, torch.tensor(opened))
    wanted = rank_gates(scores, opened)
    assert torch.equal(gates != 0, wanted != 0)
    torch.testing.assert_close(gates, wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_selection_among_more_scores_than_are_compared_at_a_time(dtype, monkeypatch):
    monkeypatch.setattr(launch_dynamic, "RANKED", 128)
    scores = torch.randn(2, 1030).to(dtype)
    gates = dynamic.select(scores.view(2, 1, 1030), torch.tensor(300, dtype=torch.int32))[:, 0]
    assert (gates != 0).sum(1).tolist() == [300, 300]
    torch.testing.assert_close(gates, rank_gates(scores, 300), rtol=1e-6, atol=0)


def test_a_missing_score_shows():
    scores = torch.tensor([1.0, torch.nan, 2.0, 3.0])
    assert dynamic.select(scores, torch.tensor(2)).isnan().any()


@pytest.mark.parametrize("batch, rows, cols, out, width, dtype", SHAPES)
def test_matvec_is_the_dense_product(batch, rows, cols, out, width, dtype):
    x, weight, bias = (
        drawn(*shape, dtype=dtype).detach()
        for shape in ((batch, cols * width), (rows * cols, out, width), (rows * out,))
    )
    gates = some_open(batch, rows * cols).detach()
    y = dynamic.gated_matvec(x, weight, gates, bias)
    assert y.dtype == dtype
    assert_near(y, dense(*exact(x, weight, gates, bias)), TOLERANCE[dtype])
    assert torch.equal(y[0], dynamic.gated_matvec(x[0], weight, gates[0], bias))


@pytest.mark.parametrize("batch, rows, cols, out, width, dtype", SHAPES)
def test_product_and_its_gradients_are_the_dense_ones(batch, rows, cols, out, width, dtype):
    inputs = [drawn(batch, cols * width, dtype=dtype), drawn(rows * cols, out, width, dtype=dtype)]
    inputs += [some_open(batch, rows * cols), drawn(rows * out, dtype=dtype)]
    wanted_of = exact(*inputs)
    found, wanted = dynamic.gated_product(*inputs), dense(*wanted_of)
    grad = torch.randn_like(found)
    gradients = torch.autograd.grad(found, inputs, grad), torch.autograd.grad(wanted, wanted_of, grad.double())
    for one, other in zip((found, *gradients[0]), (wanted, *gradients[1]), strict=True):
        assert_near(one, other, TOLERANCE[dtype])


@pytest.mark.parametrize("closed", range(4))
def test_a_closed_block_is_not_read(closed):
    x, weight, gates = drawn(1, 8).detach(), drawn(4, 4, 4).detach(), torch.ones(1, 4)
    weight[closed] = torch.nan
    assert not dynamic.gated_matvec(x, weight, gates).isfinite().all()
    gates[0, closed] = 0
    assert dynamic.gated_matvec(x, weight, gates).isfinite().all()


@pytest.mark.parametrize("batch", [2, dynamic.FEW + 1])
def test_inputs_of_any_shape_and_strides(batch):
    weight, gates = drawn(6, 5, 3).detach(), some_open(2 * batch, 6).detach()
    whole = torch.randn(2, batch, 12)
    for x in (whole[..., ::2], whole.mT.contiguous().mT[..., :6]):
        y = dynamic.gated_product(x, weight.mT.contiguous().mT, gates.view(2, batch, 6))
        assert_near(y.flatten(0, 1), dense(*exact(x.flatten(0, 1), weight, gates), None), 1e-6)


def test_without_gradients_nothing_is_kept_and_only_wanted_ones_are_taken():
    x, weight, gates = drawn(6, 8), drawn(4, 4, 4).detach(), some_open(6, 4).detach()
    assert not dynamic.gated_product(x.detach(), weight, gates).requires_grad
    with torch.no_grad():
        assert not dynamic.gated_product(x, weight, gates).requires_grad
    x_grad = torch.autograd.grad(dynamic.gated_product(x, weight, gates).sum(), x)[0]
    double = exact(x, weight, gates)
    assert_near(x_grad, torch.autograd.grad(dense(*double, None).sum(), double[0])[0], 1e-6)


def test_an_empty_batch_has_gradients_of_zero():
    inputs = [drawn(0, 8), drawn(4, 4, 4), drawn(0, 4), drawn(8)]
    y = dynamic.gated_product(*inputs)
    assert y.shape == (0, 8)
    for gradient, tensor in zip(torch.autograd.grad(y.sum(), inputs), inputs, strict=True):
        assert gradient.shape == tensor.shape and not gradient.any()


def test_a_step_is_gate_and_product():
    x, features, matrix, offset = drawn(2, 12), drawn(2, 7), drawn(6, 7), drawn(6)
    weight, bias = drawn(6, 3, 4), drawn(6)
    with torch.no_grad():
        y, gates = dynamic.gated_step(x, features, matrix, offset, torch.tensor(2), weight, bias)
        scores = torch.nn.functional.linear(features, matrix, offset)
        torch.testing.assert_close(gates, rank_gates(scores, 2), rtol=1e-5, atol=0)
        assert_near(y, dense(*exact(x, weight, gates, bias)), 1e-6)


def test_operators_keep_torch_s_rules():
    x, weight, gates, bias = drawn(3, 8), drawn(4, 3, 4), some_open(3, 4), drawn(6)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    plain = [tensor.detach() for tensor in (x, weight, gates, bias)]
    grad = torch.randn(3, 6)
    for operator, given in (
        (dynamic.select_operator, (torch.randn(2, 5), torch.tensor(2))),
        (dynamic.matvec_operator, tuple(plain)),
        (dynamic.step_operator, (plain[0], plain[0], torch.randn(4, 8), None, torch.tensor(2), *plain[1::2])),
        (dynamic.product_operator, (x, weight, gates, bias)),
        (dynamic.input_gradient_operator, (grad, *plain[:3])),
        (dynamic.weight_gradient_operator, (grad, plain[0], plain[2], 3, 4)),
    ):
        torch.library.opcheck(operator, given, test_utils=tests)


def test_a_compiled_graph_is_whole_and_gives_the_same():
    x, weight, gates, bias = drawn(6, 8), drawn(4, 3, 4), some_open(6, 4), drawn(6)
    few, scores, opened = x[:2].detach(), torch.randn(2, 4), torch.tensor(2)

    def step(x: Tensor) -> Tensor:
        with torch.no_grad():
            return dynamic.gated_matvec(x, weight, dynamic.select(scores, opened), bias).sin()

    def product(x: Tensor) -> Tensor:
        return dynamic.gated_product(x, weight, gates, bias).sin()

    calls = 0

    def counting(graph, _):
        nonlocal calls
        calls += 1
        return graph

    traced = torch.compile(step, fullgraph=True, backend=counting)
    for number in (1, 2, 4):
        opened.fill_(number)
        torch.testing.assert_close(traced(few), step(few))
    assert calls == 1
    plain = torch.autograd.grad(product(x).sum(), (x, weight, gates, bias))
    whole = torch.compile(product, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(whole(x).sum(), (x, weight, gates, bias)), plain)
