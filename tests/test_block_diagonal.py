"""Block diagonal layers and products, against dense matrices in float64 with zeros off the blocks."""

import copy
import io
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rmtnet.layers import BlockDiagonalLinear
from rmtnet.layers import functional as products_by_rule
from rmtnet.layers import products_diagonal as products
from rmtnet.layers.functional import feature_major, interleave, is_feature_major, reorder

sizes = st.integers(1, 5)
# Blocks, outputs and inputs of one, for each rule of block_diagonal_linear; the batch is 9 (small batches: 3).
SHAPES = {
    "one block": (1, 4, 3),
    "elementwise": (6, 1, 1),
    "merged": (8, 4, 3),
    "merged into one": (4, 4, 4),
    "no divisor": (11, 3, 2),
    "long": (4, 2, 200),
    "large": (3, 17, 16),
}
UNEQUAL = [(2, 3), (2, 3), (1, 5), (4, 1)]
TORCHS_OWN_WARNING = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")


def exact(in_features, out_features, blocks, **options):
    return BlockDiagonalLinear(in_features, out_features, blocks, dtype=torch.float64, **options)


def shaped(shape, **options):
    blocks, out, width = SHAPES[shape]
    return exact(blocks * width, blocks * out, blocks, **options)


def unequal(**options):
    return exact(12, 9, UNEQUAL, **options)


def matrix_of(layer):
    """The dense matrix, block by block."""
    matrix = torch.zeros(layer.out_features, layer.in_features, dtype=layer.weight.dtype)
    row = column = 0
    for block, height, width in zip(layer.weight.detach(), layer.block_height, layer.block_width, strict=True):
        matrix[row : row + height, column : column + width] = block[:height, :width]
        row, column = row + height, column + width
    return matrix


def rows_of(layer, batch=9):
    return torch.randn(batch, layer.in_features, dtype=layer.weight.dtype)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)


def gradients(layer, inputs, grad):
    inputs = inputs.detach().requires_grad_()
    return torch.autograd.grad(layer(inputs), (inputs, *layer.parameters()), grad)


LAYERS = [*(pytest.param(partial(shaped, shape), id=shape) for shape in SHAPES), pytest.param(unequal, id="unequal")]


@pytest.mark.parametrize("order", ["batch-major", "feature-major", "every other"])
@pytest.mark.parametrize("batch", [0, 1, 3, 9])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("make", LAYERS)
def test_output_and_gradients_are_those_of_the_masked_dense_layer(make, bias, batch, order):
    layer = make(bias=bias)
    dense, inputs = layer.to_dense(), rows_of(layer, batch)
    close(dense.weight.detach(), matrix_of(layer))
    if order == "feature-major":
        inputs = feature_major(inputs)
    if order == "every other":
        inputs = torch.stack([inputs, inputs], -1).flatten(1)[:, ::2]
    grad = torch.randn(batch, layer.out_features, dtype=torch.float64)
    output = layer(inputs)
    close(output, dense(inputs))
    assert is_feature_major(output) == is_feature_major(inputs)
    got, expected = gradients(layer, inputs, grad), gradients(dense, inputs, grad)
    close(got[0], expected[0])
    weights = BlockDiagonalLinear.from_linear(with_weight(dense, expected[1]), blocks_of(layer))
    close(got[1], weights.weight.detach())
    if bias:
        close(got[2], expected[2])


def with_weight(dense, weight):
    dense.weight.data = weight
    return dense


def blocks_of(layer):
    return list(zip(layer.block_height, layer.block_width, strict=True))


@given(blocks=sizes, out=sizes, width=sizes, batch=st.lists(st.integers(0, 3), max_size=3), bias=st.booleans())
def test_it_maps_as_the_dense_matrix_does_with_any_leading_axes(blocks, out, width, batch, bias):
    layer = exact(blocks * width, blocks * out, blocks, bias=bias)
    inputs = torch.randn(*batch, blocks * width, dtype=torch.float64)
    output = layer(inputs)
    close(output, inputs @ matrix_of(layer).T + (layer.bias if bias else 0))
    assert output.shape == (*batch, blocks * out)


@given(blocks=st.integers(1, 40), out=sizes, width=sizes, batch=st.integers(8, 12))
def test_every_shape_of_small_blocks_maps_as_the_dense_matrix_does(blocks, out, width, batch):
    layer = exact(blocks * width, blocks * out, blocks)
    inputs = rows_of(layer, batch)
    close(layer(inputs), inputs @ matrix_of(layer).T + layer.bias)


@given(pairs=st.lists(st.tuples(sizes, sizes), min_size=1, max_size=6), batch=st.integers(0, 4), ordered=st.booleans())
def test_unequal_blocks_map_as_the_dense_matrix_does(pairs, batch, ordered):
    layer = exact(sum(width for _, width in pairs), sum(height for height, _ in pairs), pairs)
    inputs = rows_of(layer, batch)
    close(layer(feature_major(inputs) if ordered else inputs), inputs @ matrix_of(layer).T + layer.bias)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "form",
    [
        products._batch_major,
        products._BatchMajor.apply,
        products.feature_major,
        pytest.param(partial(products.merged, count=2), id="merged"),
    ],
)
def test_each_form_is_the_dense_product_to_the_second_derivative(form, bias):
    layer = exact(12, 8, 4, bias=bias)
    inputs = rows_of(layer, 3).requires_grad_()
    operands = (inputs, layer.weight, layer.bias) if bias else (inputs, layer.weight)
    call = form if bias else lambda rows, weight: form(rows, weight, None)
    close(call(*operands), layer.to_dense()(inputs))
    assert torch.autograd.gradcheck(call, operands)
    assert torch.autograd.gradgradcheck(call, operands)


@pytest.mark.parametrize("needed", [(True, False, False), (False, True, False), (False, False, True)])
def test_a_gradient_is_taken_of_what_needs_one_alone(needed, monkeypatch):
    monkeypatch.setattr(products, "LARGE_WEIGHT", 1)
    layer = exact(6, 4, 2)
    values = (rows_of(layer), *layer.parameters())
    operands = [value.detach().requires_grad_(need) for value, need in zip(values, needed, strict=True)]
    products._BatchMajor.apply(*operands).sum().backward()
    assert [operand.grad is not None for operand in operands] == list(needed)


@TORCHS_OWN_WARNING
def test_the_form_for_training_large_layers_works_under_function_transforms(monkeypatch):
    monkeypatch.setattr(products, "LARGE_WEIGHT", 1)
    layer = shaped("large")
    inputs, tangent = rows_of(layer, 4), rows_of(layer, 4)
    output, derivative = torch.func.jvp(layer, (inputs,), (tangent,))
    close(derivative, tangent @ matrix_of(layer).T)
    stacked = torch.stack([inputs, tangent])
    close(torch.func.vmap(layer)(stacked), torch.stack([output, layer(tangent)]))
    per_sample = torch.func.vmap(torch.func.grad(lambda weights, row: loss(weights, layer, row)), (None, 0))
    weights = dict(layer.named_parameters())
    total = torch.autograd.grad(loss(weights, layer, inputs), layer.weight)[0]
    close(per_sample(weights, inputs)["weight"].sum(0), total)
    forward = torch.func.jvp(
        lambda weight: loss({**weights, "weight": weight}, layer, inputs), (layer.weight,), (total,)
    )
    close(forward[1], total.square().sum())


def loss(weights, layer, inputs):
    return torch.func.functional_call(layer, weights, (inputs,)).square().sum()


@pytest.mark.parametrize("shape", ["large", "no divisor"])
def test_a_large_layers_weight_gradient_has_the_weights_memory_order(shape, monkeypatch):
    monkeypatch.setattr(products, "LARGE_WEIGHT", 1)
    layer = shaped(shape)
    grad = gradients(layer, rows_of(layer), torch.ones(9, layer.out_features).double())[1]
    assert grad.is_contiguous()


@settings(max_examples=20)
@given(blocks=sizes, out=sizes, width=sizes, bias=st.booleans())
def test_gradients_are_those_of_finite_differences(blocks, out, width, bias):
    layer = exact(blocks * width, blocks * out, blocks, bias=bias)
    inputs = torch.randn(3, blocks * width, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]
    assert torch.autograd.gradcheck(
        lambda inputs, *new: torch.func.functional_call(layer, dict(zip(names, new, strict=True)), (inputs,)),
        (inputs, *layer.parameters()),
    )


# Memory order


def test_a_chain_stays_feature_major_until_it_is_asked_otherwise():
    torch.manual_seed(0)
    chain = nn.Sequential(exact(12, 8, 4), nn.ReLU(), exact(8, 8, 8), exact(8, 6, 1), exact(6, 4, [(1, 4), (3, 2)]))
    inputs = torch.randn(5, 12, dtype=torch.float64)
    ordered = feature_major(inputs)
    assert ordered.stride() == (1, 5) and torch.equal(ordered, inputs)
    for layer in chain:
        ordered = layer(ordered)
        assert ordered.stride() == (1, 5)
    assert chain(inputs).is_contiguous()
    close(ordered, chain(inputs))


def test_feature_major_inputs_may_have_leading_axes():
    layer, inputs = exact(12, 8, 4), torch.randn(3, 5, 12, dtype=torch.float64)
    ordered = feature_major(inputs)
    assert ordered.stride() == (5, 1, 15)
    close(layer(ordered), layer(inputs))
    assert layer(ordered).stride() == (5, 1, 15)
    assert feature_major(inputs[0, 0]).shape == (12,)


def test_gradients_flow_feature_major_too():
    layer = exact(12, 8, 4)
    inputs = feature_major(rows_of(layer)).requires_grad_()
    layer(inputs).backward(feature_major(torch.ones(9, 8).double()))
    assert inputs.grad.stride() == inputs.stride()


# Unequal blocks


def test_unequal_blocks_are_stored_padded_and_the_padding_takes_no_part():
    torch.manual_seed(0)
    layer = unequal()
    padding = torch.ones_like(layer.weight, dtype=bool)
    for i, (height, width) in enumerate(UNEQUAL):
        padding[i, :height, :width] = False
    assert layer.weight.shape == (4, 4, 5) and layer.blocks == 4
    assert not layer.weight[padding].any() and layer.weight[~padding].all()
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.1)
    inputs, targets = rows_of(layer, 20), torch.randn(20, 9).double()
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.mse_loss(layer(inputs), targets).backward()
        assert not layer.weight.grad[padding].any() and layer.weight.grad[~padding].all()
        optimizer.step()
    assert not layer.weight[padding].any()
    before = layer(inputs)
    layer.weight.data[padding] = torch.nan
    torch.testing.assert_close(layer(inputs), before, rtol=0, atol=0)
    close(layer.to_dense()(inputs), before)


def test_unequal_blocks_start_as_linear_layers_of_their_sizes():
    layer = BlockDiagonalLinear(1004, 600, [(300, 1000), (300, 4)])
    for i, (height, width) in enumerate(blocks_of(layer)):
        block = layer.weight[i, :height, :width]
        assert block.var().item() * 3 * width == pytest.approx(1, abs=5 * (0.8 / block.numel()) ** 0.5)
        assert block.abs().max() <= width**-0.5
        bias = layer.bias[300 * i : 300 * (i + 1)]
        assert 0.9 * width**-0.5 < bias.abs().max() <= width**-0.5


def test_pairs_that_are_equal_are_equal_blocks():
    layer = exact(6, 4, [(2, 3), (2, 3)], shuffle="interleave")
    assert repr(layer) == repr(exact(6, 4, 2, shuffle="interleave"))


# Shuffles


def permutation_matrix(order):
    """P with (P x)_i = x_order[i]."""
    return torch.eye(len(order), dtype=torch.float64)[list(order)]


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("shape", ["merged", "elementwise", "large", "one block"])
def test_random_shuffle_gives_each_block_the_slice_of_a_new_permutation(shape, ordered):
    layer = shaped(shape, shuffle="random")
    blocks, _, width = SHAPES[shape]
    inputs = feature_major(rows_of(layer)) if ordered else rows_of(layer)
    generator = torch.random.get_rng_state()
    outputs = [layer(inputs) for _ in range(4)]
    torch.random.set_rng_state(generator)
    for output in outputs:
        slices = torch.randperm(blocks).tolist()
        features = [width * i + k for i in slices for k in range(width)]
        close(output, inputs @ permutation_matrix(features).T @ matrix_of(layer).T + layer.bias)
        assert is_feature_major(output) == ordered


def test_random_shuffle_rests_in_evaluation():
    layer = exact(12, 8, 4, shuffle="random").eval()
    inputs = rows_of(layer)
    state = torch.random.get_rng_state()
    close(layer(inputs), inputs @ matrix_of(layer).T + layer.bias)
    close(layer(inputs), layer.to_dense()(inputs))
    assert torch.equal(torch.random.get_rng_state(), state), "no draw"


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("shape", ["merged", "elementwise", "large", "one block"])
def test_interleave_transposes_the_outputs_of_groups(shape, ordered):
    layer = shaped(shape, shuffle="interleave")
    blocks, out, _ = SHAPES[shape]
    inputs = feature_major(rows_of(layer)) if ordered else rows_of(layer)
    shuffle = permutation_matrix([out * g + k for k in range(out) for g in range(blocks)])
    expected = (inputs @ matrix_of(layer).T + layer.bias) @ shuffle.T
    for mode in (layer.train(), layer.eval()):
        close(mode(inputs), expected)
        assert is_feature_major(mode(inputs)) == ordered
    close(layer.to_dense()(inputs), expected)
    again = BlockDiagonalLinear.from_linear(layer.to_dense(), blocks, shuffle="interleave")
    close(again.weight, layer.weight)
    close(again.bias, layer.bias)


def test_interleave_is_torchs_channel_shuffle():
    inputs = torch.randn(5, 12)
    shuffled = nn.functional.channel_shuffle(inputs[..., None, None], 3)[..., 0, 0]
    torch.testing.assert_close(interleave(inputs, 3), shuffled, rtol=0, atol=0)


def test_gradients_of_shuffles_are_those_of_finite_differences():
    inputs = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    order = torch.tensor([2, 0, 1])
    for change in (partial(interleave, blocks=3), partial(reorder, order=order)):
        assert torch.autograd.gradcheck(change, inputs)
        assert torch.autograd.gradcheck(change, feature_major(inputs))


# Activation


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh", nn.ELU(), torch.sin])
def test_the_activation_is_that_of_the_output(activation):
    torch.manual_seed(0)
    plain, layer = exact(6, 4, 2), exact(6, 4, 2, activation=activation)
    layer.load_state_dict(plain.state_dict())
    inputs = rows_of(layer)
    function = getattr(torch, activation) if isinstance(activation, str) else activation
    expected = function(plain(inputs))
    close(layer(inputs), expected)
    with torch.no_grad():
        close(layer(inputs), expected)
    grad = torch.randn_like(expected)
    expected_grad = torch.autograd.grad(function(plain(inputs)), plain.weight, grad)[0]
    close(gradients(layer, inputs, grad)[1], expected_grad)


# In models


@pytest.mark.parametrize("make", LAYERS)
def test_it_autocasts_as_a_linear_layer_does(make):
    layer = make().float()
    inputs = torch.randn(9, layer.in_features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(inputs)
        assert output.dtype == torch.bfloat16
        assert make()(inputs.double()).dtype == torch.float64
    output.float().square().sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    exact_grad = torch.autograd.grad(layer(inputs).square().sum(), layer.weight)[0]
    torch.testing.assert_close(layer.weight.grad, exact_grad, rtol=0.05, atol=0.05 * exact_grad.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", LAYERS)
def test_it_works_in_half_precision(make, dtype):
    layer = make()
    inputs = rows_of(layer) / 4
    expected = layer(inputs).to(dtype)
    torch.testing.assert_close(layer.to(dtype)(inputs.to(dtype)), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("shape", "shuffle"), [*((shape, None) for shape in SHAPES), ("merged", "interleave"), ("large", "interleave")]
)
def test_it_exports_with_any_batch(shape, shuffle):
    layer = shaped(shape, shuffle=shuffle)
    batch = torch.export.Dim("batch", min=2, max=1 << 20)
    program = torch.export.export(layer, (rows_of(layer),), dynamic_shapes=({0: batch},)).module()
    for size in (2, 9, 100):
        inputs = rows_of(layer, size)
        close(program(inputs), layer(inputs))


def test_unequal_blocks_export_with_any_batch():
    layer = unequal()
    batch = torch.export.Dim("batch", min=2, max=1 << 20)
    program = torch.export.export(layer, (rows_of(layer),), dynamic_shapes=({0: batch},)).module()
    close(program(rows := rows_of(layer, 4)), layer(rows))


@pytest.mark.parametrize(
    "make", [*(pytest.param(partial(shaped, shape), id=shape) for shape in ("merged", "no divisor", "large")), unequal]
)
def test_it_compiles_as_one_graph(make):
    torch.compiler.reset()
    layer = make()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    inputs, grad = rows_of(layer), torch.randn(9, layer.out_features).double()
    for order in (inputs, feature_major(inputs)):
        for got, expected in zip(
            gradients_of(compiled, layer, order, grad), gradients(layer, order, grad), strict=True
        ):
            close(got, expected)


def gradients_of(compiled, layer, inputs, grad):
    inputs = inputs.detach().requires_grad_()
    return torch.autograd.grad(compiled(inputs), (inputs, *layer.parameters()), grad)


@pytest.mark.slow
@TORCHS_OWN_WARNING
@pytest.mark.parametrize("make", [partial(shaped, "merged"), partial(shaped, "large"), unequal])
def test_inductor_compiles_it(make):
    layer = make()
    inputs = rows_of(layer)
    close(torch.compile(layer, fullgraph=True)(inputs), layer(inputs))


@pytest.mark.parametrize("make", LAYERS)
def test_state_survives_a_pickle_free_save_and_load(make):
    layer, other = make(), make()
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert list(other.state_dict()) == ["weight", "bias"]
    inputs = rows_of(layer)
    torch.testing.assert_close(other(inputs), layer(inputs), rtol=0, atol=0)
    torch.testing.assert_close(copy.deepcopy(layer)(inputs), layer(inputs), rtol=0, atol=0)


@pytest.mark.parametrize("make", LAYERS)
def test_a_layer_begun_on_the_meta_device_is_filled_later(make):
    layer, built = make(), make(device="meta")
    assert built(torch.empty(9, layer.in_features, device="meta", dtype=torch.float64)).shape == (9, layer.out_features)
    built.to_empty(device="cpu").load_state_dict(layer.state_dict())
    close(built(inputs := rows_of(layer)), layer(inputs))


def test_parameters_without_gradient_stay_so(monkeypatch):
    monkeypatch.setattr(products, "LARGE_WEIGHT", 1)
    layer = shaped("large").requires_grad_(False)
    inputs = rows_of(layer).requires_grad_()
    assert not layer(inputs.detach()).requires_grad
    layer(inputs).sum().backward()
    close(inputs.grad, matrix_of(layer).sum(0).expand(9, -1))
    assert layer.weight.grad is None


def test_a_network_with_it_learns_as_the_masked_dense_one_does():
    torch.manual_seed(0)
    layer = exact(6, 4, 2)
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


def test_a_network_that_shuffles_at_random_learns_what_it_does_in_evaluation():
    torch.manual_seed(0)
    features = torch.randn(400, 1, 6).expand(-1, 4, -1) + 0.3 * torch.randn(400, 4, 6)
    targets = (features[:, 0].sum(-1) > 0).long()
    model = nn.Sequential(BlockDiagonalLinear(24, 32, 4, shuffle="random", activation="relu"), nn.Linear(32, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(features.flatten(1)), targets).backward()
        optimizer.step()
    correct = model.eval()(features.flatten(1)).argmax(1) == targets
    assert correct.float().mean() > 0.9


def train_shard(rank, file, layer, inputs, targets, results):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    # What is sent shares its memory with the other process.
    layer = copy.deepcopy(layer)
    model = nn.parallel.DistributedDataParallel(layer)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs[rank::2]), targets[rank::2]).backward()
        optimizer.step()
    if rank == 0:
        torch.save(layer.state_dict(), results)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("make", [partial(shaped, "large"), unequal])
def test_two_processes_learn_as_one_does(make, tmp_path):
    torch.manual_seed(0)
    layer = make()
    alone, inputs = copy.deepcopy(layer), rows_of(layer, 20)
    targets = torch.randn(20, layer.out_features).double()
    arguments = (str(tmp_path / "meeting"), layer, inputs, targets, str(tmp_path / "state"))
    torch.multiprocessing.start_processes(train_shard, arguments, nprocs=2, start_method="forkserver")
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.mse_loss(alone(inputs), targets).backward()
        optimizer.step()
    together = torch.load(tmp_path / "state", weights_only=True)
    for name, value in alone.state_dict().items():
        close(together[name], value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("make", LAYERS)
def test_a_gpu_gives_the_same(make, ordered):
    layer = make().float().cuda()
    dense = layer.to_dense()
    inputs = torch.randn(9, layer.in_features, device="cuda")
    inputs = feature_major(inputs) if ordered else inputs
    grad = torch.randn(9, layer.out_features, device="cuda")
    torch.testing.assert_close(layer(inputs), dense(inputs), rtol=1e-4, atol=1e-4)
    got, expected = gradients(layer, inputs, grad), gradients(dense, inputs, grad)
    torch.testing.assert_close(got[0], expected[0], rtol=1e-4, atol=1e-4)
    weights = BlockDiagonalLinear.from_linear(with_weight(dense, expected[1]), blocks_of(layer)).weight
    torch.testing.assert_close(got[1], weights.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got[2], expected[2], rtol=1e-4, atol=1e-4)


# From and to dense layers; the start


@pytest.mark.parametrize("blocks", [2, [(1, 2), (3, 4)]])
@pytest.mark.parametrize("bias", [True, False])
def test_from_linear_keeps_the_diagonal_blocks_and_to_dense_gives_them_back(bias, blocks):
    dense = nn.Linear(6, 4, bias=bias)
    layer = BlockDiagonalLinear.from_linear(dense, blocks)
    row, column = layer.block_height[0], layer.block_width[0]
    torch.testing.assert_close(layer.weight[1], dense.weight[row:, column:])
    with torch.no_grad():
        dense.weight[:row, column:] = dense.weight[row:, :column] = 0
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


@pytest.mark.parametrize(
    ("arguments", "options", "told"),
    [
        ((6, 4, 2), {}, "in_features=6, out_features=4, blocks=2, bias=True"),
        (
            (6, 4, 2, False),
            {"shuffle": "random", "activation": "relu"},
            "in_features=6, out_features=4, blocks=2, bias=False, shuffle='random', activation='relu'",
        ),
        ((5, 4, [(1, 2), (3, 3)]), {}, "in_features=5, out_features=4, blocks=[(1, 2), (3, 3)], bias=True"),
    ],
)
def test_repr_tells_the_blocks(arguments, options, told):
    assert repr(BlockDiagonalLinear(*arguments, **options)) == f"BlockDiagonalLinear({told})"


# Bad input


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((6, 4, 0), {}, "blocks must be at least 1, got 0"),
        ((0, 4, 1), {}, "in_features must be at least 1, got 0"),
        ((6, -4, 1), {}, "out_features must be at least 1, got -4"),
        ((6, 4, 3), {}, "blocks must divide out_features: 3 does not divide 4"),
        ((5, 4, 2), {}, "blocks must divide in_features: 2 does not divide 5"),
        ((6, 4, [(2, 3), (2, 2)]), {}, r"must sum to \(out_features, in_features\) = \(4, 6\), got \(4, 5\)"),
        ((6, 4, []), {}, r"must sum to \(out_features, in_features\) = \(4, 6\), got \(0, 0\)"),
        ((6, 4, [(4, 6), (0, 0)]), {}, "block 1 must be at least 1 x 1, got 0 x 0"),
        ((6, 4, 2), {"shuffle": "riffle"}, "shuffle must be one of None, 'random', 'interleave', got 'riffle'"),
        ((5, 4, [(1, 2), (3, 3)]), {"shuffle": "random"}, "shuffle='random' needs equal blocks"),
        ((6, 4, 2), {"activation": "rely"}, "activation must be a function or one of relu, sigmoid, tanh, got 'rely'"),
    ],
)
def test_bad_arguments_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        BlockDiagonalLinear(*arguments, **options)


def test_a_number_of_blocks_is_whole():
    with pytest.raises(TypeError):
        BlockDiagonalLinear(6, 4, 2.0)


@pytest.mark.parametrize("make", LAYERS)
def test_inputs_of_another_size_are_refused(make):
    layer = make()
    with pytest.raises(ValueError, match=f"last axis must be {layer.in_features}, got a tensor of"):
        layer(torch.ones(2, layer.in_features + 1, dtype=torch.float64))
    with pytest.raises(ValueError, match="last axis must be"):
        layer(torch.tensor(1.0, dtype=torch.float64))


def test_rules_name_sizes_that_merging_keeps():
    for blocks, out, width in SHAPES.values():
        count = products_by_rule._neighbours(blocks, out, width)
        assert not count or blocks % count == 0
    assert [products_by_rule._neighbours(*shape) for shape in ((512, 4, 4), (100, 5, 8), (7, 3, 2), (11, 3, 2))] == [
        4,
        4,
        7,
        0,
    ]
