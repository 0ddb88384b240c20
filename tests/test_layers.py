import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rmtnet.layers import BlockDiagonalLinear

sizes = st.integers(1, 5)


def float64_layer(blocks, out, width, bias=True):
    return BlockDiagonalLinear(blocks * width, blocks * out, blocks, bias=bias, dtype=torch.float64)


@given(blocks=sizes, out=sizes, width=sizes, batch=st.lists(st.integers(0, 3), max_size=2), bias=st.booleans())
def test_it_maps_as_the_dense_block_diagonal_matrix_does(blocks, out, width, batch, bias):
    layer = float64_layer(blocks, out, width, bias)
    inputs = torch.randn(*batch, blocks * width, dtype=torch.float64)
    matrix = torch.block_diag(*layer.weight.detach())
    expected = inputs @ matrix.T + (layer.bias.detach() if bias else 0)
    torch.testing.assert_close(layer(inputs).detach(), expected, rtol=1e-12, atol=1e-12)


@given(blocks=sizes, out=sizes, width=sizes, bias=st.booleans())
def test_gradients_are_those_of_autograd_in_float64(blocks, out, width, bias):
    layer = float64_layer(blocks, out, width, bias)
    inputs = torch.randn(3, blocks * width, dtype=torch.float64, requires_grad=True)
    parameters = tuple(layer.parameters())
    assert torch.autograd.gradcheck(
        lambda inputs, *new: torch.func.functional_call(
            layer, dict(zip(("weight", "bias"), new, strict=False)), (inputs,)
        ),
        (inputs, *parameters),
    )


@pytest.mark.parametrize("bias", [True, False])
def test_from_linear_keeps_the_diagonal_blocks_and_to_dense_gives_them_back(bias):
    dense = nn.Linear(6, 4, bias=bias)
    layer = BlockDiagonalLinear.from_linear(dense, blocks=2)
    torch.testing.assert_close(layer.weight[1], dense.weight[2:, 3:])
    with torch.no_grad():
        dense.weight[:2, 3:] = dense.weight[2:, :3] = 0
    inputs = torch.randn(5, 6)
    torch.testing.assert_close(layer(inputs), dense(inputs))
    torch.testing.assert_close(layer.to_dense().weight, dense.weight)
    torch.testing.assert_close(layer.to_dense()(inputs), dense(inputs))
    layer.weight.data.zero_()
    assert dense.weight.abs().sum() > 0, "from_linear copies"


def test_the_start_has_the_variance_of_a_linear_layer_of_a_blocks_size():
    layer = BlockDiagonalLinear(800, 5000, blocks=10)
    entries = layer.weight.numel()
    # Uniform: kurtosis 9/5, so the sampled variance has the relative error sqrt(0.8 / entries).
    assert layer.weight.var().item() * 3 * 80 == pytest.approx(1, abs=5 * (0.8 / entries) ** 0.5)


def test_state_survives_a_pickle_free_save_and_load():
    layer, other = BlockDiagonalLinear(6, 4, 2), BlockDiagonalLinear(6, 4, 2)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert {name: tuple(value.shape) for name, value in other.state_dict().items()} == {
        "weight": (2, 2, 3),
        "bias": (4,),
    }
    torch.testing.assert_close(other.weight, layer.weight)


def test_it_compiles_and_autocasts():
    layer = BlockDiagonalLinear(8, 8, 2)
    inputs = torch.randn(3, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(inputs).dtype == torch.bfloat16
    exported = torch.export.export(layer, (inputs,))
    torch.testing.assert_close(exported.module()(inputs), layer(inputs))


def test_repr_tells_the_blocks():
    assert repr(BlockDiagonalLinear(6, 4, 2)) == (
        "BlockDiagonalLinear(in_features=6, out_features=4, blocks=2, bias=True)"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((6, 4, 0), "blocks must be at least 1, got 0"),
        ((0, 4, 1), "in_features must be at least 1, got 0"),
        ((6, 4, 3), "blocks must divide out_features: 3 does not divide 4"),
        ((5, 4, 2), "blocks must divide in_features: 2 does not divide 5"),
    ],
)
def test_sizes_that_blocks_do_not_divide_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BlockDiagonalLinear(*arguments)


def test_a_network_with_it_learns_as_the_masked_dense_one_does():
    torch.manual_seed(0)
    layer = BlockDiagonalLinear(6, 4, 2, dtype=torch.float64)
    dense = layer.to_dense()
    mask = (torch.block_diag(*torch.ones_like(layer.weight)) > 0).double()
    inputs, targets = torch.randn(20, 6, dtype=torch.float64), torch.randn(20, 4, dtype=torch.float64)
    for model in (layer, dense):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(10):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(inputs), targets).backward()
            if model is dense:
                dense.weight.grad *= mask
            optimizer.step()
    np.testing.assert_allclose(layer.to_dense().weight.detach(), dense.weight.detach(), rtol=1e-12)
