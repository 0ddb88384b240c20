import copy
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import linear

from rmtnet.layers import BlockDiagonalLinear, BlockSparseConv2d, BlockSparseLSTM, sparse_products
from rmtnet.layers.block_sparse import BlockSparseLinear
from rmtnet.matrices import matrices

MASK = [[True, False, True], [False, False, False], [False, True, True], [True, False, False]]
sizes = st.integers(1, 4)


@st.composite
def masks(draw):
    rows, columns = draw(sizes), draw(sizes)
    entries = draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns).filter(any))
    return torch.tensor(entries).view(rows, columns)


def made(mask=MASK, height=2, width=3, bias=True, dtype=torch.float64):
    rows, columns = np.shape(mask)
    return BlockSparseLinear(columns * width, rows * height, mask, bias, dtype=dtype)


def dense_mask(layer):
    """(out, in) bool, entry by entry: where a kept block of the layer is."""
    found = torch.zeros(layer.out_features, layer.in_features, dtype=torch.bool)
    _, height, width = layer.weight.shape
    for i, j, kept in zip(layer.block_row.tolist(), layer.block_col.tolist(), layer.kept.tolist(), strict=True):
        found[i * height : (i + 1) * height, j * width : (j + 1) * width] |= kept
    return found


def dense_weight(layer):
    matrix = torch.zeros(layer.out_features, layer.in_features, dtype=layer.weight.dtype)
    _, height, width = layer.weight.shape
    for block, i, j in zip(layer.weight.detach(), layer.block_row.tolist(), layer.block_col.tolist(), strict=True):
        matrix[i * height : (i + 1) * height, j * width : (j + 1) * width] = block
    return matrix * dense_mask(layer)


@pytest.fixture(params=["in chunks of one", "in one chunk", "one by one"])
def way(request, monkeypatch):
    """Each way to form the product, whatever the sizes."""
    monkeypatch.setitem(sparse_products.CHUNK, "cpu", 1 if request.param == "in chunks of one" else 2**20)
    monkeypatch.setattr(sparse_products, "LARGE", 0 if request.param == "one by one" else 2**60)


@pytest.mark.usefixtures("way")
class TestProduct:
    @settings(max_examples=50)
    @given(
        mask=masks(),
        height=sizes,
        width=sizes,
        batch=st.lists(st.integers(0, 3), max_size=2),
        bias=st.booleans(),
        removed=st.integers(0, 2**16),
    )
    def test_values_and_gradients_are_those_of_the_masked_dense_layer(self, mask, height, width, batch, bias, removed):
        layer = made(mask, height, width, bias)
        blocks = len(layer.weight)
        which = torch.tensor([bool(removed >> k & 1) for k in range(blocks)])
        layer.remove_blocks(which)
        with torch.no_grad():
            layer.weight += which[:, None, None]  # as an optimizer's momentum may
        dense = dense_weight(layer).requires_grad_()
        inputs, also = (torch.randn(*batch, layer.in_features, dtype=torch.float64) for _ in range(2))
        also.copy_(inputs)
        outputs = layer(inputs.requires_grad_())
        expected = linear(also.requires_grad_(), dense, layer.bias)
        torch.testing.assert_close(outputs, expected, rtol=1e-12, atol=1e-12)
        upstream = torch.randn_like(outputs)
        found = torch.autograd.grad(outputs, [inputs, *layer.parameters()], upstream)
        wanted = torch.autograd.grad(expected, [also, dense, *([layer.bias] if bias else [])], upstream)
        torch.testing.assert_close(found[0], wanted[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found[2:], wanted[2:], rtol=1e-12, atol=1e-12)
        kept = ~which[:, None, None]
        cut = [
            wanted[1][i * height : (i + 1) * height, j * width : (j + 1) * width]
            for i, j in zip(layer.block_row.tolist(), layer.block_col.tolist(), strict=True)
        ]
        torch.testing.assert_close(found[1], torch.stack(cut) * kept, rtol=1e-12, atol=1e-12)
        assert not found[1][which].any()

    @pytest.mark.parametrize("bias", [True, False])
    def test_derivatives_of_first_and_second_order(self, bias):
        layer = made([[True, False], [True, True]], bias=bias)
        layer.remove_blocks(torch.tensor([False, False, True]))
        inputs = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
        names = [name for name, _ in layer.named_parameters()]

        def called(inputs, *values):
            return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (inputs,))

        arguments = (inputs, *layer.parameters())
        assert torch.autograd.gradcheck(called, arguments)
        assert torch.autograd.gradgradcheck(called, arguments)

    @pytest.mark.parametrize("strides", ["feature-major", "every second", "expanded"])
    def test_inputs_and_gradients_of_any_strides(self, strides):
        layer = made()
        plain = torch.randn(8, 9, dtype=torch.float64)
        views = {
            "feature-major": plain.T.contiguous().T,
            "every second": plain.repeat_interleave(2, 1)[:, ::2],
            "expanded": plain[:1].expand(8, 9),
        }
        inputs = views[strides]
        torch.testing.assert_close(layer(inputs), linear(inputs, dense_weight(layer), layer.bias))
        layer(inputs).sum().backward()  # the gradient has strides of 0
        assert layer.bias.grad.tolist() == [8] * 8

    def test_only_what_is_trained_gets_a_gradient(self):
        layer = made()
        layer.weight.requires_grad_(False)
        inputs = torch.randn(5, 9, dtype=torch.float64, requires_grad=True)
        layer(inputs).sum().backward()
        assert layer.weight.grad is None
        torch.testing.assert_close(inputs.grad, dense_weight(layer).sum(0).expand(5, 9))
        assert not made().requires_grad_(False)(inputs.detach()).requires_grad


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 1.6e-2), (torch.float32, 1e-6)]
)
def test_half_precision_sums_many_blocks_as_the_dense_layer_does(dtype, tolerance):
    torch.manual_seed(0)
    layer = BlockSparseLinear(512, 8, torch.ones(2, 128, dtype=torch.bool), dtype=dtype)
    inputs = torch.randn(16, 512, dtype=dtype)
    expected = linear(inputs.double(), layer.to_dense().weight.double(), layer.bias.double())
    error = (layer(inputs).double() - expected).abs().max() / expected.abs().max()
    assert layer(inputs).dtype == dtype
    assert error.item() < tolerance


def test_large_blocks_go_one_by_one_and_agree():
    layer = BlockSparseLinear(192, 128, [[True, False, True], [False, True, False]])
    inputs = torch.randn(100, 192)
    assert sparse_products.LARGE <= 100 * 64 * 64
    torch.testing.assert_close(layer(inputs), layer.to_dense()(inputs))


@pytest.mark.parametrize("bias", [True, False])
def test_from_linear_keeps_the_blocks_of_the_mask_and_to_dense_gives_them_back(bias):
    dense = nn.Linear(9, 8, bias=bias)
    layer = BlockSparseLinear.from_linear(dense, MASK)
    torch.testing.assert_close(layer.weight[3], dense.weight[4:6, 6:])  # row 2, column 2
    with torch.no_grad():
        dense.weight *= dense_mask(layer)
    inputs = torch.randn(5, 9)
    torch.testing.assert_close(layer(inputs), dense(inputs))
    torch.testing.assert_close(layer.to_dense().weight, dense.weight, rtol=0, atol=0)
    torch.testing.assert_close(layer.to_dense()(inputs), dense(inputs))
    layer.weight.data.zero_()
    assert dense.weight.abs().sum() > 0, "from_linear copies"


def test_each_row_starts_with_the_variance_of_its_own_fan_in():
    mask = torch.ones(3, 10, dtype=torch.bool)
    mask[1, 2:], mask[2] = False, False
    layer = BlockSparseLinear(800, 1500, mask)
    for i, fan_in in enumerate((800, 160)):
        entries = layer.weight[layer.block_row == i]
        # Uniform: kurtosis 9/5, so the sampled variance has the relative error sqrt(0.8 / entries).
        assert entries.var().item() * 3 * fan_in == pytest.approx(1, abs=5 * (0.8 / entries.numel()) ** 0.5)
        assert 0.9 < layer.bias[500 * i : 500 * (i + 1)].abs().max().item() * fan_in**0.5 <= 1
    assert not layer.bias[1000:].any()
    assert layer(torch.randn(2, 800))[:, 1000:].eq(0).all()


def test_removed_blocks_stay_zero_while_training_and_when_drawn_anew():
    torch.manual_seed(0)
    layer = made()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    inputs, targets = torch.randn(20, 9, dtype=torch.float64), torch.randn(20, 8, dtype=torch.float64)
    which = torch.tensor([True, False, False, True, False])
    for step in range(6):
        if step == 3:
            layer.remove_blocks(which)
        optimizer.zero_grad()
        nn.functional.mse_loss(layer(inputs), targets).backward()
        assert layer.weight.grad[which].any().item() == (step < 3)
        optimizer.step()
    assert layer.density == 3 / 12
    assert not dense_weight(layer)[:2, :3].any()
    torch.testing.assert_close(layer(inputs), linear(inputs, dense_weight(layer), layer.bias))
    torch.testing.assert_close(layer.to_dense().weight, dense_weight(layer))
    layer.reset_parameters()
    assert layer.weight.flatten(1).any(1).tolist() == (~which).tolist()


def test_it_learns_as_the_masked_dense_layer_does():
    torch.manual_seed(0)
    layer = made()
    dense, mask = layer.to_dense(), dense_mask(layer)
    inputs, targets = torch.randn(20, 9, dtype=torch.float64), torch.randn(20, 8, dtype=torch.float64)
    for model in (layer, dense):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(10):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(inputs), targets).backward()
            if model is dense:
                dense.weight.grad *= mask
            optimizer.step()
    torch.testing.assert_close(layer.to_dense().weight, dense.weight, rtol=1e-12, atol=1e-14)


def test_state_brings_the_places_of_the_blocks_along():
    layer = made(dtype=torch.float32)
    layer.remove_blocks(torch.tensor([False, True, False, False, False]))
    other = made([[False, True, True], [True, True, False], [True, False, False], [False] * 3], dtype=torch.float32)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    inputs = torch.randn(4, 9, requires_grad=True)
    torch.testing.assert_close(other(inputs), layer(inputs))
    assert set(layer.state_dict()) == {"weight", "bias", "block_row", "block_col", "kept"}
    for name, part in layer._index._asdict().items():
        assert part.tolist() == getattr(other._index, name).tolist(), "plans are made anew"
    with pytest.raises(RuntimeError, match="size mismatch"):
        made([[True]], 8, 9).load_state_dict(layer.state_dict())


def test_a_copy_is_its_own_layer():
    layer = made()
    other = copy.deepcopy(layer)
    other.remove_blocks(torch.ones(5, dtype=torch.bool))
    assert layer.kept.all()
    assert layer.weight.any()
    assert other.density == 0
    torch.testing.assert_close(other(torch.ones(1, 9, dtype=torch.float64))[0], other.bias)


def test_a_layer_without_memory_tells_shapes_and_is_filled_from_a_file():
    source = made(dtype=torch.float32)
    layer = BlockSparseLinear(9, 8, MASK, device="meta")
    assert layer(torch.empty(4, 9, device="meta")).shape == (4, 8)
    layer.to_empty(device="cpu").load_state_dict(source.state_dict())
    inputs = torch.randn(4, 9)
    torch.testing.assert_close(layer(inputs), source(inputs))


def test_autocast_takes_and_gives_what_a_linear_layer_does():
    layer = made(dtype=torch.float32)
    inputs = torch.randn(3, 9, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = layer(inputs)
        assert outputs.dtype == layer.to_dense()(inputs).dtype == torch.bfloat16
        assert made()(inputs.double()).dtype == torch.float64
    outputs.float().sum().backward()
    assert layer.weight.grad.dtype == inputs.grad.dtype == torch.float32


def test_export_leaves_the_batch_free():
    layer = made(dtype=torch.float32)
    layer.remove_blocks(torch.tensor([False, True, False, False, False]))
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(layer, (torch.randn(4, 9),), dynamic_shapes=({0: batch},))
    inputs = torch.randn(7, 9)
    torch.testing.assert_close(program.module()(inputs), layer(inputs))


def test_removing_blocks_compiles_nothing_anew():
    layer = made(dtype=torch.float32)
    graphs = []

    def counted(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(layer, fullgraph=True, backend=counted)
    inputs = torch.randn(4, 9)
    for block in range(4):
        layer.remove_blocks(torch.arange(5) == block)
        torch.testing.assert_close(compiled(inputs), layer(inputs))
    assert len(graphs) == 1


@pytest.mark.slow
def test_the_operators_pass_torchs_own_checks():
    layer = made(dtype=torch.float32)
    inputs = torch.randn(4, 9, requires_grad=True)
    places = layer.block_row, layer.block_col, layer.kept
    torch.library.opcheck(sparse_products._product, (inputs, layer.weight, layer.bias, *places, 8))
    torch.library.opcheck(sparse_products._outer, (torch.randn(4, 8), inputs, *places, 2, 3))


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.slow
def test_the_default_compiler_trains_it():
    layer = made(dtype=torch.float32)
    compiled = torch.compile(layer, fullgraph=True)
    inputs = torch.randn(4, 9)
    compiled(inputs).square().sum().backward()
    found, layer.weight.grad = layer.weight.grad, None
    layer(inputs).square().sum().backward()
    torch.testing.assert_close(found, layer.weight.grad)


def test_the_recorder_reads_its_blocks():
    (matrix,) = matrices(nn.Sequential(made()))
    assert matrix.shape == (5, 2, 3)
    assert matrix.layout.form == "block_sparse"
    assert (matrix.layout.block_row, matrix.layout.block_col) == ((0, 0, 2, 2, 3), (0, 2, 1, 2, 0))
    assert (matrix.layout.out_features, matrix.layout.in_features) == (8, 9)


@pytest.mark.parametrize("mask", [MASK, np.array(MASK), torch.tensor(MASK), np.array(MASK).astype(int)])
def test_masks_of_every_kind(mask):
    assert made(mask).block_col.tolist() == [0, 2, 1, 2, 0]


def test_repr_tells_the_blocks():
    assert repr(made()) == "BlockSparseLinear(in_features=9, out_features=8, blocks=5 of 2 x 3, bias=True)"


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        ([True, False], ValueError, r"mask must be a table, .* got shape \(2,\)"),
        (np.ones((2, 4), bool), ValueError, "the mask cuts inputs into 4 blocks, which does not divide 9"),
        (np.ones((3, 3), bool), ValueError, "the mask cuts outputs into 3 blocks, which does not divide 8"),
        (np.ones((0, 3), bool), ValueError, "the mask cuts outputs into 0 blocks"),
        (np.zeros((2, 3), bool), ValueError, "mask keeps no block"),
        (np.full((2, 3), np.nan), TypeError, "mask must be bool, got torch.float64"),
    ],
)
def test_masks_that_cannot_be_are_refused(mask, error, message):
    with pytest.raises(error, match=message):
        BlockSparseLinear(9, 8, mask)


def test_a_diverged_layer_is_refused():
    dense = nn.Linear(9, 8)
    dense.weight.data[3, 3] = torch.nan
    with pytest.raises(ValueError, match="weight holds NaN or infinity"):
        BlockSparseLinear.from_linear(dense, MASK)


def test_inputs_and_blocks_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"last axis must be 9, got a tensor of \(4, 8\)"):
        made()(torch.ones(4, 8, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"each of the 5 blocks, got torch\.bool of shape \(4,\)"):
        made().remove_blocks(torch.ones(4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"got torch\.int64"):
        made().remove_blocks(torch.arange(5))


@pytest.mark.parametrize("kind", ["linear", "convolution", "lstm"])
def test_a_look_at_the_dense_form_changes_no_random_numbers(kind):
    layer, look = {
        "linear": lambda: (BlockSparseLinear(4, 4, torch.eye(2) > 0), "to_dense"),
        "convolution": lambda: (BlockSparseConv2d(4, 4, 3, torch.eye(2) > 0), "to_dense"),
        "lstm": lambda: (BlockSparseLSTM(4, 4, block=2), "to_lstm"),
    }[kind]()
    before = torch.get_rng_state()
    getattr(layer, look)()
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_frozen_stays_frozen():
    dense = nn.Linear(4, 4).requires_grad_(False)
    for layer in (BlockSparseLinear.from_linear(dense, torch.eye(2) > 0), BlockDiagonalLinear.from_linear(dense, 2)):
        assert {parameter.requires_grad for parameter in layer.parameters()} == {False}


def test_a_mask_given_as_a_list_is_no_tensor_of_the_device_that_layers_are_made_on():
    with torch.device("meta"):
        layer = BlockSparseLinear(6, 4, [[True, False, True], [False, False, True]])
    assert layer.weight.is_meta and layer.weight.shape == (3, 2, 2)
