import copy
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from rmtnet.layers.dynamic import DynamicBlockSparseLinear, counting_open
from rmtnet.layers.gating import set_sparsity
from rmtnet.layers.recurrent.dynamic_lstm import DynamicBlockSparseLSTM
from rmtnet.layers.recurrent.qrnn import QRNN
from rmtnet.matrices import matrices


def leaf(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def assert_same(ours, theirs, **tolerances):
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, **(tolerances or {"rtol": 1e-10, "atol": 1e-12}))


def blocks_of(grid, rows, columns):
    """(out, in) -> (blocks, rows, columns), row-major."""
    return grid.unflatten(1, (-1, columns)).unflatten(0, (-1, rows)).transpose(1, 2).flatten(0, 1)


def dense(matrix, blocks):
    """Blocks, row-major, as (out, in)."""
    _, height, width = blocks.shape
    grid = blocks.unflatten(0, (matrix.out_features // height, matrix.in_features // width))
    return grid.transpose(1, 2).flatten(2).flatten(0, 1)


def sister(inputs=4, hidden=6, block=(3, 2), sparsity=0.0, **options):
    """A dynamic LSTM whose gates do not depend on their inputs, and torch's LSTM with the gated weights."""
    torch.manual_seed(0)
    layer = DynamicBlockSparseLSTM(inputs, hidden, block=block, sparsity=sparsity, dtype=torch.float64, **options)
    names = ("num_layers", "bias", "batch_first", "dropout", "bidirectional")
    lstm = nn.LSTM(inputs, hidden, **{name: getattr(layer, name) for name in names}, dtype=torch.float64)
    with torch.no_grad():
        for name, matrix in layer.named_children():
            for parameter in matrix.gate.parameters():
                parameter.zero_()
            gates = matrix.gates(torch.zeros(1, matrix.in_features, dtype=torch.float64))[0]
            getattr(lstm, name).copy_(dense(matrix, matrix.weight * gates[:, None, None]))
            if matrix.bias is not None:
                getattr(lstm, name.replace("weight", "bias")).copy_(matrix.bias)
    return layer, lstm


def gated_gradients(layer, lstm):
    """Of each weight and bias, ours and those that torch's say: of a gated weight the gate times its gradient."""
    for name, matrix in layer.named_children():
        gates = matrix.gates(torch.zeros(1, matrix.in_features, dtype=torch.float64))[0, :, None, None]
        yield matrix.weight.grad, gates * blocks_of(getattr(lstm, name).grad, *matrix.weight.shape[1:])
        if matrix.bias is not None:
            yield matrix.bias.grad, getattr(lstm, name.replace("weight", "bias")).grad


def run(lstm, *inputs):
    """Outputs and final states, and the gradients of a random sum of them."""
    output, (h, c) = lstm(*inputs)
    flat = output.data if isinstance(output, PackedSequence) else output
    generator = torch.Generator().manual_seed(3)
    scores = [torch.rand(value.shape, generator=generator, dtype=torch.float64) for value in (flat, h, c)]
    lstm.zero_grad()
    sum((score * value).sum() for score, value in zip(scores, (flat, h, c), strict=True)).backward()
    return flat, h, c


@settings(max_examples=40)
@given(
    layers=st.integers(1, 3),
    bias=st.booleans(),
    batch_first=st.booleans(),
    bidirectional=st.booleans(),
    block=st.sampled_from([(3, 2), (8, 1), (24, 2)]),
    sparsity=st.sampled_from([0.0, 0.5]),
    steps=st.integers(1, 4),
    batch=st.integers(1, 3),
    with_state=st.booleans(),
)
def test_with_constant_gates_it_is_the_lstm_of_torch(
    layers, bias, batch_first, bidirectional, block, sparsity, steps, batch, with_state
):
    options = {"num_layers": layers, "bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}
    layer, lstm = sister(block=block, sparsity=sparsity, **options)
    inputs = leaf(*((batch, steps) if batch_first else (steps, batch)), 4)
    state = [leaf(layers * (1 + bidirectional), batch, 6) for _ in range(2)] if with_state else []
    leaves = [inputs, *state]
    arguments = (inputs, tuple(state)) if with_state else (inputs,)
    expected = run(lstm, *arguments)
    wanted = [each.grad.clone() for each in leaves]
    for each in leaves:
        each.grad = None
    assert_same(run(layer, *arguments), expected)
    assert_same([each.grad for each in leaves], wanted)
    assert_same(*zip(*gated_gradients(layer, lstm), strict=True))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("with_state", [False, True])
def test_packed_sequences_are_torch_s(bidirectional, with_state):
    layer, lstm = sister(num_layers=2, bidirectional=bidirectional)
    packed = pack_sequence([torch.randn(n, 4, dtype=torch.float64) for n in (2, 4, 1, 4)], enforce_sorted=False)
    state = [(leaf(2 * (1 + bidirectional), 4, 6), leaf(2 * (1 + bidirectional), 4, 6))] if with_state else []
    assert_same(run(layer, packed, *state), run(lstm, packed, *state))
    assert_same(*zip(*gated_gradients(layer, lstm), strict=True))


def gated(matrix, rows, told):
    """The definition: each block times its gate, row by row."""
    blocks = matrix.weight * matrix.gates(told)[..., None, None]
    products = torch.stack([dense(matrix, own) @ row for own, row in zip(blocks, rows, strict=True)])
    return products + matrix.bias


def reference(layer, inputs):
    """Each step of each layer as the paper has it: x gates the input weights, h the recurrent ones."""
    for k in range(layer.num_layers):
        input, recurrent = (layer.get_submodule(f"weight_{kind}_l{k}") for kind in ("ih", "hh"))
        h = c = inputs.new_zeros(inputs.shape[1], layer.hidden_size)
        hidden = []
        for x in inputs:
            i, f, g, o = (gated(input, x, x) + gated(recurrent, h, h)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            hidden.append(h)
        inputs = torch.stack(hidden)
    return inputs, c


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("gating", [{}, {"gate_features": 2}, {"gate_hidden": 5}])
def test_inputs_gate_the_input_weights_and_states_the_recurrent_ones(batch, sparsity, gating):
    torch.manual_seed(0)
    options = {"num_layers": 2, "block": (3, 2), "sparsity": sparsity, "dtype": torch.float64, **gating}
    layer = DynamicBlockSparseLSTM(4, 6, **options)
    inputs = leaf(5, batch, 4)
    expected = reference(layer, inputs)
    output, (_, c) = layer(inputs)
    assert_same([output, c[-1]], expected)
    leaves = [inputs, *layer.parameters()]
    score = torch.randn_like(output)
    found, wanted = (torch.autograd.grad(each, leaves, score) for each in (output, expected[0]))
    assert_same(found, wanted)


def made(kind, **options):
    if kind == "lstm":
        return DynamicBlockSparseLSTM(64, 64, 2, block=16, sparsity=0.75, **options)
    linear = partial(DynamicBlockSparseLinear, block=16, sparsity=0.75)
    return QRNN(64, 64, 2, window=2, linear=linear, **options)


@pytest.mark.parametrize("kind", ["lstm", "qrnn"])
@pytest.mark.parametrize("batch", [1, 3, 40])
def test_skipping_closed_blocks_gives_the_same_at_once_and_step_by_step(kind, batch):
    torch.manual_seed(0)
    model = made(kind)
    inputs = torch.randn(4, batch, 64)
    expected, end = model(inputs)
    assert expected.requires_grad
    state, outputs = None, []
    with torch.no_grad():
        whole, _ = model(inputs)
        for step in inputs.split(1):
            output, state = model(step, state)
            outputs.append(output)
    assert_same([whole, torch.cat(outputs)], [expected.detach()] * 2, rtol=1e-5, atol=1e-6)
    assert_same(state[:1], [each.detach() for each in end[:1]], rtol=1e-5, atol=1e-6)


def share_open(matrix, told):
    """Of the blocks on their grid."""
    return (matrix.gates(told.flatten(0, -2)) != 0).double().mean(0).view(matrix.grid)


def test_open_gates_are_counted_where_they_are():
    torch.manual_seed(0)
    lstm = made("lstm")
    inputs = torch.randn(5, 3, 64)
    with counting_open(lstm), torch.no_grad():
        output, _ = lstm(inputs)
        before = torch.cat([torch.zeros(1, 3, 64), output[:-1]])
        found = lstm.weight_ih_l0.open_fraction, lstm.weight_hh_l1.open_fraction
    expected = share_open(lstm.weight_ih_l0, inputs), share_open(lstm.weight_hh_l1, before)
    assert_same([each.double() for each in found], expected, rtol=0, atol=1e-6)


def test_a_packed_sequence_s_missing_steps_open_no_gates():
    torch.manual_seed(0)
    qrnn = QRNN(64, 64, linear=partial(DynamicBlockSparseLinear, block=16, sparsity=0.75))
    sequences = [torch.randn(length, 64) for length in (5, 2)]
    with counting_open(qrnn), torch.no_grad():
        qrnn(pack_sequence(sequences))
    expected = share_open(qrnn.linears[0], torch.cat(sequences)[None])
    assert_same([qrnn.linears[0].open_fraction.double()], [expected], rtol=0, atol=1e-6)


def test_a_sequence_cut_in_two_gives_the_same_as_the_whole():
    layer = DynamicBlockSparseLSTM(4, 6, 2, block=(3, 2), dtype=torch.float64, batch_first=True)
    inputs = leaf(2, 5, 4)
    whole, end = layer(inputs)
    first, state = layer(inputs[:, :2])
    second, last = layer(inputs[:, 2:], state)
    assert_same([torch.cat([first, second], 1), *last], [whole, *end])


def test_dropout_stands_between_layers():
    layer, lstm = sister(num_layers=2, dropout=1.0)
    inputs = leaf(5, 2, 4)
    assert_same([layer(inputs)[0]], [lstm(inputs)[0]])
    assert_same([layer.eval()(inputs)[0]], [lstm.eval()(inputs)[0]])
    with pytest.warns(UserWarning, match="there is one only"):
        DynamicBlockSparseLSTM(4, 6, block=2, dropout=0.5)


def test_dropped_weights_are_recurrent_and_one_draw_for_all_steps():
    layer, lstm = sister(weight_drop=1.0)
    inputs = leaf(5, 2, 4)
    nn.init.zeros_(lstm.weight_hh_l0)
    assert_same([layer(inputs)[0]], [lstm(inputs)[0]])
    layer, lstm = sister(weight_drop=0.5)
    assert_same([layer.eval()(inputs)[0]], [lstm(inputs)[0]])
    torch.manual_seed(1)
    output, _ = layer.train()(inputs)
    output.sum().backward()
    dropped = layer.weight_hh_l0.weight.grad == 0  # in all steps
    assert 0.3 < dropped.double().mean() < 0.7
    torch.manual_seed(1)
    kept = nn.functional.dropout(layer.weight_hh_l0.weight, 0.5)
    assert torch.equal(kept == 0, dropped)
    with torch.no_grad():
        lstm.weight_hh_l0.copy_(dense(layer.weight_hh_l0, kept))
    assert_same([output], [lstm(inputs)[0]])


def test_it_starts_as_torch_s_lstm_does():
    layer = DynamicBlockSparseLSTM(64, 256, 2, block=64)
    for matrix in layer.children():
        for parameter in (matrix.weight, matrix.bias):
            assert parameter.abs().max() <= 1 / 16
            torch.testing.assert_close(parameter.std().item(), 1 / 16 / 3**0.5, rtol=0.1, atol=0)


def test_a_changed_sparsity_is_that_of_all_matrices_and_is_stored():
    layer = DynamicBlockSparseLSTM(4, 6, 2, block=(3, 2), sparsity=0.0)
    set_sparsity(layer, 0.75)
    inputs = torch.rand(3, 1, 4)
    for matrix in layer.children():
        opened = matrix.gates(torch.rand(10, matrix.in_features)) > 0
        assert (opened.sum(1) == matrix.weight.shape[0] // 4).all()
    for other in (copy.deepcopy(layer), DynamicBlockSparseLSTM(4, 6, 2, block=(3, 2))):
        other.load_state_dict(layer.state_dict())
        assert_same([other(inputs)[0]], [layer(inputs)[0]])


@pytest.mark.parametrize("make", ["lstm", "qrnn"])
def test_the_recorder_finds_the_matrices(make):
    if make == "lstm":
        model = DynamicBlockSparseLSTM(4, 6, 2, block=(3, 2))
    else:
        model = QRNN(4, 6, 2, linear=partial(DynamicBlockSparseLinear, block=(3, 2), sparsity=0.5))
    found = {matrix.name: matrix.shape for matrix in matrices(model)}
    for name, matrix in model.named_modules():
        if isinstance(matrix, DynamicBlockSparseLinear):
            assert found[name] == tuple(matrix.weight.shape)


def test_it_compiles_whole_and_not_again_for_another_sparsity():
    torch.manual_seed(0)
    layer = DynamicBlockSparseLSTM(4, 6, block=(3, 2), dtype=torch.float64)
    torch.compiler.reset()  # what other tests compiled of the same class
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    inputs = leaf(2, 3, 4)
    leaves = [inputs, *layer.parameters()]
    with torch._dynamo.config.patch(error_on_recompile=True):
        for sparsity in (0.5, 0.0, 0.9):
            set_sparsity(layer, sparsity)
            (output, state), (expected, wanted) = compiled(inputs), layer(inputs)
            assert_same([output, *state], [expected, *wanted])
            assert_same(torch.autograd.grad(output.sum(), leaves), torch.autograd.grad(expected.sum(), leaves))


@pytest.mark.parametrize("kind", ["lstm", "qrnn"])
def test_autocast_leaves_it_close(kind):
    torch.manual_seed(0)
    model = made(kind)
    set_sparsity(model, 0.0)  # no gate that rounding opens or closes
    inputs = torch.randn(5, 3, 64)
    with torch.autocast("cpu", torch.bfloat16):
        output, state = model(inputs)
        model(inputs, state)[0].float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert_same([output.float()], [model(inputs)[0]], rtol=0, atol=0.03)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_qrnn_takes_dynamic_maps(bidirectional):
    torch.manual_seed(0)
    linear = partial(DynamicBlockSparseLinear, block=(3, 2), sparsity=0.5)
    qrnn = QRNN(4, 6, 2, window=2, bidirectional=bidirectional, linear=linear, dtype=torch.float64)
    plain = QRNN(4, 6, 2, window=2, bidirectional=bidirectional, dtype=torch.float64)

    class Gated(nn.Module):
        def __init__(self, matrix):
            super().__init__()
            self.matrix = matrix

        def forward(self, rows):
            flat = rows.flatten(0, -2)
            return gated(self.matrix, flat, flat).view(*rows.shape[:-1], -1)

    plain.linears = nn.ModuleList(Gated(matrix) for matrix in qrnn.linears)
    inputs = leaf(5, 2, 4)
    (output, state), (expected, wanted) = qrnn(inputs), plain(inputs)
    assert_same([output, state.c], [expected, wanted.c])
    leaves = [inputs, *qrnn.parameters()]
    assert_same(torch.autograd.grad(output.sum(), leaves), torch.autograd.grad(expected.sum(), leaves))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"input_size": 0}, "input_size must be at least 1, got 0"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"block": 4}, "block"),
        ({"block": (5, 2)}, "block"),
        ({"sparsity": 1.0}, "sparsity"),
        ({"proj_size": 2}, "proj_size must be 0: a DynamicBlockSparseLSTM has no projections, got 2"),
        ({"dropout": 2.0}, r"dropout must be a probability in \[0, 1\], got 2.0"),
        ({"weight_drop": -1.0}, r"weight_drop must be a probability in \[0, 1\], got -1.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        DynamicBlockSparseLSTM(**({"input_size": 4, "hidden_size": 6, "num_layers": 2, "block": 2} | arguments))


def test_inputs_that_do_not_fit_are_refused():
    layer = DynamicBlockSparseLSTM(4, 6, block=2)
    with pytest.raises(RuntimeError, match="input must have 4 features, got 3"):
        layer(torch.ones(5, 2, 3))
    with pytest.raises(RuntimeError, match="sequence length to be larger than 0"):
        layer(torch.ones(0, 2, 4))
    with pytest.raises(RuntimeError, match=r"initial h must be \(1, 2, 6\), got \(1, 3, 6\)"):
        layer(torch.ones(5, 2, 4), (torch.ones(1, 3, 6), torch.ones(1, 2, 6)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["lstm", "qrnn"])
@pytest.mark.parametrize("batch", [1, 20])
def test_on_a_gpu_it_is_what_it_is_on_a_cpu(kind, batch):
    torch.manual_seed(0)
    model = made(kind)
    other = copy.deepcopy(model).cuda()
    inputs = torch.randn(5, batch, 64)
    expected, output = model(inputs)[0], other(inputs.cuda())[0]
    assert_same([output.cpu()], [expected], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert_same([other(inputs.cuda())[0].cpu()], [expected], rtol=1e-4, atol=1e-5)
    output.sum().backward()
    expected.sum().backward()
    for our, their in zip(other.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(our.grad.cpu(), their.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_goes_through_a_cuda_graph():
    torch.manual_seed(0)
    lstm = made("lstm", device="cuda").eval()
    words = torch.randn(6, 1, 1, 64, device="cuda")
    word, state = (
        torch.empty_like(words[0]),
        (torch.zeros(2, 1, 64, device="cuda"), torch.zeros(2, 1, 64, device="cuda")),
    )
    with torch.no_grad():
        lstm(word.zero_(), state)  # kernels are made before
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output, after = lstm(word, state)
            for old, new in zip(state, after, strict=True):
                old.copy_(new)
        for each in state:
            each.zero_()
        outputs = []
        for each in words:
            word.copy_(each)
            graph.replay()
            outputs.append(output.clone())
        expected, _ = lstm(words[:, 0])
    assert_same([torch.cat(outputs)], [expected], rtol=1e-4, atol=1e-5)
